// Small tools for the document. Content is always set as text, so that no name of a file can become markup.

import { TEXTS } from "./texts.js";

export const byId = (id) => document.getElementById(id);

/** Make an element: el("button", {class: "quiet", onclick: f}, "Text", child). */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const press = (button, on) => button.setAttribute("aria-pressed", String(Boolean(on)));

/** Fill in all texts of the page itself. */
export function fillTexts() {
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = TEXTS[element.dataset.text];
}

/** Show what went wrong, or hide it again. */
export function showError(error) {
  const box = byId("alert");
  box.hidden = !error;
  box.replaceChildren();
  if (!error) return;
  const close = el("button", { class: "quiet", type: "button", onclick: () => showError(null) }, TEXTS.close);
  box.append(el("span", {}, error.message || String(error)), close);
}

/** Tell people who hear the page what changed. */
export function say(text) {
  byId("status").textContent = text;
}

/** 83.25 -> "1:23.3" */
export function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const rounded = Math.round(Math.max(0, seconds) * unit) / unit;
  const minutes = Math.floor(rounded / 60);
  return `${minutes}:${(rounded - 60 * minutes).toFixed(digits).padStart(digits ? digits + 3 : 2, "0")}`;
}

/** "1:23.3" or "83.3" -> 83.3; NaN for what is no time. */
export function secondsOf(text) {
  const match = /^\s*(?:(\d+):)?(\d+(?:\.\d*)?)\s*$/.exec(text.replace(",", "."));
  return match ? 60 * Number(match[1] || 0) + Number(match[2]) : NaN;
}

/** "30-60", "1:30-" or "-60" -> [30, 60], [90, null], [0, 60]; null for an empty text. */
export function rangeOf(text) {
  if (!text.trim()) return null;
  const ends = text.split(/[-–]/).map((part) => part.trim());
  const [start, stop] = ends.map((part) => (part ? secondsOf(part) : null));
  if (ends.length !== 2 || Number.isNaN(start) || Number.isNaN(stop) || (start === null && stop === null)) {
    throw new Error(TEXTS.badRange);
  }
  return [start ?? 0, stop];
}

/** Offer a blob as a download. */
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
