// The mix as it is heard, as a file: rendered here, and turned into other formats by the server.

import * as api from "./api.js";
import { byId, download, el, showError } from "./dom.js";
import { TEXTS } from "./texts.js";
import { wavOf } from "./wav.js";

export function openMix(studio) {
  const dialog = byId("mix");
  const format = el(
    "select",
    { "aria-label": TEXTS.format },
    ...(studio.isInTab ? ["wav"] : ["wav", "flac", "mp3"]).map((name) => el("option", {}, name)),
  );
  const save = el("button", { type: "button", class: "primary" }, TEXTS.save);
  const close = el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, TEXTS.close);
  save.addEventListener("click", async () => {
    save.disabled = true;
    save.textContent = TEXTS.rendering;
    try {
      await saveMix(studio, format.value);
    } catch (error) {
      showError(error);
    }
    dialog.close();
  });
  dialog.setAttribute("aria-label", TEXTS.mixTitle);
  dialog.replaceChildren(
    el("h2", {}, TEXTS.mixTitle),
    el("p", { class: "muted" }, TEXTS.mixHelp),
    el("div", { class: "row" }, format, save, close),
  );
  dialog.showModal();
}

async function saveMix(studio, format) {
  const wav = wavOf(await studio.player.render());
  const stem = `${studio.recording.name.replace(/\.[^.]*$/, "")} ${TEXTS.mixName}`;
  if (format === "wav") return download(wav, `${stem}.wav`);
  const { id } = await api.upload(wav, `${stem}.wav`);
  download(new Blob([await api.bytes(api.audioPath(id, format))]), `${stem}.${format}`);
  await api.deleteRecording(id);
}
