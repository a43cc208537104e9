"""Render short labelled clips with General MIDI soundfonts, for the audio tower.

    python -m unisep_train clips --soundfont FONT.sf3 --out rendered

Lines, chords, hits and drum beats by the rules of `render`, four seconds each, written as 16-bit files with a manifest
like the corpus's. Needs `tinysoundfont`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from pydantic import TypeAdapter

from unisep_train.rendering.scores import Part, Score, bass_part, chord_part, drum_parts, lead_part, new_score, table
from unisep_train.rendering.songs import Synth, play

RATE_HZ = 32000
SECONDS = 4.0
# Programs that people play as single lines, low ones, and drums of the melodic bank.
LOW = {*range(32, 40), 43, 58, 67, 70}
CHORD_SHARE = 0.35  # of the phrases of other programs
KIT_STYLES = ("rock", "pop", "electronic", "jazz", "funk", "latin")


@dataclass(frozen=True)
class Timbre:
    """One row of `general_midi.toml`: a program of the melodic bank, or a note of the percussion bank."""

    label: str
    synonyms: tuple[str, ...]
    family: str
    program: int = 0
    percussion_note: int | None = None


TIMBRES = TypeAdapter(tuple[Timbre, ...]).validate_python(table("general_midi.toml")["timbres"])
DRUM_KIT = Timbre("drums", ("drum kit", "drum loop", "drum beat"), "drums", percussion_note=0)


def phrase(timbre: Timbre, score: Score, rng: np.random.Generator) -> Part:
    """Write what a timbre plays: a beat of the whole kit, hits of one piece, a line or chords."""
    if timbre is DRUM_KIT:
        score = replace(score, style=str(rng.choice(KIT_STYLES)))
        notes = [note for part in drum_parts(score, rng) for note in part.notes]
    elif timbre.percussion_note is not None:
        notes = [replace(note, key=timbre.percussion_note) for note in bass_part(score, 36, 48, rng)]
    elif timbre.program in LOW:
        notes = list(lead_part(score, 28, 52, rng))
    else:
        notes = list((chord_part if rng.random() < CHORD_SHARE else lead_part)(score, 45, 81, rng))
    notes = [note for note in notes if score.seconds(note.start_beats) < SECONDS - 0.2]
    is_drums = timbre.percussion_note is not None
    names = timbre.label, timbre.synonyms, timbre.family, "none"
    return Part(*names, timbre.program, tuple(notes), 0.0, "lead", is_drums)


def render(*, soundfont: list[Path], out: Path, n_phrases: int = 5, n_beats: int = 120, seed: int = 0) -> None:
    """Render every timbre of every soundfont, and drum beats, into a folder with a manifest.

    Args:
        soundfont: General MIDI soundfonts.
        out: the folder.
        n_phrases: of each timbre.
        n_beats: drum beats.
        seed: of all notes.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = [timbre for timbre in TIMBRES for _ in range(n_phrases)] + [DRUM_KIT] * n_beats
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for font_number, path in enumerate(soundfont):
            synth = Synth(path, RATE_HZ)
            for number, timbre in enumerate(work):
                rng = np.random.default_rng((seed, number))
                score = new_score(SECONDS, rng)
                samples = play(synth, phrase(timbre, score, rng), score, rng, SECONDS).mean(1)
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
