// One question and what comes of it: progress at first, then lanes, and ways to take the results along.

import * as api from "./api.js";
import { clock, download, el, say, showError } from "./dom.js";
import { Lane } from "./lane.js";
import { commandOf, embeddingFile, pythonOf } from "./lines.js";
import { TEXTS } from "./texts.js";

const N_COLOURS = 6;

export class Job {
  lanes = [];

  constructor(studio, answer) {
    Object.assign(this, { studio, answer, id: answer.id });
    this.bar = el("progress", { max: 1, "aria-label": this.title });
    this.bar.value = answer.progress;
    this.note = el("span", { class: "muted" });
    this.actions = el("div", { class: "row tight actions" });
    this.cancel = el("button", { type: "button", onclick: () => this.#cancel() }, TEXTS.cancel);
    this.waiting = el("div", { class: "waiting" }, this.bar, this.note, this.cancel);
    this.body = el("div", { class: "lanes" });
    const head = el(
      "div",
      { class: "job-head" },
      el("div", {}, el("h2", {}, this.title), this.#describe()),
      this.actions,
    );
    this.element = el("article", { class: "card job" }, head, this.waiting, this.body);
    this.#tell(answer);
  }

  get queries() {
    return this.answer.query || [];
  }

  get title() {
    const names = this.queries.map((query) => query.name || [query.text || TEXTS.clip].flat().join(" / "));
    return names.length ? TEXTS.job(names) : TEXTS.stemsJob;
  }

  /** Follow it until its end. */
  follow() {
    if (this.answer.state === "done" || this.answer.state === "failed" || this.answer.state === "cancelled")
      this.#ended(this.answer);
    else
      this.stopWatching = this.studio.separator.watch(
        this.answer,
        (event) => this.#tell(event),
        (answer) => this.#ended(answer),
      );
  }

  remove() {
    this.stopWatching?.();
    this.lanes.forEach((lane) => lane.remove());
    this.element.remove();
  }

  #describe() {
    const [query] = this.queries;
    const parts = [];
    if (query?.exclude)
      parts.push(
        `− ${[query.exclude]
          .flat()
          .map((item) => item.text || (typeof item === "string" ? item : "♪"))
          .join(", ")}`,
      );
    if (query?.time_range)
      parts.push(query.time_range.map((seconds) => (seconds === null ? "" : clock(seconds))).join("–"));
    return parts.length ? el("p", { class: "muted small" }, parts.join(" · ")) : null;
  }

  #tell(event) {
    if (event.progress > 0) this.bar.value = event.progress;
    else this.bar.removeAttribute("value");
    const stage = TEXTS.stage(event.stage || event.state, event.waiting_before);
    this.note.textContent =
      event.eta_seconds === null || event.eta_seconds === undefined
        ? stage
        : `${stage}, ${TEXTS.timeLeft(event.eta_seconds)}`;
  }

  async #cancel() {
    this.cancel.disabled = true;
    try {
      const answer = await this.studio.separator.cancel(this.id);
      this.stopWatching?.();
      this.#ended(answer);
    } catch (error) {
      this.cancel.disabled = false;
      showError(error);
    }
  }

  #ended(answer) {
    if (!this.waiting.isConnected) return; // told twice, or removed meanwhile
    this.answer = { ...this.answer, ...answer };
    this.waiting.remove();
    const { state } = this.answer;
    if (state !== "done") {
      const text = state === "cancelled" ? TEXTS.cancelled : TEXTS.failed(this.answer.error?.message || "");
      const again = el("button", { type: "button", onclick: () => this.#again() }, TEXTS.again);
      this.body.append(
        el(
          "div",
          { class: "row" },
          el("span", state === "failed" ? { class: "hint", role: "alert" } : { class: "muted", role: "status" }, text),
          again,
        ),
      );
      this.actions.append(this.#removeButton());
      return;
    }
    const targets = this.answer.files.filter((file) => file.kind === "target");
    this.lanes = this.answer.files.map((file) => {
      const index = targets.indexOf(file);
      const query = index < 0 || this.studio.isInTab ? null : this.queries[index] || { text: file.name };
      return new Lane(this.studio, this, file, index < 0 ? "rest" : index % N_COLOURS, query);
    });
    this.body.append(...this.lanes.map((lane) => lane.element));
    if (this.studio.isInTab) this.actions.append(this.#removeButton());
    else this.#addActions();
    const isMuted = this.studio.jobs.at(-1) !== this; // the newest results are heard
    this.lanes.forEach((lane) => (lane.draw(), lane.load(isMuted)));
    say(TEXTS.done(this.lanes.map((lane) => lane.title)));
    this.studio.arrived(this);
  }

  async #again() {
    await this.studio.separate({ query: this.answer.query, options: this.answer.options }).catch(showError);
    this.#forget();
  }

  #removeButton() {
    return el(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": TEXTS.deleteJob,
        title: TEXTS.deleteJob,
        onclick: () => this.#forget(),
      },
      "×",
    );
  }

  #forget() {
    this.studio.forget(this);
    if (!this.studio.isInTab) api.deleteSeparation(this.id).catch(() => {}); // gone already
  }

  #addActions() {
    const format = el(
      "select",
      { "aria-label": TEXTS.format, onchange: () => setFormat(format.value) },
      ...["wav", "flac", "mp3"].map((name) => el("option", {}, name)),
    );
    const zip = el("a", { class: "button quiet", download: true }, TEXTS.zip);
    const setFormat = (name) => {
      zip.href = api.archivePath(this.id, name);
      this.lanes.forEach((lane) => lane.setFormat(name));
    };
    setFormat("wav");
    const copy = (text, make) => {
      const button = el("button", { type: "button", class: "quiet" }, text);
      button.addEventListener("click", async () => {
        await copyText(await make(this.studio.recording, this.answer)).catch(showError);
        button.textContent = TEXTS.copied;
        setTimeout(() => (button.textContent = text), 1500);
      });
      return button;
    };
    this.actions.append(format, zip, copy(TEXTS.copyCommand, commandOf), copy(TEXTS.copyPython, pythonOf));
    if (this.queries.length)
      this.actions.append(
        el("button", { type: "button", class: "quiet", onclick: () => this.#saveQuestions() }, TEXTS.saveQuestion),
      );
    this.actions.append(this.#removeButton());
  }

  /** Save each question as a vector, in the file that `Embedding.load` and `--embedding` read. */
  async #saveQuestions() {
    const { recording } = this.studio;
    try {
      for (const query of this.queries) {
        const { exclude: _, time_range: __, ...kept } = query;
        const asked = kept.example_range && !kept.audio ? { ...kept, audio: recording.id } : kept;
        const body = await api.embed({ query: asked, options: this.answer.options });
        download(
          embeddingFile(body),
          `${(query.name || query.text || "query").toString().replace(/[/\\:*?"<>|]/g, "_")}.safetensors`,
        );
      }
    } catch (error) {
      showError(error);
    }
  }
}

/** Copy a text; over plain HTTP from elsewhere browsers have no clipboard, and a field that is selected has to do. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
