// The page as a whole: opens recordings, asks, and keeps everything that is shown in step.

import * as api from "./api.js";
import { Ask } from "./ask.js";
import { byId, clock, el, fillTexts, press, say, secondsOf, showError } from "./dom.js";
import { Job } from "./job.js";
import { listenToKeys } from "./keys.js";
import { openMix } from "./mix.js";
import { MIXTURE, Player } from "./player.js";
import { drawSpectrogram } from "./spectrum.js";
import * as tab from "./tab.js";
import { TEXTS } from "./texts.js";
import { Peaks, Strip, View, drawRuler, drawWaveform } from "./waveform.js";

class Studio {
  recording = null;
  view = new View(1);
  player = new Player();
  jobs = [];
  showsSpectrum = false;
  recordingPeak = 1;
  #isLooping = false;
  #drawing = 0;

  constructor() {
    fillTexts();
    this.ask = new Ask(this);
    this.#wire();
    listenToKeys(this);
    const redraw = () => this.draw();
    new ResizeObserver(redraw).observe(byId("results"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    this.player.addEventListener("change", () => this.#update());
    requestAnimationFrame(() => this.#tick());
  }

  /** Log in where that is needed, and show again what was shown before a reload. */
  async start() {
    try {
      const token = /^#token=(.+)$/.exec(location.hash)?.[1];
      if (token) {
        history.replaceState(null, "", location.pathname);
        await api.logIn(decodeURIComponent(token)).catch(showError);
      }
      const { is_in: isIn, in_tab: canBeInTab } = await api.session();
      byId("token-form").hidden = isIn;
      byId("source").hidden = !isIn;
      byId("in-tab-choice").hidden = !canBeInTab;
      if (!isIn) return;
      await this.ask.load();
      await this.#restore();
    } catch (error) {
      showError(error);
    }
  }

  // The address holds what is open (#recording/job,job), so that a reload and a second tab each keep their own.

  async #restore() {
    const [id, jobs = ""] = location.hash.slice(1).split("/");
    if (!/^[0-9a-f]{32}$/.test(id)) return;
    const recording = await api.recording(id).catch(() => null);
    if (!recording) return history.replaceState(null, "", location.pathname);
    await this.show(recording);
    const answers = await Promise.all(
      jobs
        .split(",")
        .filter(Boolean)
        .map((job) => api.separation(job).catch(() => null)),
    );
    answers.filter((answer) => answer?.recording === id).forEach((answer) => this.#addJob(answer));
  }

  #remember() {
    if (this.isInTab) return history.replaceState(null, "", location.pathname); // gone with the tab
    const jobs = this.jobs.map((job) => job.id).join(",");
    history.replaceState(null, "", `#${this.recording.id}${jobs ? `/${jobs}` : ""}`);
  }

  // recordings

  async open(file, name = file.name) {
    showError(null);
    const bar = byId("upload");
    bar.hidden = false;
    bar.removeAttribute("value");
    byId("drop").classList.add("busy");
    try {
      const told = (fraction) => {
        bar.value = fraction;
        say(TEXTS.uploading(Math.round(100 * fraction)));
        if (fraction >= 1) bar.removeAttribute("value");
      };
      const isInTab = byId("in-tab").checked;
      await this.show(isInTab ? await tab.open(file, name) : await api.upload(file, name, told));
      this.#remember();
    } catch (error) {
      showError(error);
    } finally {
      bar.hidden = true;
      byId("drop").classList.remove("busy");
      byId("file").value = "";
    }
  }

  async show(recording) {
    this.jobs.forEach((job) => job.remove());
    Object.assign(this, { recording, jobs: [], view: new View(recording.seconds) });
    this.recordingPeak = Math.max(...recording.peaks.peaks.map(([low, high]) => Math.max(-low, high)));
    this.player.open(recording.seconds, recording.sample_rate_hz);
    this.view.addEventListener("change", () => this.draw());
    this.view.addEventListener("select", () => this.#selected());
    byId("name").textContent = recording.name;
    byId("facts").textContent = `${clock(recording.seconds, 0)} · ${TEXTS.facts(recording)}`;
    byId("open-slot").append(byId("file").closest("label"), byId("in-tab-choice"));
    document.body.classList.toggle("in-tab", this.isInTab);
    byId("drop").hidden = true;
    for (const id of ["opened", "ask", "transport"]) byId(id).hidden = false;
    const sound = recording.buffer ?? `/v1/recordings/${recording.id}/peaks`;
    this.peaks = new Peaks(sound, recording.sample_rate_hz, recording.n_samples, () => this.#drawOverview());
    this.wave = el("canvas", { class: "picture main" });
    this.ruler = el("canvas", { class: "ruler" });
    this.strip = new Strip(this.view, this.player, TEXTS.overview, this.wave);
    byId("overview").replaceChildren(this.ruler, this.strip.element);
    byId("length").textContent = ` / ${clock(recording.seconds)}`;
    byId("seek").max = recording.seconds;
    this.#selected();
    this.draw();
    this.#update();
    this.#loadMixture(recording).catch(() => showError(new Error(TEXTS.cannotDecode)));
  }

  async #loadMixture(recording) {
    const { context } = this.player;
    const fetched = async () => this.player.decode(await api.bytes(api.audioPath(recording.id, "wav")));
    const buffer = recording.buffer ?? (await fetched());
    if (this.player.context !== context) return; // another was opened meanwhile
    const isAsItWas = recording.buffer || recording.name.toLowerCase().endsWith(".wav");
    const scale = isAsItWas ? 1 : Math.max(1, this.recordingPeak); // converted to integers, softer where they would clip
    this.player.add(MIXTURE, buffer, { scale });
    this.#drawOverview();
  }

  // separations

  /** Whether the recording is in this tab alone; the server has nothing of it then. */
  get isInTab() {
    return Boolean(this.recording?.buffer);
  }

  /** Who separates it: `api` or `tab`. */
  get separator() {
    return this.isInTab ? tab : api;
  }

  /** Ask the server, or this tab; returns whether it took the question. */
  async separate(body) {
    showError(null);
    this.#addJob(await this.separator.separate(this.recording, body));
    this.#remember();
    return true;
  }

  #addJob(answer) {
    const job = new Job(this, answer);
    this.jobs.push(job);
    byId("results").prepend(job.element);
    job.follow();
  }

  /** The newest results are heard; older ones are muted, and stay to compare. */
  arrived(job) {
    if (this.jobs.at(-1) === job) {
      for (const other of this.jobs.filter((one) => one !== job))
        other.lanes.forEach((lane) => this.player.set(lane.id, { isMuted: true, isSolo: false }));
    }
    this.player.listen({ isOriginal: false, audition: null });
  }

  forget(job) {
    job.remove();
    this.jobs = this.jobs.filter((other) => other !== job);
    this.#remember();
  }

  get lanes() {
    return [...this.jobs].reverse().flatMap((job) => job.lanes);
  }

  // what is shown

  draw() {
    if (!this.recording) return;
    drawRuler(this.ruler, this.view);
    this.#drawOverview();
    this.lanes.forEach((lane) => lane.draw());
  }

  #drawOverview() {
    const current = ++this.#drawing;
    const buffer = this.player.tracks.get(MIXTURE)?.buffer;
    this.strip.element.classList.toggle("spectrum", this.showsSpectrum && Boolean(buffer));
    if (this.showsSpectrum && buffer) drawSpectrogram(this.wave, buffer, this.view, () => current === this.#drawing);
    else drawWaveform(this.wave, this.peaks, this.view, this.recordingPeak);
  }

  #selected() {
    const { selection } = this.view;
    byId("selection").hidden = !selection;
    if (selection) [byId("select-from").value, byId("select-to").value] = selection.map((seconds) => clock(seconds, 2));
    if (this.#isLooping) this.player.setLoop(selection);
    this.#tick(true);
  }

  #update() {
    const { player } = this;
    byId("play").textContent = player.isPlaying ? "❚❚" : "▶";
    byId("play").setAttribute("aria-label", player.isPlaying ? TEXTS.pauseMix : TEXTS.playMix);
    byId("play").classList.toggle("playing", player.isPlaying);
    press(byId("compare"), player.isOriginal);
    press(byId("loop"), this.#isLooping);
    press(byId("picture"), this.showsSpectrum);
    this.lanes.forEach((lane) => lane.update());
  }

  #tick(isOnce = false) {
    if (this.recording) {
      this.player.tick();
      const { position } = this.player;
      if (this.player.isPlaying) this.view.follow(position);
      byId("time").textContent = clock(position);
      if (document.activeElement !== byId("seek") || this.player.isPlaying) byId("seek").value = position;
      byId("seek").setAttribute("aria-valuetext", clock(position));
      [this.strip, ...this.lanes.map((lane) => lane.strip)].forEach((strip) => strip.move(position));
      this.#drawMeter();
    }
    if (!isOnce) requestAnimationFrame(() => this.#tick());
  }

  #drawMeter() {
    const meter = byId("meter");
    const context = meter.getContext("2d");
    const level = Math.max(0, 1 + (20 * Math.log10(this.player.level() + 1e-9)) / 54);
    context.clearRect(0, 0, meter.width, meter.height);
    context.fillStyle = getComputedStyle(meter).color;
    context.fillRect(0, meter.height * (1 - level), meter.width, meter.height * level);
  }

  // what can be done

  togglePlay() {
    const { player } = this;
    if (player.isPlaying) return player.stop();
    player.listen({ audition: null });
    player.play();
  }

  toggleOriginal() {
    this.player.listen({ isOriginal: !this.player.isOriginal });
  }

  toggleLoop() {
    this.#isLooping = !this.#isLooping;
    this.player.setLoop(this.#isLooping ? this.view.selection : null);
    this.#update();
  }

  toggleSpectrum() {
    this.showsSpectrum = !this.showsSpectrum;
    this.#update();
    this.draw();
  }

  likeThis() {
    const { selection } = this.view;
    if (selection && !this.isInTab) this.ask.addRange(selection.map((seconds) => Math.round(1000 * seconds) / 1000));
  }

  #wire() {
    const on = (id, type, listener) => byId(id).addEventListener(type, listener);
    on("file", "change", (event) => event.target.files[0] && this.open(event.target.files[0]));
    on("demo", "click", async () => this.open(await (await fetch("demo.ogg")).blob(), "demo song.ogg"));
    on("token-form", "submit", async (event) => {
      event.preventDefault();
      await api.logIn(byId("token").value).then(() => this.start(), showError);
    });
    on("like-this", "click", () => this.likeThis());
    on("only-here", "click", () => this.ask.setTimeRange(this.view.selection));
    on("clear-selection", "click", () => this.view.select(null));
    for (const id of ["select-from", "select-to"]) {
      on(id, "change", () => {
        const range = [secondsOf(byId("select-from").value), secondsOf(byId("select-to").value)];
        if (!range.some(Number.isNaN)) this.view.select(range);
      });
    }
    on("play", "click", () => this.togglePlay());
    on("seek", "input", (event) => this.player.seek(Number(event.target.value)));
    on("compare", "click", () => this.toggleOriginal());
    on("loop", "click", () => this.toggleLoop());
    on("picture", "click", () => this.toggleSpectrum());
    on("zoom-in", "click", () => this.view.zoom(0.5));
    on("zoom-out", "click", () => this.view.zoom(2));
    on("zoom-fit", "click", () => this.view.fit());
    on("export", "click", () => openMix(this));
    on("show-keys", "click", () => byId("keys").showModal());
    for (const [id, text, help] of [
      ["compare", TEXTS.compare, TEXTS.compareHelp],
      ["loop", TEXTS.loop, TEXTS.loopHelp],
      ["picture", TEXTS.picture, TEXTS.pictureHelp],
    ]) {
      byId(id).textContent = text;
      byId(id).title = help;
    }
    for (const [id, label] of [
      ["seek", TEXTS.seek],
      ["zoom-in", TEXTS.zoomIn],
      ["zoom-out", TEXTS.zoomOut],
      ["zoom-fit", TEXTS.zoomFit],
      ["transport", TEXTS.transport],
      ["selection", TEXTS.selection],
      ["upload", TEXTS.uploading(0)],
    ])
      byId(id).setAttribute("aria-label", label);
    byId("key-list").append(
      ...TEXTS.keyList.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]),
    );
    this.#takeDrops();
  }

  /** A file dropped on the question is an example; anywhere else it is opened. */
  #takeDrops() {
    const takesExamples = () => this.recording && !this.isInTab;
    const area = (event) => byId(takesExamples() && byId("ask").contains(event.target) ? "ask" : "source");
    const clear = () => [byId("ask"), byId("source")].forEach((element) => element.classList.remove("over"));
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      clear();
      area(event).classList.add("over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || clear());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      clear();
      const [file] = event.dataTransfer.files;
      if (file) area(event) === byId("ask") ? this.ask.addClip(file) : this.open(file);
    });
  }
}

const studio = new Studio();
globalThis.unisepStudio = studio; // for the browser's console, and for tests
studio.start();
