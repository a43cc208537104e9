"""Scores made by rule: short pieces in a style, with parts that belong together, and who plays them.

Everything is counted in beats from the start of the piece; `Score.tempo_bpm` turns beats into seconds. The rules
are plain: a key, a loop of chords, and for each role a pattern that follows the chords; motifs repeat.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
from pydantic import TypeAdapter

BEATS_PER_BAR = 4
HUMAN_SECONDS = 0.008  # between when a note is meant and when it is played, as a standard deviation


def table(name: str) -> dict[str, Any]:
    """Read a TOML file of this package."""
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Note:
    """One note: MIDI key and velocity, onset and length in beats."""

    start_beats: float
    n_beats: float
    key: int
    velocity: int


@dataclass(frozen=True)
class Style:
    """Tempo range, how much off-beat eighths are delayed, and which pieces of a kit may play what (`styles.toml`)."""

    tempo_bpm: tuple[int, int]
    swing: float
    drums: tuple[dict[str, str], ...]
    kits: tuple[int, ...]


_TABLE = table("styles.toml")
SCALES = TypeAdapter(dict[str, tuple[int, ...]]).validate_python(_TABLE["scales"])
RHYTHMS: dict[str, list[list[int]]] = _TABLE["rhythms"]
STYLES = TypeAdapter(dict[str, Style]).validate_python(_TABLE["styles"])


@dataclass(frozen=True)
class Score:
    """The frame of a piece: style, tempo, key and one chord a bar."""

    style: str
    tempo_bpm: float
    tonic: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]
    sevenths: bool

    @property
    def n_beats(self) -> float:
        """Length in beats."""
        return len(self.chords) * BEATS_PER_BAR

    def seconds(self, beats: float) -> float:
        """Return the time of a beat, off-beat eighths delayed by the style's swing."""
        whole, part = divmod(beats, 1.0)
        swing = STYLES[self.style].swing
        part = part * (1 + swing) if part <= 0.5 else 0.5 * (1 + swing) + (part - 0.5) * (1 - swing)
        return (whole + part) * 60.0 / self.tempo_bpm

    def degree(self, step: int) -> int:
        """Return the pitch of a step of the scale, in semitones above MIDI key 0."""
        octave, place = divmod(step, len(self.scale))
        return self.tonic + 12 * octave + self.scale[place]

    def chord(self, bar: int) -> list[int]:
        """Return the pitches of the bar's chord in its lowest octave, root first."""
        root = self.chords[bar]
        return [self.degree(root + step) for step in ((0, 2, 4, 6) if self.sevenths else (0, 2, 4))]


def new_score(seconds: float, rng: np.random.Generator) -> Score:
    """Draw a frame of about `seconds`, in whole loops of two bars."""
    style = str(rng.choice(list(STYLES)))
    tempo_bpm = float(rng.integers(*STYLES[style].tempo_bpm, endpoint=True))
    n_bars = max(4, 2 * round(seconds * tempo_bpm / 60 / BEATS_PER_BAR / 2))
    loop = _drawn(_TABLE["progressions"], rng)
    scale = SCALES[str(rng.choice(list(SCALES)))]
    sevenths = style in ("jazz", "funk") or rng.random() < 0.25
    chords = tuple(loop[bar % len(loop)] for bar in range(n_bars))
    return Score(style, tempo_bpm, int(rng.integers(12)), scale, chords, bool(sevenths))


def _drawn(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _spans(score: Score, rhythm: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the bar of each note, its number in it, where it begins, and where the next one does, in sixteenths."""
    for bar in range(len(score.chords)):
        for number, (place, until) in enumerate(zip(rhythm, (*rhythm[1:], 16), strict=True)):
            yield bar, number, place, until


def into_range(key: int, low: int, high: int) -> int:
    """Move the key by octaves into `low..high`."""
    while key < low:
        key += 12
    while key > high:
        key -= 12
    return key


def voicing(pitches: Sequence[int], centre: float, low: int, high: int) -> list[int]:
    """Bring each of the chord's pitches into the octave nearest to `centre`."""
    return sorted({into_range(p + 12 * round((centre - p) / 12), low, high) for p in pitches})


def velocity(place: int, rng: np.random.Generator, base: int = 84) -> int:
    """Draw the velocity at a sixteenth of the bar: accents on the beats, and a little chance."""
    accent = 14 if place % 8 == 0 else 6 if place % 4 == 0 else -4
    return int(np.clip(base + accent + rng.normal(0, 6), 25, 122))


def bass_part(score: Score, low: int, high: int, rng: np.random.Generator) -> Iterator[Note]:
    """Write a bass line: roots and fifths on a fixed rhythm, or a walking line in jazz."""
    rhythm, walking = _drawn(RHYTHMS["bass"], rng), score.style == "jazz"
    rhythm = (0, 4, 8, 12) if walking else rhythm
    length = rng.choice((0.5, 0.8, 0.95))
    picks = rng.choice((0, 0, 0, 2, 0, 1), size=len(rhythm))
    for bar, number, place, until in _spans(score, rhythm):
        pick = int(rng.integers(3)) if walking and number else int(picks[number]) if number else 0
        yield _note(bar, place, until, into_range(score.chord(bar)[pick] + 24, low, high), length, rng, 92)


def chord_part(score: Score, low: int, high: int, rng: np.random.Generator, power: bool = False) -> Iterator[Note]:
    """Write chords on a fixed rhythm, close voicings, perhaps strummed; `power` leaves root and fifth."""
    rhythm = _drawn(RHYTHMS["chords"], rng)
    centre = (low + high) / 2 + rng.uniform(-5, 3) if not power else low + 10
    length, strum_beats = rng.choice((0.35, 0.7, 0.97)), rng.choice((0.0, 0.0, 0.02, 0.05))
    for bar, _, place, until in _spans(score, rhythm):
        chord, loud = score.chord(bar), velocity(place, rng, 78)
        keys = voicing([chord[0], chord[2], chord[0] + 12] if power else chord, centre, low, high)
        for number, key in enumerate(keys):
            note = _note(bar, place, until, key, length, rng, loud)
            yield replace(note, start_beats=note.start_beats + number * strum_beats)


def pad_part(score: Score, low: int, high: int, rng: np.random.Generator) -> Iterator[Note]:
    """Write held chords, one a bar."""
    centre = (low + high) / 2 + rng.uniform(-8, 4)
    for bar, _, place, until in _spans(score, [0]):
        for key in voicing(score.chord(bar), centre, low, high):
            yield _note(bar, place, until, key, 0.98, rng, 70)


def arpeggio_part(score: Score, low: int, high: int, rng: np.random.Generator) -> Iterator[Note]:
    """Write broken chords in eighths or sixteenths: up, down, up and down, or in one random order."""
    step, shape = int(rng.choice((1, 2, 2))), int(rng.integers(4))
    centre, length = (low + high) / 2 + rng.uniform(-6, 6), rng.choice((0.5, 0.9, 1.6))
    shuffled = rng.permutation(8)
    for bar, number, place, until in _spans(score, range(0, 16, step)):
        keys = voicing(score.chord(bar), centre, low, high)
        keys = [*keys, into_range(keys[0] + 12, low, high)]
        order = [keys, keys[::-1], [*keys, *keys[-2:0:-1]], [keys[k % len(keys)] for k in shuffled]][shape]
        yield _note(bar, place, until, order[number % len(order)], length, rng, 80)


def lead_part(score: Score, low: int, high: int, rng: np.random.Generator) -> Iterator[Note]:
    """Write a melody: a two-bar motif over the chords that returns, with rests between phrases."""
    rhythms = [RHYTHMS["lead"][k] for k in rng.integers(len(RHYTHMS["lead"]), size=2)]
    walk = [rng.choice((-2, -1, -1, 0, 1, 1, 2), size=8) for _ in range(2)]
    length = rng.choice((0.6, 0.9, 1.0))
    centre = (low + high) / 2 + rng.uniform(-4, 4)
    rest_every = int(rng.choice((4, 8, 100)))
    for bar, chord in enumerate(score.chords):
        if bar % rest_every == rest_every - 1:
            continue
        step, rhythm = chord + int(rng.choice((0, 2, 4))), rhythms[bar % 2]
        for place, until, change in zip(rhythm, (*rhythm[1:], 16), (0, *walk[bar % 2][1:]), strict=False):
            step += int(change)
            (key,) = voicing([score.degree(step)], centre, low, high)
            yield _note(bar, place, until, key, length, rng, 90)


def riff_part(score: Score, low: int, high: int, rng: np.random.Generator, power: bool = False) -> Iterator[Note]:
    """Write a short figure low in the range, the same in every bar but for its chord; `power` adds the fifth."""
    rhythm = _drawn(RHYTHMS["bass"][:-2], rng)
    steps = [0, *rng.choice((0, 0, 2, 4, 6, 1), size=len(rhythm) - 1)]
    length = rng.choice((0.4, 0.7, 0.95))
    for bar, number, place, until in _spans(score, rhythm):
        key = into_range(score.degree(score.chords[bar] + int(steps[number])) + 36, low, min(high, low + 24))
        for interval in (0, 7) if power else (0,):
            yield _note(bar, place, until, key + interval, length, rng, 90)


def _note(bar: int, place: int, until: int, key: int, length: float, rng: np.random.Generator, base: int) -> Note:
    start = bar * BEATS_PER_BAR + place / 4 + max(rng.normal(0, 0.01), -0.02)
    return Note(max(start, 0.0), (until - place) / 4 * float(length), key, velocity(place, rng, base))


def drum_notes(score: Score, rng: np.random.Generator) -> dict[str, list[Note]]:
    """Write notes for each piece of the kit; `key` is the index into the piece's keys. Fills close every fourth bar."""
    pattern = _drawn(STYLES[score.style].drums, rng)
    parts: dict[str, list[Note]] = {piece: [] for piece in pattern}
    has_kit = "snare" in pattern or "clap" in pattern
    fill_every = int(rng.choice((4, 4, 8, 100))) if has_kit else 100
    for bar in range(len(score.chords)):
        is_fill = bar % fill_every == fill_every - 1
        for piece, places in pattern.items():
            for place, mark in enumerate(places):
                if mark == "." or (is_fill and place >= 12 and piece != "kick") or rng.random() < 0.02:
                    continue
                key = 1 if mark == "o" else int(place % 3) if piece in ("congas", "bongos") else 0
                loud = velocity(place, rng, 100 if mark == "X" else 82)
                start = max(bar * BEATS_PER_BAR + place / 4 + rng.normal(0, 0.006), 0.0)
                parts[piece].append(Note(start, 0.24, key, loud))
        if is_fill:
            start = bar * BEATS_PER_BAR + 3
            parts.setdefault("toms", []).extend(Note(start + k / 4, 0.24, k, 96) for k in range(4))
        if has_kit and bar % fill_every == 0 and rng.random() < 0.7:
            parts.setdefault("crash", []).append(Note(bar * BEATS_PER_BAR, 2.0, 0, 100))
    return parts


@dataclass(frozen=True)
class Role:
    """The role of a part: how likely a piece has one, its level in dBFS, and what writes its notes."""

    probability: float
    level_db: float
    write: Callable[..., Iterable[Note]]


ROLES = {
    "chords": Role(0.9, -23.0, chord_part),
    "pad": Role(0.4, -25.0, pad_part),
    "lead": Role(0.85, -20.0, lead_part),
    "arpeggio": Role(0.5, -24.0, arpeggio_part),
    "riff": Role(0.45, -21.0, riff_part),
    "bass": Role(0.93, -19.0, bass_part),
}


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Piece:
    """A piece of the drum kit: the MIDI keys that sound it."""

    name: str
    label: str
    keys: list[int]


@dataclass(frozen=True)
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


_PLAYERS = table("instruments.toml")
INSTRUMENTS = TypeAdapter(tuple[Instrument, ...]).validate_python(_PLAYERS["instrument"])
PIECES = {row["name"]: Piece(**row) for row in _PLAYERS["piece"]}


def arrange(score: Score, rng: np.random.Generator) -> list[Part]:
    """Draw the parts of a piece: drums piece by piece, a bass, and two to five others with different labels."""
    parts = drum_parts(score, rng)
    used: set[str] = set()
    roles = [name for name, role in ROLES.items() if rng.random() < role.probability]
    roles += ["chords"] * (len(roles) < 3) + ["lead"] * (rng.random() < 0.25)
    for name in roles:
        fitting = [i for i in INSTRUMENTS if name in i.roles and score.style in i.styles and i.label not in used]
        if fitting:
            weights = np.array([i.weight for i in fitting])
            instrument = fitting[rng.choice(len(fitting), p=weights / weights.sum())]
            used.add(instrument.label)
            parts.append(_part(score, instrument, name, rng))
    return [part for part in parts if part.notes]


def _part(score: Score, instrument: Instrument, name: str, rng: np.random.Generator) -> Part:
    role = ROLES[name]
    power = {"power": instrument.power_chords} if name in ("chords", "riff") else {}
    notes = list(role.write(score, instrument.low, instrument.high, rng, **power))
    notes = _with_rests(notes, score, 0.1 if name == "bass" else 0.2, rng)
    return Part(
        instrument.label, instrument.synonyms, instrument.family, instrument.four_stem,
        int(rng.choice(instrument.programs)), tuple(notes), role.level_db, name,
        sustained=instrument.bowed or instrument.blown,
    )  # fmt: skip


def _with_rests(notes: list[Note], score: Score, probability: float, rng: np.random.Generator) -> list[Note]:
    """Take some blocks of two bars out: instruments come and go."""
    n_blocks = len(score.chords) // 2 + 1
    plays = rng.random(n_blocks) >= probability
    plays[rng.integers(n_blocks)] = True
    return [note for note in notes if plays[int(note.start_beats // (2 * BEATS_PER_BAR))]]


def humanised(part: Part, score: Score, rng: np.random.Generator) -> Part:
    """Return the part as another take has it: every note a little early or late, louder or softer."""
    beats = HUMAN_SECONDS * score.tempo_bpm / 60
    notes = (
        replace(
            note, start_beats=max(0.0, note.start_beats + rng.normal(0, beats)),
            velocity=int(np.clip(note.velocity + rng.normal(0, 5), 20, 127)),
        )
        for note in part.notes
    )  # fmt: skip
    return replace(part, notes=tuple(notes))


def drum_parts(score: Score, rng: np.random.Generator) -> list[Part]:
    """Write the parts of a kit, a piece each."""
    kit = int(rng.choice(STYLES[score.style].kits))
    parts = []
    for name, notes in drum_notes(score, rng).items():
        piece = PIECES[name]
        shift = int(rng.integers(len(piece.keys))) if name in ("kick", "snare", "crash", "ride") else 0
        keyed = tuple(replace(note, key=piece.keys[(note.key + shift) % len(piece.keys)]) for note in notes)
        parts.append(Part(piece.label, ("drums",), "drums", "drums", kit, keyed, -20.0, "drums", is_drums=True))
    return parts
