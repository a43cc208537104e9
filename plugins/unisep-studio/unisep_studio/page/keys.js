// The keyboard. Keys that a field or a button needs itself are left to it.

import { byId } from "./dom.js";

const isTyping = (target) => target.matches("input:not([type=range]), select, textarea, [contenteditable]");

export function listenToKeys(studio) {
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(target) || document.querySelector("dialog[open]"))
      return;
    if (key === " " && target.matches("button, a, summary")) return;
    if (key.startsWith("Arrow") && target.matches("input")) return;
    const action = actionOf(studio, event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(studio, event) {
  const { key, shiftKey, target, code } = event;
  if (key === "?") return () => byId("keys").showModal();
  if (key === "o") return () => byId("file").click();
  if (!studio.recording) return null;
  const { player, view } = studio;
  const digit = /^Digit([1-9])$/.exec(code)?.[1];
  if (digit) return () => toggleLane(studio, Number(digit) - 1, shiftKey);
  const step = Math.min(1, (view.stop - view.start) / 40) * (key === "ArrowLeft" ? -1 : 1);
  if ((key === "ArrowLeft" || key === "ArrowRight") && shiftKey && target.matches(".strip"))
    return () => extend(studio, step);
  const actions = {
    " ": () => studio.togglePlay(),
    a: () => studio.toggleOriginal(),
    l: () => studio.toggleLoop(),
    v: () => studio.toggleSpectrum(),
    e: () => studio.likeThis(),
    ArrowLeft: () => player.seek(player.position - 1),
    ArrowRight: () => player.seek(player.position + 1),
    Home: () => player.seek(0),
    End: () => player.seek(player.seconds),
    "+": () => view.zoom(0.5, player.position),
    "=": () => view.zoom(0.5, player.position),
    "-": () => view.zoom(2, player.position),
    0: () => view.fit(),
    "/": () => byId("query").focus(),
    Escape: () => view.select(null),
  };
  return actions[key] || null;
}

/** Grow or shrink the selection at the end where the playhead is, which moves along. */
function extend({ player, view }, step) {
  const { position } = player;
  const to = Math.min(Math.max(0, position + step), view.seconds);
  const [start, stop] = view.selection || [position, position];
  const anchor = Math.abs(position - start) < Math.abs(position - stop) ? stop : start;
  player.seek(to);
  view.select([anchor, to]);
}

function toggleLane({ player, lanes }, index, isMute) {
  const track = lanes[index]?.track;
  if (!track) return;
  player.set(track.id, isMute ? { isMuted: !track.isMuted } : { isSolo: !track.isSolo });
}
