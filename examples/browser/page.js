// What the page's controls do.

import { Separator, decoded, wav } from "./separate.js";

const [drop, file, form, text, status, results] = ["drop", "file", "form", "text", "status", "results"].map((id) =>
  document.getElementById(id),
);
let recording = null;
const loading = Separator.load();
loading.then(
  () => say("Ready. Nothing that you drop here leaves this page."),
  (error) => say(`The models cannot be loaded: ${error.message}`),
);

function say(sentence) {
  status.textContent = sentence;
}

async function take(chosen) {
  try {
    const { sampleRateHz } = await loading;
    recording = { name: chosen.name, channels: await decoded(await chosen.arrayBuffer(), sampleRateHz) };
    say(`${chosen.name}: ${(recording.channels[0].length / sampleRateHz).toFixed(1)} s`);
  } catch {
    recording = null;
    say(`${chosen.name} cannot be decoded by this browser.`);
  }
}

function show(name, channels, sampleRateHz) {
  const url = URL.createObjectURL(wav(channels, sampleRateHz));
  const [section, title, player, link] = ["section", "h2", "audio", "a"].map((tag) => document.createElement(tag));
  title.textContent = name;
  Object.assign(player, { controls: true, src: url });
  Object.assign(link, { href: url, download: `${name}.wav`, textContent: "Download" });
  section.append(title, player, link);
  results.append(section);
}

drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
file.addEventListener("change", () => file.files.length && take(file.files[0]));

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!recording) return say("Drop a recording first.");
  if (!/[\p{L}\p{N}]/u.test(text.value)) return say("Write what to listen for, such as piano.");
  const separator = await loading;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const began = performance.now();
    const told = (part) => say(`${Math.round(100 * part)} %`);
    const { target, rest, presence } = await separator.separate(recording.channels, text.value, told);
    const seconds = (performance.now() - began) / 1000;
    const times = recording.channels[0].length / separator.sampleRateHz / seconds;
    results.replaceChildren();
    show(text.value, target, separator.sampleRateHz);
    show("rest", rest, separator.sampleRateHz);
    say(`Done in ${seconds.toFixed(1)} s, ${times.toFixed(2)} times real time. Presence ${Math.max(...presence).toFixed(2)}`);
  } finally {
    button.disabled = false;
  }
});
