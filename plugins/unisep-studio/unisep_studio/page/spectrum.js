// Spectrograms: pieces of the sound that is shown go to a worker, and come back as levels that are drawn here.

import { prepare } from "./waveform.js";

const N = 2048;
const MAX_COLUMNS = 800;
// from the background through the colours of the lanes to white: position and [red, green, blue]
const COLOURS = [
  [0, [16, 17, 26]],
  [0.35, [52, 40, 118]],
  [0.6, [150, 60, 140]],
  [0.8, [240, 122, 88]],
  [1, [255, 240, 200]],
];
const worker = new Worker(new URL("./spectrum-worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let lastId = 0;

worker.onmessage = ({ data: { id, levels, rows } }) => {
  waiting.get(id)?.(levels, rows);
  waiting.delete(id);
};

function ask(pieces, rateHz) {
  return new Promise((resolve) => {
    waiting.set(++lastId, (levels, rows) => resolve({ levels, rows }));
    worker.postMessage({ id: lastId, pieces, rateHz }, [pieces.buffer]);
  });
}

function colourOf(level) {
  const next = Math.max(
    1,
    COLOURS.findIndex(([position]) => position >= level),
  );
  const [[from, low], [to, high]] = [COLOURS[next - 1], COLOURS[next]];
  return low.map((value, index) => value + ((high[index] - value) * (level - from)) / (to - from));
}

// one number a pixel, as the image has them in memory: red, green, blue and no transparency
const PALETTE = new Uint32Array(
  new Uint8ClampedArray(Array.from({ length: 256 }, (_, level) => [...colourOf(level / 255), 255]).flat()).buffer,
);

/** Draw what is shown of a buffer; `isCurrent` says whether that is still wanted when it is ready. */
export async function drawSpectrogram(canvas, buffer, view, isCurrent) {
  const n = Math.min(MAX_COLUMNS, Math.max(1, Math.round(canvas.getBoundingClientRect().width)));
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  const pieces = new Float32Array(n * N);
  for (let column = 0; column < n; column++) {
    const seconds = view.start + ((column + 0.5) / n) * (view.stop - view.start);
    const first = Math.round(seconds * buffer.sampleRate) - N / 2;
    for (const samples of channels) {
      for (let index = Math.max(0, -first); index < N && first + index < samples.length; index++) {
        pieces[column * N + index] += samples[first + index] / channels.length;
      }
    }
  }
  const { levels, rows } = await ask(pieces, buffer.sampleRate);
  if (!isCurrent()) return;
  const image = new ImageData(n, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let index = 0; index < pixels.length; index++) pixels[index] = PALETTE[levels[index]];
  const context = prepare(canvas);
  const small = new OffscreenCanvas(n, rows);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}
