// Recordings that never leave this tab: what api.js has for those of the server, by what examples/browser builds.

import { TEXTS } from "./texts.js";
import { peaksOf } from "./waveform.js";

const MAX_SECONDS = 30;
const RESERVED = ["rest", "mixture"];
const OVERVIEW_LEVEL = 5;
let nJobs = 0;

const client = () => import("/in-tab/client.js"); // there where the server was started with --in-tab

function bufferOf(channels, sampleRate) {
  const buffer = new AudioBuffer({ numberOfChannels: channels.length, length: channels[0].length, sampleRate });
  channels.forEach((channel, index) => buffer.copyToChannel(channel, index));
  return buffer;
}

/** Return a file as the server would describe it, with its sound. */
export async function open(file, name) {
  const { decoded, SAMPLE_RATE_HZ } = await client();
  const channels = await decoded(file).catch(() => {
    throw new Error(TEXTS.cannotDecode);
  });
  const buffer = bufferOf(channels, SAMPLE_RATE_HZ);
  if (buffer.duration > MAX_SECONDS) throw new Error(TEXTS.tooLong(name, buffer.duration));
  return {
    name,
    buffer,
    seconds: buffer.duration,
    sample_rate_hz: buffer.sampleRate,
    n_samples: buffer.length,
    n_channels: buffer.numberOfChannels,
    format: TEXTS.isInTab,
    peaks: { peaks: peaksOf(buffer, OVERVIEW_LEVEL) },
  };
}

/** Take a question; it is computed once it is watched. */
export async function separate(recording, { query }) {
  if (!query?.every((asked) => asked.text)) throw new Error(TEXTS.wordsAlone);
  const reserved = query.find(({ text }) => RESERVED.includes(text.toLowerCase()));
  if (reserved) throw new Error(TEXTS.reserved(reserved.text));
  return { id: `tab-${++nJobs}`, recording, query, options: {}, state: "running", stage: "loading", progress: 0 };
}

/** Compute, and return a function that ends it at once. */
export function watch(answer, onEvent, onEnd) {
  const ending = new AbortController();
  compute(answer, onEvent, ending.signal).then(onEnd, (error) => {
    if (!ending.signal.aborted) onEnd({ state: "failed", error });
  });
  return () => ending.abort();
}

export const cancel = async () => ({ state: "cancelled" }); // ended by who stops watching

async function compute({ recording, query }, onEvent, signal) {
  const module = await client();
  const { buffer } = recording;
  let began = 0;
  const onProgress = (progress) => {
    began ||= performance.now();
    const eta = progress ? ((performance.now() - began) / 1000) * (1 / progress - 1) : null;
    onEvent({ stage: "separating", progress, eta_seconds: eta });
  };
  const channels = [buffer.getChannelData(0), buffer.getChannelData(1)];
  const names = query.map((asked) => asked.text);
  const byName = (values) => Object.fromEntries(names.map((name, index) => [name, values[index]]));
  const { targets, rest, presence } = await module.separate(channels, names, { onProgress, signal });
  const fileOf = (name, kind, sound) => {
    const url = URL.createObjectURL(module.wav(sound));
    return { name, kind, url, buffer: bufferOf(sound, buffer.sampleRate) };
  };
  return {
    state: "done",
    files: [...targets.map((sound, index) => fileOf(names[index], "target", sound)), fileOf("rest", "rest", rest)],
    plan: {},
    presence: byName(presence.map((parts) => Math.max(...parts.map((part) => part[2])))),
    presence_over_time: byName(presence),
  };
}
