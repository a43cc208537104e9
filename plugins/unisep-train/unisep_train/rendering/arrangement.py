"""Who plays what: instruments drawn for a score, with the notes of each."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from unisep_train.rendering import scores
from unisep_train.rendering.scores import BEATS_PER_BAR, STYLES, Note, Score

# How likely a piece has a part in each role, and its level in dBFS.
ROLES = {"chords": (0.9, -23.0), "pad": (0.4, -25.0), "lead": (0.85, -20.0), "arpeggio": (0.5, -24.0),
         "riff": (0.45, -21.0), "bass": (0.93, -19.0)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A row of `instruments.toml`: programs of one label with their range and roles."""

    programs: tuple[int, ...]
    label: str
    family: str
    low: int
    high: int
    roles: tuple[str, ...]
    weight: float
    synonyms: tuple[str, ...] = ()
    four_stem: str = "other"
    styles: tuple[str, ...] = tuple(STYLES)
    power_chords: bool = False
    bowed: bool = False
    blown: bool = False


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of the drum kit: the MIDI keys that sound it."""

    name: str
    label: str
    keys: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """One stem to be: notes with MIDI keys, and what plays them. Drum parts have `is_drums`."""

    label: str
    synonyms: tuple[str, ...]
    family: str
    four_stem: str
    program: int
    notes: tuple[Note, ...]
    level_db: float
    role: str
    is_drums: bool = False
    sustained: bool = False


@cache
def instruments() -> tuple[Instrument, ...]:
    """The instruments the renderer knows."""
    return tuple(Instrument(**_frozen(row)) for row in _tables()["instrument"])


@cache
def pieces() -> dict[str, Piece]:
    """The pieces of the drum kit by name."""
    return {row["name"]: Piece(**_frozen(row)) for row in _tables()["piece"]}


@cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    text = resources.files(__package__).joinpath("instruments.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _frozen(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def arrange(score: Score, rng: np.random.Generator) -> list[Part]:
    """The parts of a piece: drums piece by piece, a bass, and two to five others with different labels."""
    parts = _drum_parts(score, rng)
    used: set[str] = set()
    roles = [role for role, (likely, _) in ROLES.items() if rng.random() < likely]
    roles += ["chords"] * (len(roles) < 3) + ["lead"] * (rng.random() < 0.25)
    for role in roles:
        fitting = [i for i in instruments() if role in i.roles and score.style in i.styles and i.label not in used]
        if fitting:
            weights = np.array([i.weight for i in fitting])
            instrument = fitting[rng.choice(len(fitting), p=weights / weights.sum())]
            used.add(instrument.label)
            parts.append(_part(score, instrument, role, rng))
    return [part for part in parts if part.notes]


def _part(score: Score, instrument: Instrument, role: str, rng: np.random.Generator) -> Part:
    low, high = instrument.low, instrument.high
    write: dict[str, Callable[[], list[Note]]] = {
        "bass": lambda: scores.bass_part(score, low, high, rng),
        "chords": lambda: scores.chord_part(score, low, high, rng, instrument.power_chords),
        "pad": lambda: scores.pad_part(score, low, high, rng),
        "arpeggio": lambda: scores.arpeggio_part(score, low, high, rng),
        "lead": lambda: scores.lead_part(score, low, high, rng),
        "riff": lambda: scores.riff_part(score, low, high, rng, instrument.power_chords),
    }
    notes = _with_rests(write[role](), score, 0.1 if role == "bass" else 0.2, rng)
    return Part(
        label=instrument.label, synonyms=instrument.synonyms, family=instrument.family,
        four_stem=instrument.four_stem, program=int(rng.choice(instrument.programs)), notes=tuple(notes),
        level_db=ROLES[role][1], role=role, sustained=instrument.bowed or instrument.blown,
    )  # fmt: skip


def _with_rests(notes: list[Note], score: Score, probability: float, rng: np.random.Generator) -> list[Note]:
    """The notes without some blocks of two bars: instruments come and go."""
    n_blocks = len(score.chords) // 2 + 1
    plays = rng.random(n_blocks) >= probability
    plays[rng.integers(n_blocks)] = True
    return [note for note in notes if plays[int(note.start_beats // (2 * BEATS_PER_BAR))]]


def _drum_parts(score: Score, rng: np.random.Generator) -> list[Part]:
    kit = int(rng.choice(STYLES[score.style].kits))
    found = []
    for name, notes in scores.drum_parts(score, rng).items():
        piece = pieces()[name]
        shift = int(rng.integers(len(piece.keys))) if name in ("kick", "snare", "crash", "ride") else 0
        keyed = [dataclasses.replace(note, key=piece.keys[(note.key + shift) % len(piece.keys)]) for note in notes]
        found.append(
            Part(
                label=piece.label, synonyms=("drums",), family="drums", four_stem="drums", program=kit,
                notes=tuple(keyed), level_db=-20.0, role="drums", is_drums=True,
            )
        )  # fmt: skip
    return found
