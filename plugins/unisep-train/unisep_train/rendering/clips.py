"""Render short labelled clips with General MIDI soundfonts, for the audio tower.

    python -m unisep_train clips --soundfont FONT.sf3 --out rendered

Random notes in a key, chords, single hits and drum beats, four seconds each, written as 16-bit files with a
manifest like the corpus's. Needs `tinysoundfont`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import soundfile

from unisep_train.rendering.synth import Event, Synth

RATE_HZ = 32000
SECONDS = 4.0
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 3, 5, 7, 10))
HAT, KICK, SNARE = (42, 42, 46, 51), (36, 35), (38, 40, 39)
# Programs that people play as single lines, low ones, and drums of the melodic bank.
LOW = {*range(32, 40), 43, 58, 67, 70}
Note = tuple[float, float, int, int]


@dataclass(frozen=True)
class Timbre:
    """One row of the table: a program of the melodic bank, or a note of the percussion bank."""

    program: int
    percussion_note: int | None
    label: str
    synonyms: tuple[str, ...]
    family: str


DRUM_KIT = Timbre(0, 0, "drums", ("drum kit", "drum loop", "drum beat"), "drums")


def timbres() -> list[Timbre]:
    """Read the rows of `general_midi.txt`."""
    rows = []
    for line in resources.files(__package__).joinpath("general_midi.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key, rest = line.split(": ", 1)
            names, family = rest.split(" | ")
            label, *synonyms = names.split(", ")
            program, note = (0, int(key[1:])) if key.startswith("k") else (int(key), None)
            rows.append(Timbre(program, note, label, tuple(synonyms), family))
    return rows


def phrase(timbre: Timbre, generator: random.Random) -> list[Note]:
    """Draw the notes (start_s, end_s, key, velocity) of one phrase."""
    beat_s = 60 / generator.uniform(70, 160)
    if timbre.percussion_note is not None:
        steps = generator.choice((beat_s, beat_s / 2, beat_s / 4, 2 * beat_s))
        starts = [t for t in np.arange(0.0, SECONDS - 0.1, steps) if generator.random() < 0.8] or [0.0]
        return [(t, t + 0.3, timbre.percussion_note, generator.randint(50, 127)) for t in starts]
    scale, root = generator.choice(SCALES), generator.randint(0, 11)
    centre = generator.randint(31, 43) if timbre.program in LOW else generator.randint(50, 76)
    keys = [k for k in range(centre - 10, centre + 11) if (k - root) % 12 in scale]
    as_chords = timbre.program not in LOW and generator.random() < 0.35
    notes: list[Note] = []
    t = 0.0
    while t < SECONDS - 0.2:
        length = beat_s * generator.choice((0.5, 0.5, 1, 1, 2, 4) if not as_chords else (1, 2, 4))
        first = generator.randrange(len(keys))
        chosen = [keys[(first + 2 * i) % len(keys)] for i in range(3)] if as_chords else [keys[first]]
        held = length * generator.uniform(0.5, 1.0)
        notes += [(t, t + held, key, generator.randint(55, 120)) for key in chosen]
        t += length
    return notes


def beat(generator: random.Random) -> list[Note]:
    """Draw two bars or so of a drum kit: kick, snare and hi-hat or ride, now and then a fill."""
    step_s = 15 / generator.uniform(75, 170)
    hat, kick, snare = (generator.choice(group) for group in (HAT, KICK, SNARE))
    every = generator.choice((1, 2, 2, 4))
    kicks = {0, generator.choice((6, 8, 10)), generator.choice((3, 7, 10, 14))}
    notes: list[Note] = []
    for i in range(int(SECONDS / step_s)):
        place = i % 16
        hits = [hat] if place % every == 0 else []
        hits += [kick] if place in kicks else []
        hits += [snare] if place in (4, 12) or generator.random() < 0.03 else []
        hits += [generator.choice((41, 45, 48, 49))] if place >= 14 and generator.random() < 0.15 else []
        notes += [(i * step_s, i * step_s + 0.2, key, generator.randint(70, 127)) for key in hits]
    return notes


def play(synth: Synth, timbre: Timbre, notes: list[Note]) -> np.ndarray:
    """Return mono samples of the notes."""
    sound = synth.play(timbre.program, timbre.percussion_note is not None, _events(notes), round(SECONDS * RATE_HZ))
    return sound.mean(1)


def _events(notes: list[Note]) -> Iterator[Event]:
    """Order the beginnings and ends of notes by time; at one time ends come first."""
    changes = [(start, 1, key, velocity) for start, _, key, velocity in notes]
    changes += [(end, 0, key, 0) for _, end, key, _ in notes if end < SECONDS]
    for time_s, is_on, key, velocity in sorted(changes):
        yield (round(time_s * RATE_HZ), *(("noteon", key, velocity) if is_on else ("noteoff", key)))


def render(*, soundfont: list[Path], out: Path, n_phrases: int = 5, n_beats: int = 120, seed: int = 0) -> None:
    """Render every timbre of every soundfont, and drum beats, into a folder with a manifest.

    Args:
        soundfont: General MIDI soundfonts.
        out: the folder.
        n_phrases: of each timbre.
        n_beats: drum beats.
        seed: of all notes.
    """
    generator = random.Random(seed)
    out.mkdir(parents=True, exist_ok=True)
    work = [(timbre, phrase(timbre, generator)) for timbre in timbres() for _ in range(n_phrases)]
    work += [(DRUM_KIT, beat(generator)) for _ in range(n_beats)]
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for font_number, path in enumerate(soundfont):
            synth = Synth(path, RATE_HZ)
            for number, (timbre, notes) in enumerate(work):
                samples = play(synth, timbre, notes)
                peak = float(np.abs(samples).max())
                if peak < 1e-3:
                    continue
                name = f"{font_number}-{number:05d}.wav"
                soundfile.write(out / name, samples * min(1.0, 0.9 / peak), RATE_HZ, "PCM_16")
                row = {
                    "path": name, "kind": "rendered", "song": None, "label": timbre.label, "active": 1.0,
                    "synonyms": timbre.synonyms, "family": timbre.family, "seconds": SECONDS,
                }  # fmt: skip
                manifest.write(json.dumps(row) + "\n")
