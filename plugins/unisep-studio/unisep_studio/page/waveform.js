// What part of the recording is shown, and its pictures: peaks by levels, fetched in tiles as they are needed.

import * as api from "./api.js";
import { clock, el } from "./dom.js";

const FINEST_SAMPLES = 256; // of a peak at level 0; each level has a quarter of the peaks
const MAX_LEVEL = 12;
const TILE_PEAKS = 4096;
const MIN_SECONDS = 0.05;

/** The part that is shown, and the part that is selected, in seconds. All lanes share one. */
export class View extends EventTarget {
  constructor(seconds) {
    super();
    Object.assign(this, { seconds, start: 0, stop: seconds, selection: null });
  }

  show(start, stop) {
    const width = Math.min(Math.max(stop - start, MIN_SECONDS), this.seconds);
    this.start = Math.min(Math.max(0, start), this.seconds - width);
    this.stop = this.start + width;
    this.dispatchEvent(new Event("change"));
  }

  zoom(factor, at = (this.start + this.stop) / 2) {
    this.show(at - (at - this.start) * factor, at + (this.stop - at) * factor);
  }

  fit() {
    this.show(0, this.seconds);
  }

  /** Keep a moment in sight. */
  follow(seconds) {
    const width = this.stop - this.start;
    if (seconds < this.start || seconds > this.stop) this.show(seconds - 0.05 * width, seconds + 0.95 * width);
  }

  select(range) {
    this.selection = range && [Math.max(0, Math.min(...range)), Math.min(this.seconds, Math.max(...range))];
    this.dispatchEvent(new Event("select"));
  }

  /** Return where a moment is, 0 at the left and 1 at the right of what is shown. */
  fraction(seconds) {
    return (seconds - this.start) / (this.stop - this.start);
  }
}

/** Return lowest and highest sample of a part of an AudioBuffer, for each peak of a level. */
export function peaksOf(buffer, level, start = 0, stop = buffer.length) {
  const nSamples = FINEST_SAMPLES * 4 ** level;
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  const pairs = [];
  for (let first = start; first < stop; first += nSamples) {
    const parts = channels.map((channel) => channel.subarray(first, Math.min(first + nSamples, stop)));
    const extreme = (of) => of(...parts.map((part) => part.reduce((most, sample) => of(most, sample))));
    pairs.push([extreme(Math.min), extreme(Math.max)]);
  }
  return pairs;
}

/** The peaks of one file of the server, by the path to them, or of an AudioBuffer. */
export class Peaks {
  #tiles = new Map();

  constructor(sound, rateHz, nSamples, onNews) {
    Object.assign(this, { sound, rateHz, nSamples, onNews });
  }

  /** Return lowest and highest sample for each of `width` columns; null where they are still on their way. */
  columns(start, stop, width) {
    const samplesPerColumn = ((stop - start) * this.rateHz) / width;
    const wanted = Math.floor(Math.log(Math.max(1, samplesPerColumn / FINEST_SAMPLES)) / Math.log(4));
    const level = Math.min(wanted, MAX_LEVEL);
    const samplesPerPeak = FINEST_SAMPLES * 4 ** level;
    const nPeaks = Math.ceil(this.nSamples / samplesPerPeak);
    const columns = [];
    for (let column = 0; column < width; column++) {
      const first = Math.floor((start * this.rateHz + column * samplesPerColumn) / samplesPerPeak);
      const last = Math.floor((start * this.rateHz + (column + 1) * samplesPerColumn - 1) / samplesPerPeak);
      let [low, high, isThere] = [Infinity, -Infinity, false];
      for (let index = first; index <= Math.min(last, nPeaks - 1); index++) {
        const peak = this.#tile(level, Math.floor(index / TILE_PEAKS))?.[index % TILE_PEAKS];
        if (peak) [low, high, isThere] = [Math.min(low, peak[0]), Math.max(high, peak[1]), true];
      }
      columns.push(isThere ? [low, high] : null);
    }
    return columns;
  }

  #tile(level, number) {
    const key = `${level}:${number}`;
    if (!this.#tiles.has(key)) {
      this.#tiles.set(key, null);
      const nSamples = TILE_PEAKS * FINEST_SAMPLES * 4 ** level;
      this.#fetch(level, number * nSamples, Math.min((number + 1) * nSamples, this.nSamples))
        .then((peaks) => {
          this.#tiles.set(key, peaks);
          this.onNews();
        })
        .catch(() => this.#tiles.delete(key));
    }
    return this.#tiles.get(key);
  }

  async #fetch(level, start, stop) {
    if (typeof this.sound !== "string") return peaksOf(this.sound, level, start, stop);
    return (await api.peaks(this.sound, level, start, stop)).peaks;
  }
}

/** Size a canvas to its place on the screen and return what to draw with. */
export function prepare(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  return canvas.getContext("2d");
}

/** Draw a waveform in the colour of the canvas's text; `peak` is what fills the height. */
export function drawWaveform(canvas, peaks, view, peak) {
  const context = prepare(canvas);
  const { width, height } = canvas;
  const colour = getComputedStyle(canvas).color;
  const middle = height / 2;
  const scale = (0.94 * middle) / Math.max(peak, 1e-4);
  context.fillStyle = colour;
  context.globalAlpha = 0.35;
  context.fillRect(0, Math.round(middle), width, 1);
  context.globalAlpha = 1;
  peaks.columns(view.start, view.stop, width).forEach((pair, x) => {
    if (!pair) return;
    const top = middle - pair[1] * scale;
    context.fillRect(x, top, 1, Math.max(1, (pair[1] - pair[0]) * scale));
  });
}

/** Draw a ruler of times. */
export function drawRuler(canvas, view) {
  const context = prepare(canvas);
  const scale = window.devicePixelRatio || 1;
  const seconds = view.stop - view.start;
  const about = (seconds * 90 * scale) / canvas.width;
  const step = [0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600].find((size) => size >= about) || 1800;
  context.fillStyle = getComputedStyle(canvas).color;
  context.font = `${11 * scale}px system-ui, sans-serif`;
  for (let time = Math.ceil(view.start / step) * step; time < view.stop; time += step) {
    const x = view.fraction(time) * canvas.width;
    context.fillRect(x, canvas.height - 5 * scale, scale, 5 * scale);
    const text = clock(time, step < 0.1 ? 2 : step < 1 ? 1 : 0);
    if (x + context.measureText(text).width + 4 * scale < canvas.width)
      context.fillText(text, x + 4 * scale, canvas.height - 4 * scale);
  }
}

/** A strip along the time axis, with the selection and the playhead above what it shows. */
export class Strip {
  constructor(view, player, label, ...canvases) {
    this.view = view;
    this.selected = el("div", { class: "selected", hidden: true });
    this.head = el("div", { class: "playhead" });
    this.element = el("div", { class: "strip" }, ...canvases, this.selected, this.head);
    if (label) {
      const role = {
        tabindex: "0",
        role: "slider",
        "aria-label": label,
        "aria-valuemin": "0",
        "aria-valuemax": view.seconds,
      };
      for (const [name, value] of Object.entries(role)) this.element.setAttribute(name, value);
    }
    this.#listen(player);
  }

  /** Show the playhead and the selection where they are now. */
  move(position) {
    const { view } = this;
    const at = view.fraction(position);
    this.head.hidden = at < 0 || at > 1;
    this.head.style.left = `calc(${100 * at}% - ${2 * at}px)`;
    if (this.element.hasAttribute("role")) {
      this.element.setAttribute("aria-valuenow", position.toFixed(1));
      this.element.setAttribute("aria-valuetext", clock(position));
    }
    this.selected.hidden = !view.selection;
    if (!view.selection) return;
    const [left, right] = view.selection.map((seconds) => Math.min(1, Math.max(0, view.fraction(seconds))));
    this.selected.style.left = `${100 * left}%`;
    this.selected.style.width = `${100 * (right - left)}%`;
  }

  #listen(player) {
    const { element, view } = this;
    let from = null;
    let hasMoved = false;
    const timeAt = (event) => {
      const box = element.getBoundingClientRect();
      return view.start + ((event.clientX - box.left) / box.width) * (view.stop - view.start);
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      [from, hasMoved] = [{ x: event.clientX, time: timeAt(event) }, false];
    });
    element.addEventListener("pointermove", (event) => {
      if (!from) return;
      hasMoved ||= Math.abs(event.clientX - from.x) > 4;
      if (hasMoved) view.select([from.time, timeAt(event)]);
    });
    element.addEventListener("pointerup", (event) => {
      if (from && !hasMoved) {
        const { selection } = view;
        if (selection && (from.time < selection[0] || from.time > selection[1])) view.select(null);
        player.seek(timeAt(event));
      }
      from = null;
    });
    element.addEventListener("pointercancel", () => (from = null));
    element.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.shiftKey && !event.deltaX) return; // the page scrolls
        event.preventDefault();
        const width = view.stop - view.start;
        if (event.ctrlKey) view.zoom(Math.exp(event.deltaY / 300), timeAt(event));
        else
          view.show(
            view.start + ((event.deltaX || event.deltaY) / 1000) * width,
            view.stop + ((event.deltaX || event.deltaY) / 1000) * width,
          );
      },
      { passive: false },
    );
  }
}
