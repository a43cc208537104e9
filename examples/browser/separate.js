// The models under onnxruntime-web, and segments cut and joined as unisep's engine does it.

import { SAMPLE_RATE_HZ } from "./client.js";
import { WordPiece } from "./wordpiece.js";

const OVERLAP_FRACTION = 0.25;
const TOLERANCE = 1e-3; // of the recording's peak, for what WebGPU gives

export class Separator {
  static async load(folder = ".") {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    const hasGpu = Boolean(adapter) && !adapter.info?.isFallbackAdapter; // which is the processor again, and slower
    const ort = await import(hasGpu ? "./ort.webgpu.min.mjs" : "./ort.wasm.min.mjs");
    // Threads need a page that is isolated from others: headers Cross-Origin-Opener-Policy and -Embedder-Policy.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    const open = (file, ...executionProviders) =>
      ort.InferenceSession.create(`${folder}/${file}`, { executionProviders });
    const vocabulary = await (await fetch(`${folder}/vocab.txt`)).text();
    const [model, textTower] = [await open("film.onnx", "wasm"), await open("text.onnx", "wasm")];
    const openOnGpu = hasGpu ? () => open("film.onnx", "webgpu", "wasm") : null;
    return new Separator({ ort, model, textTower, tokens: new WordPiece(vocabulary), openOnGpu });
  }

  constructor(parts) {
    Object.assign(this, parts);
    this.segmentSamples = this.model.inputMetadata.find((input) => input.name === "mixture").shape[2];
  }

  // A unit vector for a phrase such as "electric guitar".
  async vector(text) {
    const ids = this.tokens.encode(text);
    const tensor = new this.ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    return (await this.textTower.run({ ids: tensor })).vector.data;
  }

  // Two channels and texts in; out come two channels for each text in `targets`, the `rest`, and for each text where it
  // is present, as [start, stop, presence] in seconds. `onProgress` is told the part that is done.
  async separate([left, right], texts, onProgress = () => {}) {
    const n = left.length;
    const length = this.segmentSamples;
    const hop = Math.max(Math.floor((1 - OVERLAP_FRACTION) * length), Math.ceil(length / 2));
    const vectors = [];
    for (const text of texts) vectors.push(...(await this.vector(text)));
    const queries = new this.ort.Tensor("float32", vectors, [texts.length, vectors.length / texts.length]);
    const targets = texts.map(() => [new Float32Array(n), new Float32Array(n)]);
    const presence = texts.map(() => []);
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
      const outputs = await this.#outputs(heard, queries, stop === n);
      blend(targets.flat(), outputs.sources, { start, stop, before, length, nKnown, nOverlap: length - hop });
      const [from, to] = [start / SAMPLE_RATE_HZ, stop / SAMPLE_RATE_HZ];
      presence.forEach((parts, index) => parts.push([from, to, outputs.presence[index]]));
      nKnown = stop;
      onProgress(stop / n);
    }
    const rest = [left, right].map((channel, index) =>
      channel.map((sample, at) => targets.reduce((left, target) => left - target[index][at], sample)),
    );
    return { targets, rest, presence };
  }

  async #outputs(heard, queries, isLast) {
    const [nQueries] = queries.dims;
    if (heard.every((sample) => sample === 0)) {
      return { sources: new Float32Array(nQueries * heard.length), presence: new Float32Array(nQueries) };
    }
    const feeds = { mixture: new this.ort.Tensor("float32", heard, [1, 2, heard.length / 2]), queries };
    const { sources, presence } = await this.model.run(feeds);
    if (this.openOnGpu && !isLast) await this.#tryGpu(feeds, sources.data);
    return { sources: sources.data, presence: presence.data };
  }

  // Go on with WebGPU where it gives for a segment what WebAssembly gave: not every driver computes right.
  async #tryGpu(feeds, expected) {
    const open = this.openOnGpu;
    this.openOnGpu = null;
    try {
      const model = await open();
      const found = (await model.run(feeds)).sources.data;
      const peak = feeds.mixture.data.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      if (found.every((sample, at) => Math.abs(sample - expected[at]) <= TOLERANCE * peak)) this.model = model;
    } catch (error) {
      console.warn(`WebGPU is not used: ${error.message}`);
    }
  }
}

// Put a segment's output in its place in every track, with a linear crossfade where one was before.
function blend(tracks, output, { start, stop, before, length, nKnown, nOverlap }) {
  tracks.forEach((track, index) => {
    for (let at = start; at < stop; at += 1) {
      const value = output[index * length + before + at - start];
      const share = at < nKnown ? (at - start + 1) / (nOverlap + 1) : 1;
      track[at] += share * (value - track[at]);
    }
  });
}
