// What the page's controls do.

import { SAMPLE_RATE_HZ, decoded, separate, wav } from "./client.js";

const [drop, file, form, text, status, results] = ["drop", "file", "form", "text", "status", "results"].map((id) =>
  document.getElementById(id),
);
let recording = null;

function say(sentence) {
  status.textContent = sentence;
}

async function take(chosen) {
  try {
    recording = { name: chosen.name, channels: await decoded(chosen) };
    say(`${chosen.name}: ${(recording.channels[0].length / SAMPLE_RATE_HZ).toFixed(1)} s`);
  } catch {
    recording = null;
    say(`${chosen.name} cannot be decoded by this browser.`);
  }
}

function show(name, channels) {
  const url = URL.createObjectURL(wav(channels));
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
  const button = form.querySelector("button");
  button.disabled = true;
  say("Loading the models ...");
  try {
    let began;
    const onProgress = (part) => {
      began ??= performance.now();
      say(`${Math.round(100 * part)} %`);
    };
    const { targets, rest, presence } = await separate(recording.channels, [text.value], { onProgress });
    const seconds = (performance.now() - began) / 1000;
    const times = recording.channels[0].length / SAMPLE_RATE_HZ / seconds;
    const present = Math.max(...presence[0].map((part) => part[2]));
    results.replaceChildren();
    show(text.value, targets[0]);
    show("rest", rest);
    say(`Done in ${seconds.toFixed(1)} s, ${times.toFixed(2)} times real time. Presence ${present.toFixed(2)}`);
  } catch (error) {
    say(`This did not work: ${error.message}`);
  } finally {
    button.disabled = false;
  }
});
