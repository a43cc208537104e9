// Separation in the page: models by onnxruntime-web, segments cut and joined as unisep's engine does it.

import * as ort from "./ort.wasm.min.mjs";

import { WordPiece } from "./wordpiece.js";

// Threads need a page that is isolated from others: headers Cross-Origin-Opener-Policy and -Embedder-Policy.
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const OVERLAP_FRACTION = 0.25;

export class Separator {
  static async load(folder = ".") {
    const open = (file) => ort.InferenceSession.create(`${folder}/${file}`);
    const vocabulary = await (await fetch(`${folder}/vocab.txt`)).text();
    return new Separator(await open("film.onnx"), await open("text.onnx"), new WordPiece(vocabulary));
  }

  constructor(model, textTower, tokens) {
    Object.assign(this, { model, textTower, tokens });
    const [, , nSamples] = model.inputMetadata.find((input) => input.name === "mixture").shape;
    this.segmentSamples = nSamples;
    this.sampleRateHz = 44_100;
  }

  // A unit vector for a phrase such as "electric guitar".
  async vector(text) {
    const ids = this.tokens.encode(text);
    const tensor = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    return (await this.textTower.run({ ids: tensor })).vector.data;
  }

  // Two channels in, { target, rest, presence } out; `onProgress` is told the part that is done.
  async separate([left, right], text, onProgress = () => {}) {
    const n = left.length;
    const length = this.segmentSamples;
    const hop = Math.max(Math.floor((1 - OVERLAP_FRACTION) * length), Math.ceil(length / 2));
    const queries = new ort.Tensor("float32", await this.vector(text), [1, (await this.vector(text)).length]);
    const target = [new Float32Array(n), new Float32Array(n)];
    const presence = [];
    let nKnown = 0; // samples that earlier segments have reached
    for (let start = 0; start < n; start += hop) {
      const stop = Math.min(start + length, n);
      const before = Math.floor((length - (stop - start)) / 2); // a short segment lies in the middle of what is heard
      const heard = new Float32Array(2 * length);
      [left, right].forEach((channel, index) => {
        const from = start - before;
        const inside = channel.subarray(Math.max(0, from), Math.min(n, from + length));
        heard.set(inside, index * length + Math.max(0, -from));
      });
      if (heard.some((sample) => sample !== 0)) {
        const mixture = new ort.Tensor("float32", heard, [1, 2, length]);
        const outputs = await this.model.run({ mixture, queries });
        presence.push(outputs.presence.data[0]);
        blend(target, outputs.sources.data, { start, stop, before, length, nKnown, nOverlap: length - hop });
      } else {
        presence.push(0);
        blend(target, heard, { start, stop, before, length, nKnown, nOverlap: length - hop });
      }
      nKnown = stop;
      onProgress(stop / n);
    }
    const rest = [left, right].map((channel, index) => channel.map((sample, at) => sample - target[index][at]));
    return { target, rest, presence };
  }
}

// Put a segment's output in its place, with a linear crossfade where one was before.
function blend(target, output, { start, stop, before, length, nKnown, nOverlap }) {
  target.forEach((channel, index) => {
    for (let at = start; at < stop; at += 1) {
      const value = output[index * length + before + at - start];
      const share = at < nKnown ? (at - start + 1) / (nOverlap + 1) : 1;
      channel[at] += share * (value - channel[at]);
    }
  });
}

// The samples of a file, two channels at the model's rate.
export async function decoded(buffer, sampleRateHz) {
  const context = new OfflineAudioContext(2, 1, sampleRateHz);
  const audio = await context.decodeAudioData(buffer);
  return [0, Math.min(1, audio.numberOfChannels - 1)].map((channel) => audio.getChannelData(channel));
}

// A wav file of 32-bit floats.
export function wav([left, right], sampleRateHz) {
  const view = new DataView(new ArrayBuffer(44 + 8 * left.length));
  const text = (at, letters) => [...letters].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 8 * left.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 3, true);
  view.setUint16(22, 2, true);
  view.setUint32(24, sampleRateHz, true);
  view.setUint32(28, 8 * sampleRateHz, true);
  view.setUint16(32, 8, true);
  view.setUint16(34, 32, true);
  text(36, "data");
  view.setUint32(40, 8 * left.length, true);
  for (let at = 0; at < left.length; at += 1) {
    view.setFloat32(44 + 8 * at, left[at], true);
    view.setFloat32(48 + 8 * at, right[at], true);
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}
