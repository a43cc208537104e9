"""Scores made by rule: short pieces in a style, with parts that belong together.

Everything is counted in beats from the start of the piece; `Score.tempo_bpm` turns beats into seconds. The rules
are plain: a key, a loop of chords, and for each role a pattern that follows the chords; motifs repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BEATS_PER_BAR = 4
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Loops of four chords, as steps of the scale (0 is the tonic).
PROGRESSIONS = (
    (0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 5), (0, 6, 3, 0), (0, 3, 0, 4),
    (0, 2, 3, 4), (3, 4, 2, 5), (0, 0, 3, 4), (0, 6, 5, 4), (5, 4, 3, 4),
)  # fmt: skip
# Onsets in a bar, in sixteenths.
LEAD_RHYTHMS = (
    (0, 4, 8, 12), (0, 4, 6, 8, 12), (0, 6, 8, 14), (0, 2, 4, 8, 10, 12), (0, 3, 6, 8, 11, 14), (4, 6, 8, 10),
    (0, 8), (0, 2, 3, 4, 8, 12), (2, 4, 6, 10, 12, 14), (0, 12, 14),
)  # fmt: skip
BASS_RHYTHMS = (
    (0, 2, 4, 6, 8, 10, 12, 14), (0, 8), (0, 6, 8, 14), (0, 3, 6, 8, 11, 14), (0, 4, 8, 12), (0, 7, 8, 10, 15), (0,),
    (2, 6, 10, 14),
)  # fmt: skip
CHORD_RHYTHMS = ((0,), (0, 8), (0, 4, 8, 12), (2, 6, 10, 14), (4, 12), (0, 3, 6, 8, 11, 14), (0, 6, 8, 14),
                 (0, 2, 4, 6, 8, 10, 12, 14))  # fmt: skip


@dataclass(frozen=True)
class Note:
    """One note: MIDI key and velocity, onset and length in beats."""

    start_beats: float
    n_beats: float
    key: int
    velocity: int


@dataclass(frozen=True)
class Style:
    """Tempo range, how much off-beat eighths are delayed, and which pieces of a kit may play what.

    A drum pattern has 16 places a bar: X loud, x normal, o open (hi-hat), . silence.
    """

    tempo_bpm: tuple[int, int]
    swing: float
    drums: tuple[dict[str, str], ...]
    kits: tuple[int, ...]


ROCK = {"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."}
STYLES: dict[str, Style] = {
    "rock": Style((95, 160), 0.0, (
        ROCK, {**ROCK, "kick": "X..x....X.......", "hat": "X.x.x.x.X.x.x.o."},
        {"kick": "X.....x.X.x.....", "snare": "....X.......X..x", "ride": "x.x.x.x.x.x.x.x."},
    ), (0, 8, 16)),
    "pop": Style((88, 128), 0.0, (
        {**ROCK, "tambourine": "....x.......x..."}, {"kick": "X..X..X.X..X..X.", "clap": "....X.......X...", "hat": "xxxxxxxxxxxxxxxx"},
        {"kick": "X.......X.......", "stick": "....x.......x...", "shaker": "xxxxxxxxxxxxxxxx"},
    ), (0, 8, 24)),
    "electronic": Style((110, 150), 0.0, (
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "..o...o...o...o."},
        {"kick": "X...X...X...X...", "hat": "x.xxx.xxx.xxx.xx", "snare": "....X.......X.x."},
        {"kick": "X.....X...X.....", "snare": "....X.......X...", "hat": "xxxxxxxxxxxxxxxx", "cowbell": "..x..x....x..x.."},
    ), (24, 25)),
    "jazz": Style((90, 180), 0.33, (
        {"ride": "x...x.x.x...x.x.", "hat": "....x.......x...", "kick": "x.......x.......", "snare": ".......x......x."},
        {"ride": "x...x.x.x...x.x.", "stick": "............x...", "kick": "x...x...x...x..."},
    ), (32, 40)),
    "funk": Style((92, 116), 0.08, (
        {"kick": "X.x...x...X..x..", "snare": "....X..x.x..X..x", "hat": "xxxxxxxxxxxxxxxx"},
        {"kick": "X..x..x...x.....", "snare": "....X.......X...", "hat": "x.x.x.xox.x.x.xo", "congas": "x..x..x.x..x.x.x"},
    ), (0, 8, 16)),
    "latin": Style((88, 120), 0.0, (
        {"kick": "X..xX..xX..xX..x", "stick": "x..x..x...x.x...", "shaker": "xxxxxxxxxxxxxxxx", "congas": "..x.xx.x..x.xxxx"},
        {"claves": "x..x..x...x.x...", "congas": "..x...xx..x...xx", "bongos": "x.xxx.xxx.xxx.xx", "cowbell": "x.x.x.x.x.x.x.x."},
    ), (0, 32)),
    "folk": Style((76, 130), 0.1, (
        {"tambourine": "..x...x...x...x.", "kick": "x.......x......."}, {"shaker": "x.x.x.x.x.x.x.x."}, {},
    ), (0, 40)),
    "ballad": Style((60, 84), 0.0, (
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X.........x.....", "stick": "....x.......x...", "ride": "x.x.x.x.x.x.x.x."}, {},
    ), (0, 8)),
    "orchestral": Style((70, 120), 0.0, ({}, {"triangle": "x.......x......."}), (48,)),
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """The frame of a piece: style, tempo, key and one chord a bar; parts are written by `part`."""

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
        """The time of a beat, off-beat eighths delayed by the style's swing."""
        whole, part = divmod(beats, 1.0)
        swing = STYLES[self.style].swing
        part = part * (1 + swing) if part <= 0.5 else 0.5 * (1 + swing) + (part - 0.5) * (1 - swing)
        return (whole + part) * 60.0 / self.tempo_bpm

    def degree(self, step: int) -> int:
        """The pitch of a step of the scale, in semitones above MIDI key 0."""
        octave, place = divmod(step, len(self.scale))
        return self.tonic + 12 * octave + self.scale[place]

    def chord(self, bar: int) -> list[int]:
        """Pitches of the bar's chord in its lowest octave, root first."""
        root = self.chords[bar]
        return [self.degree(root + step) for step in ((0, 2, 4, 6) if self.sevenths else (0, 2, 4))]


def new_score(seconds: float, rng: np.random.Generator) -> Score:
    """A random frame of about `seconds`, in whole loops of two bars."""
    style = str(rng.choice(list(STYLES)))
    tempo_bpm = float(rng.integers(*STYLES[style].tempo_bpm, endpoint=True))
    n_bars = max(4, 2 * round(seconds * tempo_bpm / 60 / BEATS_PER_BAR / 2))
    loop = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
    scale = SCALES[str(rng.choice(list(SCALES)))]
    sevenths = style in ("jazz", "funk") or rng.random() < 0.25
    chords = tuple(loop[bar % len(loop)] for bar in range(n_bars))
    return Score(style, tempo_bpm, int(rng.integers(12)), scale, chords, bool(sevenths))


def into_range(key: int, low: int, high: int) -> int:
    """The key moved by octaves into `low..high`."""
    while key < low:
        key += 12
    while key > high:
        key -= 12
    return key


def voicing(pitches: Sequence[int], centre: float, low: int, high: int) -> list[int]:
    """The chord's pitches, each in the octave nearest to `centre`."""
    return sorted({into_range(p + 12 * round((centre - p) / 12), low, high) for p in pitches})


def velocity(place: int, rng: np.random.Generator, base: int = 84) -> int:
    """Velocity at a sixteenth of the bar: accents on the beats, and a little chance."""
    accent = 14 if place % 8 == 0 else 6 if place % 4 == 0 else -4
    return int(np.clip(base + accent + rng.normal(0, 6), 25, 122))


def bass_part(score: Score, low: int, high: int, rng: np.random.Generator) -> list[Note]:
    """A bass line: roots and fifths on a fixed rhythm, or a walking line in jazz."""
    rhythm = BASS_RHYTHMS[rng.integers(len(BASS_RHYTHMS))]
    walking = score.style == "jazz"
    rhythm = (0, 4, 8, 12) if walking else rhythm
    length = rng.choice((0.5, 0.8, 0.95))
    picks = rng.choice((0, 0, 0, 2, 0, 1), size=len(rhythm))
    notes = []
    for bar in range(len(score.chords)):
        chord = score.chord(bar)
        for number, (place, until) in enumerate(zip(rhythm, (*rhythm[1:], 16), strict=True)):
            pick = int(rng.integers(3)) if walking and number else int(picks[number]) if number else 0
            key = into_range(chord[pick] + 24, low, high)
            notes.append(_note(bar, place, until, key, length, rng, 92))
    return notes


def chord_part(score: Score, low: int, high: int, rng: np.random.Generator, power: bool = False) -> list[Note]:
    """Chords on a fixed rhythm, close voicings, perhaps strummed; `power` leaves root and fifth."""
    rhythm = CHORD_RHYTHMS[rng.integers(len(CHORD_RHYTHMS))]
    centre = (low + high) / 2 + rng.uniform(-5, 3) if not power else low + 10
    length, strum_beats = rng.choice((0.35, 0.7, 0.97)), rng.choice((0.0, 0.0, 0.02, 0.05))
    notes = []
    for bar in range(len(score.chords)):
        chord = score.chord(bar)
        keys = voicing([chord[0], chord[2], chord[0] + 12] if power else chord, centre, low, high)
        for place, until in zip(rhythm, (*rhythm[1:], 16), strict=True):
            loud = velocity(place, rng, 78)
            for number, key in enumerate(keys):
                note = _note(bar, place, until, key, length, rng, loud)
                notes.append(Note(note.start_beats + number * strum_beats, note.n_beats, key, note.velocity))
    return notes


def pad_part(score: Score, low: int, high: int, rng: np.random.Generator) -> list[Note]:
    """Held chords, one a bar."""
    centre = (low + high) / 2 + rng.uniform(-8, 4)
    return [
        _note(bar, 0, 16, key, 0.98, rng, 70)
        for bar in range(len(score.chords))
        for key in voicing(score.chord(bar), centre, low, high)
    ]


def arpeggio_part(score: Score, low: int, high: int, rng: np.random.Generator) -> list[Note]:
    """Broken chords in eighths or sixteenths: up, down, up and down, or in one random order."""
    step, shape = int(rng.choice((1, 2, 2))), int(rng.integers(4))
    centre, length = (low + high) / 2 + rng.uniform(-6, 6), rng.choice((0.5, 0.9, 1.6))
    shuffled = rng.permutation(8)
    notes = []
    for bar in range(len(score.chords)):
        keys = voicing(score.chord(bar), centre, low, high)
        keys = [*keys, into_range(keys[0] + 12, low, high)]
        order = [keys, keys[::-1], [*keys, *keys[-2:0:-1]], [keys[k % len(keys)] for k in shuffled]][shape]
        for number, place in enumerate(range(0, 16, step)):
            notes.append(_note(bar, place, place + step, order[number % len(order)], length, rng, 80))
    return notes


def lead_part(score: Score, low: int, high: int, rng: np.random.Generator) -> list[Note]:
    """A melody: a two-bar motif over the chords that returns, with rests between phrases."""
    rhythms = [LEAD_RHYTHMS[k] for k in rng.integers(len(LEAD_RHYTHMS), size=2)]
    walk = [rng.choice((-2, -1, -1, 0, 1, 1, 2), size=8) for _ in range(2)]
    length = rng.choice((0.6, 0.9, 1.0))
    centre = (low + high) / 2 + rng.uniform(-4, 4)
    notes, rest_every = [], int(rng.choice((4, 8, 100)))
    for bar in range(len(score.chords)):
        if bar % rest_every == rest_every - 1:
            continue
        rhythm = rhythms[bar % 2]
        step = score.chords[bar] + int(rng.choice((0, 2, 4)))
        for number, (place, until) in enumerate(zip(rhythm, (*rhythm[1:], 16), strict=True)):
            step += 0 if number == 0 else int(walk[bar % 2][number])
            key = score.degree(step)
            key = into_range(key + 12 * round((centre - key) / 12), low, high)
            notes.append(_note(bar, place, until, key, length, rng, 90))
    return notes


def riff_part(score: Score, low: int, high: int, rng: np.random.Generator, power: bool = False) -> list[Note]:
    """A short figure low in the range, the same in every bar but for its chord; `power` adds the fifth."""
    rhythm = BASS_RHYTHMS[rng.integers(len(BASS_RHYTHMS) - 2)]
    steps = [0, *rng.choice((0, 0, 2, 4, 6, 1), size=len(rhythm) - 1)]
    length = rng.choice((0.4, 0.7, 0.95))
    notes = []
    for bar in range(len(score.chords)):
        for number, (place, until) in enumerate(zip(rhythm, (*rhythm[1:], 16), strict=True)):
            key = into_range(score.degree(score.chords[bar] + int(steps[number])) + 36, low, min(high, low + 24))
            added = (0, 7) if power else (0,)
            notes += [_note(bar, place, until, key + interval, length, rng, 90) for interval in added]
    return notes


def _note(bar: int, place: int, until: int, key: int, length: float, rng: np.random.Generator, base: int) -> Note:
    start = bar * BEATS_PER_BAR + place / 4 + max(rng.normal(0, 0.01), -0.02)
    return Note(max(start, 0.0), (until - place) / 4 * float(length), key, velocity(place, rng, base))


def drum_parts(score: Score, rng: np.random.Generator) -> dict[str, list[Note]]:
    """Notes for each piece of the kit; `key` is the index into the piece's keys. Fills close every fourth bar."""
    patterns = STYLES[score.style].drums
    pattern = patterns[rng.integers(len(patterns))]
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
