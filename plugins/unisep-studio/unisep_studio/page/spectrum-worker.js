// Turns pieces of sound into columns of a spectrogram, beside the page, so that it stays quick.

const N = 2048;
const ROWS = 96;
const LOWEST_HZ = 40;
const window_ = Float32Array.from({ length: N }, (_, index) => 0.5 - 0.5 * Math.cos((2 * Math.PI * index) / N));
const cosines = Float32Array.from({ length: N / 2 }, (_, index) => Math.cos((2 * Math.PI * index) / N));
const sines = Float32Array.from({ length: N / 2 }, (_, index) => Math.sin((2 * Math.PI * index) / N));

/** Fast Fourier transform in place, radix 2, decimation in time. */
function transform(real, imaginary) {
  for (let index = 1, reversed = 0; index < N; index++) {
    let bit = N >> 1;
    for (; reversed & bit; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (index < reversed) [real[index], real[reversed]] = [real[reversed], real[index]];
  }
  for (let size = 2; size <= N; size *= 2) {
    const half = size / 2;
    for (let start = 0; start < N; start += size) {
      for (let k = 0; k < half; k++) {
        const cosine = cosines[(k * N) / size];
        const sine = sines[(k * N) / size];
        const [a, b] = [start + k, start + k + half];
        const x = real[b] * cosine + imaginary[b] * sine;
        const y = imaginary[b] * cosine - real[b] * sine;
        [real[b], imaginary[b]] = [real[a] - x, imaginary[a] - y];
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}

/** Return levels as bytes, from -90 dB to 0 dB; rows by the logarithm of the frequency, the highest first. */
function columns(pieces, rateHz) {
  const n = pieces.length / N;
  const levels = new Uint8ClampedArray(n * ROWS);
  const highest = rateHz / 2;
  const edges = Array.from(
    { length: ROWS + 1 },
    (_, row) => (LOWEST_HZ * (highest / LOWEST_HZ) ** (row / ROWS) * N) / rateHz,
  );
  for (let column = 0; column < n; column++) {
    const real = pieces.slice(column * N, (column + 1) * N).map((value, index) => value * window_[index]);
    const imaginary = new Float32Array(N);
    transform(real, imaginary);
    for (let row = 0; row < ROWS; row++) {
      const first = Math.floor(edges[row]);
      let power = 0;
      for (let bin = first; bin < Math.max(first + 1, Math.floor(edges[row + 1])); bin++) {
        power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
      }
      const decibels = 10 * Math.log10(power / (N / 4) ** 2 + 1e-12);
      levels[(ROWS - 1 - row) * n + column] = (255 * (decibels + 90)) / 90;
    }
  }
  return levels;
}

self.onmessage = ({ data: { id, pieces, rateHz } }) => {
  const levels = columns(pieces, rateHz);
  self.postMessage({ id, levels, rows: ROWS }, [levels.buffer]);
};
