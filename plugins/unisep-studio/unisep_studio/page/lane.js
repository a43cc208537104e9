// One result: its controls, its pictures, and who made it.

import * as api from "./api.js";
import { el, press, showError } from "./dom.js";
import { drawSpectrogram } from "./spectrum.js";
import { TEXTS } from "./texts.js";
import { Peaks, Strip, drawWaveform, prepare } from "./waveform.js";
import { loudestPart, wavOf } from "./wav.js";

const ABSENT = 0.5; // presence below which a sound does not seem to be there
const EXAMPLE_SECONDS = 10; // at most, of a lane's sound as an example

export class Lane {
  #drawing = 0;

  constructor(studio, job, file, colour, query) {
    Object.assign(this, { studio, job, file, query, id: `${job.id}/${file.name}` });
    this.title = file.kind === "rest" ? TEXTS.rest : file.name;
    const { recording } = studio;
    const sound = file.buffer ?? `/v1/separations/${job.id}/peaks/${encodeURIComponent(file.name)}`;
    this.peaks = new Peaks(sound, recording.sample_rate_hz, recording.n_samples, () => this.draw());
    this.wave = el("canvas", { class: "picture" });
    this.strip = new Strip(studio.view, studio.player, "", this.wave);
    this.presence = el("canvas", {
      class: "presence",
      role: "img",
      "aria-label": TEXTS.presenceHelp,
      title: TEXTS.presenceHelp,
    });
    this.element = el("section", { class: `lane colour-${colour}`, "aria-label": this.title });
    this.element.append(
      this.#controls(),
      el("div", { class: "pictures" }, this.strip.element, this.#hasPresence ? this.presence : null),
    );
    this.element.append(...this.#notes());
  }

  get #hasPresence() {
    return Boolean(this.job.answer.presence_over_time[this.file.name]?.length);
  }

  get track() {
    return this.studio.player.tracks.get(this.id);
  }

  /** Fetch the sound; the lane can be looked at before. */
  async load(isMuted) {
    const { player } = this.studio;
    const { context } = player;
    try {
      const fetched = async () => player.decode(await api.bytes(api.filePath(this.file, "wav")));
      const buffer = this.file.buffer ?? (await fetched());
      if (player.context !== context || !this.element.isConnected) return; // another recording was opened meanwhile
      player.add(this.id, buffer, { isMuted });
      this.element.classList.add("ready");
      for (const control of this.element.querySelectorAll("[data-needs-sound]")) control.disabled = false;
      this.draw();
    } catch (error) {
      showError(error);
    }
  }

  remove() {
    if (this.track) this.studio.player.remove(this.id);
    if (this.file.buffer) URL.revokeObjectURL(this.file.url);
    this.element.remove();
  }

  // controls

  #controls() {
    const { player } = this.studio;
    const button = (text, onclick, more = {}) =>
      el("button", { type: "button", disabled: true, "data-needs-sound": true, onclick, ...more }, text);
    this.play = button(TEXTS.play, () => this.#toggle(), { "aria-pressed": "false" });
    this.solo = button(TEXTS.solo, () => player.set(this.id, { isSolo: !this.track.isSolo }), {
      "aria-pressed": "false",
    });
    this.mute = button(TEXTS.mute, () => player.set(this.id, { isMuted: !this.track.isMuted }), {
      "aria-pressed": "false",
    });
    this.save = el("a", { class: "button", download: true }, TEXTS.download);
    const presence = this.job.answer.presence[this.file.name];
    const badge =
      typeof presence === "number"
        ? el("span", { class: "badge", title: TEXTS.presenceHelp }, TEXTS.presence(presence))
        : null;
    this.setFormat("wav");
    const refine = this.query
      ? el(
          "div",
          { class: "row tight" },
          button(TEXTS.moreOf, () => this.#refine(false), { class: "quiet" }),
          button(TEXTS.notIt, () => this.#refine(true), { class: "quiet" }),
        )
      : null;
    return el(
      "div",
      { class: "controls" },
      el("div", { class: "lane-title" }, el("h3", {}, this.title), badge),
      el("div", { class: "row tight" }, this.play, this.solo, this.mute, this.save),
      el(
        "div",
        { class: "sliders" },
        this.#slider(TEXTS.volume, "volume", 0, 1.5, 1),
        this.#slider(TEXTS.pan, "pan", -1, 1, 0),
      ),
      refine,
    );
  }

  #slider(label, property, min, max, value) {
    const change = (number) => this.studio.player.set(this.id, { [property]: number });
    const input = el("input", {
      type: "range",
      min,
      max,
      step: 0.01,
      value,
      disabled: true,
      "data-needs-sound": true,
      oninput: () => change(Number(input.value)),
      ondblclick: () => ((input.value = value), change(value)),
    });
    return el("label", {}, el("span", {}, label), input);
  }

  setFormat(format) {
    this.save.href = this.file.buffer ? this.file.url : api.filePath(this.file, format);
    this.save.download = `${this.title.replace(/[/\\:*?"<>|]/g, "_")}.${format}`;
  }

  /** Play this lane alone, or stop. */
  #toggle() {
    const { player } = this.studio;
    if (player.isPlaying && player.audition === this.id) return player.stop();
    player.listen({ audition: this.id, isOriginal: false });
    player.play();
  }

  /** Ask again, with this lane's sound left out, or as an example. */
  async #refine(isExcluded) {
    const { studio } = this;
    try {
      const [start, stop] = studio.view.selection || loudestPart(this.track.buffer, EXAMPLE_SECONDS);
      const clip = await api.upload(
        wavOf(this.track.buffer, start, Math.min(stop, start + EXAMPLE_SECONDS)),
        `${this.file.name}.wav`,
      );
      const { example_range: _, ...kept } = this.query;
      const excluded = [this.query.exclude || []].flat();
      const query = isExcluded
        ? { ...this.query, exclude: [...excluded, { audio: clip.id }] }
        : { ...kept, audio: clip.id, name: this.query.name || this.file.name };
      await studio.separate({ query: [query], options: this.job.answer.options });
    } catch (error) {
      showError(error);
    }
  }

  // notes

  #notes() {
    const { answer } = this.job;
    const choice = answer.plan[this.file.name];
    const presence = answer.presence[this.file.name];
    const notes = [];
    if (typeof presence === "number" && presence < ABSENT) {
      notes.push(el("p", { class: "hint" }, TEXTS.hint(this.title)));
      this.#addBetter(notes[0]);
    }
    if (choice) {
      const plan = el("p", {}, TEXTS.plan(choice));
      const addBetter = () => this.#addBetter(plan);
      const details = el("details", { class: "plan" }, el("summary", {}, TEXTS.planTitle), plan);
      details.addEventListener("toggle", addBetter, { once: true });
      notes.push(details);
    }
    return notes;
  }

  /** Name the models that would answer better after a download. */
  async #addBetter(note) {
    if (this.file.buffer) return; // nothing of it leaves this tab
    const text = [this.query?.text || this.file.name].flat()[0];
    const models = await api.recommend(text).catch(() => []);
    if (!models.length) return;
    note.append(
      " ",
      TEXTS.better(models.slice(0, 3).map(TEXTS.betterModel).join(", "), models[0].stem),
      " ",
      el("code", {}, TEXTS.pull(models[0].name)),
    );
  }

  // pictures

  /** Show how this lane is heard now. */
  update() {
    const { player } = this.studio;
    const { track } = this;
    if (!track) return;
    press(this.play, player.isPlaying && player.audition === this.id && !player.isOriginal);
    press(this.solo, track.isSolo);
    press(this.mute, track.isMuted);
    this.element.classList.toggle("silent", player.gainOf(track) === 0);
  }

  draw() {
    if (!this.element.isConnected) return;
    const { view, showsSpectrum, recordingPeak } = this.studio;
    const current = ++this.#drawing;
    this.strip.element.classList.toggle("spectrum", showsSpectrum);
    if (showsSpectrum && this.track)
      drawSpectrogram(this.wave, this.track.buffer, view, () => current === this.#drawing);
    else drawWaveform(this.wave, this.peaks, view, recordingPeak);
    if (this.#hasPresence) this.#drawPresence();
  }

  /** Draw presence along the time axis; where segments overlap, their mean. */
  #drawPresence() {
    const { view } = this.studio;
    const parts = this.job.answer.presence_over_time[this.file.name];
    const context = prepare(this.presence);
    const { width, height } = this.presence;
    context.fillStyle = getComputedStyle(this.presence).color;
    for (let x = 0; x < width; x++) {
      const seconds = view.start + ((x + 0.5) / width) * (view.stop - view.start);
      const here = parts.filter(([start, stop]) => start <= seconds && seconds < stop);
      const mean = here.reduce((sum, part) => sum + part[2], 0) / Math.max(1, here.length);
      context.globalAlpha = 0.25 + 0.75 * mean;
      context.fillRect(x, height * (1 - mean), 1, height * mean);
    }
  }
}
