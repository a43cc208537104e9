// Writes WAV files of 32-bit floats, as the server does, so that nothing is clipped or rounded on the way.

/** Return part of an AudioBuffer as a file. */
export function wavOf(buffer, start = 0, stop = buffer.duration) {
  const rate = buffer.sampleRate;
  const [first, last] = [Math.round(start * rate), Math.min(buffer.length, Math.round(stop * rate))];
  const n = buffer.numberOfChannels;
  const nBytes = 4 * n * (last - first);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) =>
    [...letters].forEach((letter, index) => header.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + nBytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 3, true); // floats
  header.setUint16(22, n, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 4 * n * rate, true);
  header.setUint16(32, 4 * n, true);
  header.setUint16(34, 32, true);
  text(36, "data");
  header.setUint32(40, nBytes, true);
  const samples = new Float32Array(n * (last - first));
  for (let channel = 0; channel < n; channel++) {
    const data = buffer.getChannelData(channel);
    for (let index = first; index < last; index++) samples[(index - first) * n + channel] = data[index];
  }
  return new Blob([header, samples], { type: "audio/wav" });
}

/** Return where the loudest `seconds` of a buffer are. */
export function loudestPart(buffer, seconds) {
  const samples = buffer.getChannelData(0);
  const step = Math.max(1, Math.round(buffer.sampleRate / 4));
  const energies = [];
  for (let first = 0; first < samples.length; first += step) {
    let energy = 0;
    for (let index = first; index < Math.min(first + step, samples.length); index += 4) energy += samples[index] ** 2;
    energies.push(energy);
  }
  const nSteps = Math.min(energies.length, Math.round(seconds * 4));
  let sum = energies.slice(0, nSteps).reduce((total, energy) => total + energy, 0);
  let best = { sum, first: 0 };
  for (let first = 1; first + nSteps <= energies.length; first++) {
    sum += energies[first + nSteps - 1] - energies[first - 1];
    if (sum > best.sum) best = { sum, first };
  }
  const start = (best.first * step) / buffer.sampleRate;
  return [start, Math.min(buffer.duration, start + seconds)];
}
