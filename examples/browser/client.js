// What a page imports: sound in and out, and a worker that separates meanwhile. The studio of unisep imports it too.

export const SAMPLE_RATE_HZ = 44_100;

let worker = null;
let last = Promise.resolve();

// Two channels and texts in, { targets, rest, presence } out, one recording after another. `onProgress` is told the
// part that is done, 0 once the models are loaded; `signal` ends it at once.
export function separate(channels, texts, { onProgress = () => {}, signal } = {}) {
  const result = last.then(() => run(channels, texts, onProgress, signal));
  last = result.catch(() => {});
  return result;
}

function run(channels, texts, onProgress, signal) {
  signal?.throwIfAborted();
  worker ??= new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const over = new AbortController();
  return new Promise((resolve, reject) => {
    const fail = (error) => {
      worker.terminate(); // the next one begins afresh
      worker = null;
      reject(error);
    };
    signal?.addEventListener("abort", () => fail(signal.reason), { signal: over.signal });
    worker.onerror = (event) => fail(new Error(event.message || "The worker cannot be loaded."));
    worker.onmessage = ({ data: { progress, result, error } }) => {
      if (progress !== undefined) return onProgress(progress);
      if (error) return fail(new Error(error));
      resolve(result);
    };
    worker.postMessage({ channels, texts });
  }).finally(() => over.abort());
}

// The samples of a file, two channels at the models' rate.
export async function decoded(file) {
  const context = new OfflineAudioContext(2, 1, SAMPLE_RATE_HZ);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  return [0, Math.min(1, audio.numberOfChannels - 1)].map((channel) => audio.getChannelData(channel));
}

// A wav file of 32-bit floats.
export function wav([left, right]) {
  const view = new DataView(new ArrayBuffer(44 + 8 * left.length));
  const text = (at, letters) => [...letters].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 8 * left.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 3, true);
  view.setUint16(22, 2, true);
  view.setUint32(24, SAMPLE_RATE_HZ, true);
  view.setUint32(28, 8 * SAMPLE_RATE_HZ, true);
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
