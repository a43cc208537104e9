// What is asked for: chips of words and examples, suggestions, and the options.

import * as api from "./api.js";
import { byId, clock, el, rangeOf, say, showError } from "./dom.js";
import { TEXTS } from "./texts.js";

const RECENT = "unisep-studio recent"; // in localStorage: questions asked before, the newest first
const STARTERS = ["vocals", "drums", "electric guitar", "piano", "speech"];
const N_SUGGESTIONS = 8;
const N_RECENT = 12;

/** The name of an example on the waveform; also that of its result. */
const rangeName = ([start, stop]) => TEXTS.exampleName(clock(start), clock(stop));

function recent() {
  try {
    return JSON.parse(localStorage.getItem(RECENT) || "[]");
  } catch {
    return [];
  }
}

export class Ask {
  chips = []; // each a query, as the server takes it, with a label
  #concepts = [];
  #models = [];
  #chosen = -1;

  constructor(studio) {
    this.studio = studio;
    this.input = byId("query");
    this.list = byId("suggestions");
    this.input.placeholder = TEXTS.queryPlaceholder;
    byId("exclude").placeholder = TEXTS.excludePlaceholder;
    byId("range").placeholder = TEXTS.rangePlaceholder;
    this.list.setAttribute("aria-label", TEXTS.suggestions);
    byId("ask").addEventListener("submit", (event) => event.preventDefault());
    byId("isolate").addEventListener("click", () => this.submit());
    byId("stems").addEventListener("click", () => this.#send(null));
    byId("more").addEventListener("click", () => this.#showOptions(byId("options").hidden));
    byId("clip").addEventListener("change", (event) => this.addClip(event.target.files[0]));
    byId("field").addEventListener("click", (event) => event.target.id === "field" && this.input.focus());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("input", () => this.#typed());
    this.input.addEventListener("focus", () => this.#suggest());
    this.input.addEventListener("blur", () => (this.list.hidden = true));
  }

  /** Fetch what can be suggested and chosen. */
  async load() {
    [this.#concepts, this.#models] = await Promise.all([api.concepts(), api.models()]);
    const usable = this.#models.filter((model) => model.kind === "backend" && model.state !== "broken");
    byId("model").replaceChildren(
      el("option", { value: "" }, TEXTS.modelAuto),
      ...usable.map((model) =>
        el("option", { value: model.name }, `${model.name}${model.state === "missing" ? " ↓" : ""}`),
      ),
    );
  }

  /** Add what is asked for; twice the same is once. */
  add(label, query) {
    if (!this.chips.some((chip) => chip.label === label)) this.chips.push({ label, query });
    this.#draw();
    say(label);
  }

  addText(text) {
    const words = text.trim();
    if (words) this.add(words, { text: words });
  }

  addRange(range) {
    this.add(TEXTS.example(...range.map((seconds) => clock(seconds))), {
      example_range: range,
      name: rangeName(range),
    });
  }

  async addClip(file) {
    if (!file) return;
    try {
      const clip = await api.upload(file, file.name);
      this.add(`♪ ${clip.name}`, { audio: clip.id });
    } catch (error) {
      showError(error);
    }
    byId("clip").value = "";
  }

  setTimeRange([start, stop]) {
    byId("range").value = `${clock(start)} – ${clock(stop)}`;
    this.#showOptions(true);
  }

  #showOptions(isOpen) {
    byId("options").hidden = !isOpen;
    byId("more").setAttribute("aria-expanded", String(isOpen));
  }

  submit() {
    this.addText(this.input.value);
    this.input.value = "";
    this.list.hidden = true;
    if (!this.chips.length) {
      showError(new Error(TEXTS.nothingAsked));
      this.input.focus();
      this.list.hidden = true;
      return;
    }
    this.#send(this.chips.map((chip) => chip.query));
  }

  async #send(queries) {
    try {
      const shared = this.studio.isInTab ? {} : this.#shared();
      const query = queries?.map((item) => ({ ...item, ...shared })) ?? null;
      if (!(await this.studio.separate({ query, options: this.options() }))) return;
      if (!queries) return;
      const texts = queries.map((item) => item.text).filter(Boolean);
      localStorage.setItem(RECENT, JSON.stringify([...new Set([...texts, ...recent()])].slice(0, N_RECENT)));
      this.chips = [];
      this.#draw();
    } catch (error) {
      showError(error);
    }
  }

  /** Return what all questions have in common. */
  #shared() {
    const excluded = byId("exclude")
      .value.split(",")
      .map((text) => text.trim())
      .filter(Boolean);
    const range = rangeOf(byId("range").value);
    return { ...(excluded.length ? { exclude: excluded } : {}), ...(range ? { time_range: range } : {}) };
  }

  /** Return who is to answer, as options of a request. */
  options() {
    const model = this.#models.find((item) => item.name === byId("model").value);
    if (!model) return {};
    return {
      ...(model.stems.length ? { backend: model.name } : {}),
      ...(model.answers_queries ? { query_backend: model.name } : {}),
    };
  }

  #draw() {
    byId("chips").replaceChildren(
      ...this.chips.map((chip) => {
        const remove = () => {
          this.chips = this.chips.filter((other) => other !== chip);
          this.#draw();
          this.input.focus();
        };
        const button = el("button", { type: "button", "aria-label": TEXTS.remove(chip.label), onclick: remove }, "×");
        return el("li", { class: "chip" }, chip.label, button);
      }),
    );
    this.input.placeholder = this.chips.length ? "" : TEXTS.queryPlaceholder;
  }

  // suggestions

  #typed() {
    const parts = this.input.value.split(/[,;]/);
    if (parts.length > 1) {
      parts.slice(0, -1).forEach((part) => this.addText(part));
      this.input.value = parts.at(-1).trimStart();
    }
    this.#suggest();
  }

  #matches() {
    const typed = this.input.value.trim().toLowerCase();
    const asked = recent();
    if (!typed) {
      const starters = STARTERS.filter((name) => this.#concepts.some((concept) => concept.name === name));
      return [
        ...asked.map((text) => [text, TEXTS.recent]),
        ...starters.filter((name) => !asked.includes(name)).map((name) => [name, ""]),
      ];
    }
    const ranked = [];
    for (const { name, kind, wordings } of this.#concepts) {
      const words = [name, ...wordings].filter((text) => text.toLowerCase().includes(typed));
      if (!words.length) continue;
      const rank = Math.min(
        ...words.map((text) => (text === name ? 0 : 2) + (text.toLowerCase().startsWith(typed) ? 0 : 1)),
      );
      const other = words.includes(name) ? kind : words[0];
      ranked.push([rank, name, other]);
    }
    ranked.sort((a, b) => a[0] - b[0] || a[1].length - b[1].length);
    const before = asked.filter((text) => text.toLowerCase().includes(typed)).map((text) => [text, TEXTS.recent]);
    return [
      ...before.slice(0, 2),
      ...ranked.filter(([, name]) => !asked.includes(name)).map(([, name, other]) => [name, other]),
    ];
  }

  #suggest() {
    const taken = this.chips.map((chip) => chip.label);
    const matches = this.#matches()
      .filter(([text]) => !taken.includes(text))
      .slice(0, N_SUGGESTIONS);
    this.#choose(-1);
    this.list.replaceChildren(
      ...matches.map(([text, note], index) =>
        el(
          "li",
          {
            role: "option",
            id: `suggestion-${index}`,
            "aria-selected": "false",
            "data-value": text,
            onpointerdown: (event) => (event.preventDefault(), this.#take(text)),
          },
          el("span", {}, text),
          el("span", { class: "muted small" }, note),
        ),
      ),
    );
    this.list.hidden = !matches.length || document.activeElement !== this.input;
  }

  #choose(index) {
    this.list.children[this.#chosen]?.setAttribute("aria-selected", "false");
    this.#chosen = index;
    const option = this.list.children[index];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #take(text) {
    this.input.value = "";
    this.addText(text);
    this.#suggest();
  }

  #key(event) {
    const n = this.list.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (this.list.hidden) this.#suggest();
      const isUp = event.key === "ArrowUp";
      if (n) this.#choose(isUp && this.#chosen < 0 ? n - 1 : (this.#chosen + (isUp ? n - 1 : 1)) % n);
    } else if (event.key === "Enter") {
      const option = this.list.hidden ? null : this.list.children[this.#chosen];
      if (option) this.#take(option.dataset.value);
      else if (this.input.value.trim()) this.#take(this.input.value);
      else this.submit();
    } else if (event.key === "Escape") {
      this.list.hidden = true;
    } else if (event.key === "Backspace" && !this.input.value && this.chips.length) {
      this.chips.pop();
      this.#draw();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
