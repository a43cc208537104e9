"""Render short labelled phrases with a General MIDI soundfont: `python -m unisep_train.rendering.clips`.

Random notes in a key, chords, single hits and drum beats, four seconds each, written as 16-bit files with a
manifest like the corpus's. Needs the package `tinysoundfont`.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import final

import numpy as np
import soundfile

RATE_HZ = 32000
_SECONDS = 4.0
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10))
_HAT, _KICK, _SNARE = (42, 42, 46, 51), (36, 35), (38, 40, 39)
# Programs that people play as single lines, low ones, and drums of the melodic bank.
_LOW = {*range(32, 40), 43, 58, 67, 70}
Event = tuple[float, float, int, int]


@dataclass(frozen=True)
class Timbre:
    """One row of the table: a program of the melodic bank, or a note of the percussion bank."""

    program: int
    percussion_note: int | None
    label: str
    synonyms: tuple[str, ...]
    family: str


def timbres() -> list[Timbre]:
    """The rows of `general_midi.txt`."""
    text = resources.files(__package__).joinpath("general_midi.txt").read_text(encoding="utf-8")
    return [_parsed(line) for line in text.splitlines() if line and not line.startswith("#")]


def _parsed(line: str) -> Timbre:
    key, rest = line.split(": ", 1)
    names, family = rest.split(" | ")
    label, *synonyms = names.split(", ")
    if key.startswith("k"):
        return Timbre(0, int(key[1:]), label, tuple(synonyms), family)
    return Timbre(int(key), None, label, tuple(synonyms), family)


def phrase(timbre: Timbre, generator: random.Random) -> list[Event]:
    """Notes (start_s, end_s, key, velocity) of one phrase."""
    beat_s = 60 / generator.uniform(70, 160)
    if timbre.percussion_note is not None:
        steps = generator.choice((beat_s, beat_s / 2, beat_s / 4, 2 * beat_s))
        starts = [t for t in np.arange(0.0, _SECONDS - 0.1, steps) if generator.random() < 0.8] or [0.0]
        return [(t, t + 0.3, timbre.percussion_note, generator.randint(50, 127)) for t in starts]
    scale, root = generator.choice(_SCALES), generator.randint(0, 11)
    centre = generator.randint(31, 43) if timbre.program in _LOW else generator.randint(50, 76)
    keys = [k for k in range(centre - 10, centre + 11) if (k - root) % 12 in scale]
    as_chords = timbre.program not in _LOW and generator.random() < 0.35
    events: list[Event] = []
    t = 0.0
    while t < _SECONDS - 0.2:
        length = beat_s * generator.choice((0.5, 0.5, 1, 1, 2, 4) if not as_chords else (1, 2, 4))
        first = generator.randrange(len(keys))
        chosen = [keys[(first + 2 * i) % len(keys)] for i in range(3)] if as_chords else [keys[first]]
        held = length * generator.uniform(0.5, 1.0)
        events += [(t, t + held, key, generator.randint(55, 120)) for key in chosen]
        t += length
    return events


def beat(generator: random.Random) -> list[Event]:
    """Two bars or so of a drum kit: kick, snare and hi-hat or ride, now and then a fill."""
    step_s = 15 / generator.uniform(75, 170)
    hat, kick, snare = (generator.choice(group) for group in (_HAT, _KICK, _SNARE))
    every = generator.choice((1, 2, 2, 4))
    kicks = {0, generator.choice((6, 8, 10)), generator.choice((3, 7, 10, 14))}
    events: list[Event] = []
    for i in range(int(_SECONDS / step_s)):
        place = i % 16
        hits = [hat] if place % every == 0 else []
        hits += [kick] if place in kicks else []
        hits += [snare] if place in (4, 12) or generator.random() < 0.03 else []
        hits += [generator.choice((41, 45, 48, 49))] if place >= 14 and generator.random() < 0.15 else []
        events += [(i * step_s, i * step_s + 0.2, key, generator.randint(70, 127)) for key in hits]
    return events


@final
class Player:
    """A soundfont ready to play; loaded once, quiet again before every phrase."""

    def __init__(self, soundfont: Path) -> None:
        import tinysoundfont

        self._synth = tinysoundfont.Synth(samplerate=RATE_HZ, gain=-6)
        self._font = self._synth.sfload(str(soundfont))

    def play(self, timbre: Timbre, events: list[Event]) -> np.ndarray:
        """Mono float32 samples of the notes."""
        percussion = timbre.percussion_note is not None
        synth = self._synth
        synth.sounds_off(0)
        synth.program_select(0, self._font, 128 if percussion else 0, timbre.program, percussion)
        changes = [(start, 1, key, velocity) for start, _, key, velocity in events]
        changes += [(end, 0, key, 0) for _, end, key, _ in events if end < _SECONDS]
        parts, now = [], 0
        for time_s, on, key, velocity in sorted(changes):
            until = min(round(time_s * RATE_HZ), round(_SECONDS * RATE_HZ))
            if until > now:
                parts.append(np.frombuffer(bytes(synth.generate(until - now)), np.float32))
                now = until
            if on:
                synth.noteon(0, key, velocity)
            else:
                synth.noteoff(0, key)
        parts.append(np.frombuffer(bytes(synth.generate(round(_SECONDS * RATE_HZ) - now)), np.float32))
        return np.concatenate(parts).reshape(-1, 2).mean(1)


def main() -> None:
    """Render every timbre of every soundfont `--n-phrases` times into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soundfont", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-phrases", type=int, default=5)
    parser.add_argument("--n-beats", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    kit = Timbre(0, 0, "drums", ("drum kit", "drum loop", "drum beat"), "drums")
    work = [(timbre, phrase(timbre, generator)) for timbre in timbres() for _ in range(arguments.n_phrases)]
    work += [(kit, beat(generator)) for _ in range(arguments.n_beats)]
    with (arguments.out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for font_number, soundfont in enumerate(arguments.soundfont):
            player = Player(soundfont)
            for i, (timbre, events) in enumerate(work):
                samples = player.play(timbre, events)
                peak = float(np.abs(samples).max())
                if peak < 1e-3:
                    continue
                path = f"{font_number}-{i:05d}.wav"
                soundfile.write(arguments.out / path, samples * min(1.0, 0.9 / peak), RATE_HZ, "PCM_16")
                row = {
                    "path": path, "kind": "rendered", "song": None, "label": timbre.label, "active": 1.0,
                    "synonyms": timbre.synonyms, "family": timbre.family, "seconds": _SECONDS,
                }  # fmt: skip
                manifest.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
