"""Render made-up songs stem by stem with a General MIDI soundfont into the `rendered` part of a store.

    python -m unisep_train render STORE --soundfont FluidR3Mono_GM.sf3 --songs 280 --rate 44100

The same seed gives the same songs. The last `--valid` songs are marked for validation. Needs `tinysoundfont`;
the soundfont is Debian's `fluidr3mono-gm-soundfont` (MIT). An interrupted run continues where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep.errors import DatasetError
from unisep_train.data.store import PartWriter
from unisep_train.mixing import sounds
from unisep_train.rendering.effects import AMPLIFIER_GAINS_DB, Stem, amplify, double_track, drive, reverb, swell
from unisep_train.rendering.kits import Kit, is_kit
from unisep_train.rendering.scores import Part, Score, arrange, humanised, new_score
from unisep_train.rendering.synthesizer import Patch

log = logging.getLogger(__name__)
Event = tuple[Any, ...]  # a sample from the start, the synthesizer's method to call there, what comes after the channel

SYNTH_RATE_HZ = 44100
PERCUSSION_BANK = 128
# Pitch wheel: 8192 is the middle, and its range is two semitones.
WHEEL_CENTRE, WHEEL_PER_SEMITONE = 8192, 4096
TAIL_SECONDS = 1.5
# Brings a kit, as the soundfont plays it, to the level of the other parts.
KIT_GAIN_DB = 8.0
CLEAN_GUITAR = 27  # a program: what an amplifier is fed
SYNTHESIZERS = frozenset({38, 39, 62, 63, *range(80, 96)})  # programs
DRIVE_PROBABILITY, COLOUR_PROBABILITY, REVERB_PROBABILITY = 0.12, 0.4, 0.3
DEFAULT_SOUNDFONT = Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3")


def song_parts(index: int, seed: int, seconds: float) -> tuple[Score, list[Part]]:
    """Return the score and parts of song `index`."""
    rng = np.random.default_rng((seed, index))
    score = new_score(seconds, rng)
    return score, arrange(score, rng)


@final
class Synth:
    """A soundfont, loaded once. After every call all notes end, and `fading_seconds` of what is left are thrown away."""

    def __init__(self, soundfont: Path, sample_rate_hz: int, fading_seconds: float = 0.0) -> None:
        try:
            import tinysoundfont
        except ImportError as error:
            raise DatasetError("Rendering needs tinysoundfont: pip install --no-deps tinysoundfont.") from error
        if not soundfont.is_file():
            raise DatasetError(f"No soundfont at {soundfont}. On Debian: apt install fluidr3mono-gm-soundfont.")
        self.sample_rate_hz = sample_rate_hz
        self._n_fading = round(fading_seconds * sample_rate_hz)
        self._synth = tinysoundfont.Synth(samplerate=sample_rate_hz, gain=-6)
        self._soundfont = self._synth.sfload(str(soundfont))

    def has(self, program: int) -> bool:
        """Tell whether the soundfont has a melodic program."""
        return self._synth.sfpreset_name(self._soundfont, 0, program) is not None

    def play(self, program: int, is_drums: bool, events: Iterable[Event], n_samples: int) -> NDArray[np.float32]:
        """Return `[n_samples, 2]` of what the events make of a program."""
        self._synth.program_select(0, self._soundfont, PERCUSSION_BANK if is_drums else 0, program, is_drums)
        sound = np.zeros((n_samples, 2), dtype=np.float32)
        position = 0
        for at, method, *values in sorted(events, key=lambda event: event[0]):
            at = min(max(at, position), n_samples)
            sound[position:at] = self._generate(at - position)
            position = at
            getattr(self._synth, method)(0, *values)
        sound[position:] = self._generate(n_samples - position)
        self._synth.pitchbend(0, WHEEL_CENTRE)
        self._synth.sounds_off()
        self._generate(self._n_fading)
        return sound

    def _generate(self, n_samples: int) -> NDArray[np.float32]:
        if not n_samples:
            return np.zeros((0, 2), dtype=np.float32)
        return np.frombuffer(self._synth.generate(n_samples), dtype=np.float32).reshape(-1, 2)[:n_samples]


def play(synth: Synth, part: Part, score: Score, rng: np.random.Generator, seconds: float | None = None) -> Stem:
    """Play the part for some seconds, or all of it with a tail: `[samples, 1]` where both channels are the same, else 2."""
    rate_hz = synth.sample_rate_hz
    n_samples = _n_samples(score, rate_hz) if seconds is None else round(seconds * rate_hz)
    sound = synth.play(part.program, part.is_drums, _events(part, score, rate_hz, rng), n_samples)
    return sound[:, :1] if np.array_equal(sound[:, 0], sound[:, 1]) else sound


@dataclass(frozen=True)
class Band:
    """Who plays a song besides the soundfont.

    Attributes:
        kits: recorded drum kits, or soundfonts of drums; each song is played on one of them or on the soundfont's.
        amplified: share of the electric guitars that go through an amplifier; half of the distorted ones are double-tracked.
        synthesized: share of the synthesizers, and of the synth basses, that the synthesizer plays.
        fonts: further soundfonts; each that has a part's program is as likely to play it as the first one.
    """

    kits: Sequence[Kit | Synth] = ()
    amplified: float = 0.0
    synthesized: float = 0.0
    fonts: Sequence[Synth] = ()

    def take(
        self, synth: Synth, part: Part, score: Score, rng: np.random.Generator, of_song: np.random.Generator
    ) -> Stem | None:
        """Return the part as the band plays it, or None where the soundfont does; `of_song` is the same for all its parts."""
        number = int(of_song.integers(len(self.kits) + 1))
        if part.is_drums and number:
            kit = self.kits[number - 1]
            if isinstance(kit, Synth):
                # Soundfonts of one kit have one kick drum.
                keyed = tuple(replace(note, key=36 if note.key == 35 else note.key) for note in part.notes)
                return play(kit, replace(part, program=0, notes=keyed), score, rng)
            hits = [(first, key, velocity) for first, _, key, velocity in _timed(part, score)]
            return kit.play(hits, _n_samples(score), of_song)
        if part.program in AMPLIFIER_GAINS_DB and rng.random() < self.amplified:
            return self._amplified(synth, part, score, rng)
        if part.program in SYNTHESIZERS and rng.random() < self.synthesized:
            role = "bass" if part.four_stem == "bass" else part.role
            return Patch.drawn(role, rng).play(_timed(part, score), _n_samples(score), SYNTH_RATE_HZ, rng)
        font = synth if part.is_drums else self._font(synth, part.program, rng)
        return None if font is synth else play(font, part, score, rng)

    def _font(self, first: Synth, program: int, rng: np.random.Generator) -> Synth:
        able = [first, *(font for font in self.fonts if font.has(program))]
        return able[rng.integers(len(able))] if self.fonts else first

    def _amplified(self, synth: Synth, part: Part, score: Score, rng: np.random.Generator) -> Stem:
        gain_db = rng.uniform(*AMPLIFIER_GAINS_DB[part.program])
        is_double = gain_db > 15 and part.role != "lead" and rng.random() < 0.5
        guitar = replace(part, program=CLEAN_GUITAR if gain_db > 8 else part.program)
        font = self._font(synth, guitar.program, rng)
        takes = [
            amplify(play(font, humanised(guitar, score, rng), score, rng), SYNTH_RATE_HZ, gain_db, rng)
            for _ in range(1 + is_double)
        ]
        return double_track(takes[0], takes[1], rng) if is_double else takes[0]


def _n_samples(score: Score, rate_hz: int = SYNTH_RATE_HZ) -> int:
    return round((score.seconds(score.n_beats) + TAIL_SECONDS) * rate_hz)


def _timed(part: Part, score: Score, rate_hz: int = SYNTH_RATE_HZ) -> Iterator[tuple[int, int, int, int]]:
    """Yield first sample, end, key and velocity of each note."""
    for note in part.notes:
        start, end = (round(score.seconds(note.start_beats + n) * rate_hz) for n in (0, note.n_beats))
        yield start, end, note.key, note.velocity


def _events(part: Part, score: Score, rate_hz: int, rng: np.random.Generator) -> Iterator[Event]:
    for start, end, key, velocity in _timed(part, score, rate_hz):
        yield start, "noteon", key, velocity
        # A sample early: of two notes of one key in a row, the first must end before the second starts.
        yield max(end, start + rate_hz // 100) - 1, "noteoff", key
    if part.sustained and part.role == "lead":
        vibrato_hz, depth = rng.uniform(4.5, 6.5), rng.uniform(0.05, 0.25)
        for tick in np.arange(0.0, score.seconds(score.n_beats), 0.025):
            wheel = WHEEL_CENTRE + round(WHEEL_PER_SEMITONE * depth * float(np.sin(2 * np.pi * vibrato_hz * tick)))
            yield round(tick * rate_hz), "pitchbend", wheel


def finish(stem: Stem, part: Part, room_seconds: float, rng: np.random.Generator) -> Stem:
    """Give the stem its effects and its level; drums keep the balance of their kit."""
    if part.sustained or part.role == "pad":
        stem = swell(stem, SYNTH_RATE_HZ, 4.0, rng)
    if rng.random() < DRIVE_PROBABILITY:
        stem = drive(stem, rng.uniform(1.0, 4.0))
    if rng.random() < COLOUR_PROBABILITY:
        stem = sounds.colour(stem.T, SYNTH_RATE_HZ, rng).T
    if rng.random() < REVERB_PROBABILITY:
        stem = reverb(stem, SYNTH_RATE_HZ, room_seconds, rng.uniform(-20, -8), rng)
    if part.is_drums:
        return stem * sounds.gain(KIT_GAIN_DB + rng.uniform(-3, 3))
    return sounds.to_level(stem, part.level_db + rng.uniform(-3, 3))


def render(
    store: Path, *, soundfont: list[Path] | None = None, songs: int = 280, valid: int = 24, seconds: float = 24.0,
    seed: int = 0, first: int = 0, part: str = "rendered", rate_hz: int = SYNTH_RATE_HZ, licence: str = "MIT",
    kits: list[Path] | None = None, amplified: float = 0.0, synthesized: float = 0.0,
) -> int:  # fmt: skip
    """Write the stems of all songs into a part of a store, but for those written earlier; return their number.

    Args:
        store: folder of the training store.
        soundfont: a General MIDI soundfont, and perhaps further ones: each plays a share of what it has a program for.
        songs: number of songs.
        valid: how many of them, the last ones, are for validation.
        seconds: about the length of a song.
        seed: of all songs.
        first: number of the first song; a further part of a store goes on where the last one ended.
        part: name of the part inside the store.
        rate_hz: sample rate of the store in Hz.
        licence: of the soundfonts (SPDX), and of the kits.
        kits: drum kits of Hydrogen (folders) and soundfonts of drums; a song takes one of them or the soundfont's own.
        amplified: share of the electric guitars that are played through an amplifier.
        synthesized: share of the synthesizers that are not the soundfont's.
    """
    paths = soundfont or [DEFAULT_SOUNDFONT]
    opened = partial(Synth, sample_rate_hz=SYNTH_RATE_HZ, fading_seconds=0.2)
    synth, *fonts = map(opened, paths)
    loaded = [Kit(path, SYNTH_RATE_HZ) if is_kit(path) else opened(path) for path in kits or []]
    band = Band(loaded, amplified, synthesized, fonts)
    n_written = 0
    with PartWriter(store, part, rate_hz, ", ".join(str(path.resolve()) for path in paths)) as writer:
        for index in range(first, first + songs):
            split = "valid" if index >= first + songs - valid else "train"
            n_written += _render_song(index, seed, seconds, split, writer, synth, band, licence)
            if (index - first) % 25 == 24:
                log.info("%d of %d songs", index - first + 1, songs)
    log.info("%d stems written to %s", n_written, store / part)
    return n_written


def _render_song(
    index: int, seed: int, seconds: float, split: str, writer: PartWriter, synth: Synth, band: Band, licence: str
) -> int:
    song, (score, parts) = f"render-{index:04d}", song_parts(index, seed, seconds)
    room_seconds = float(np.random.default_rng((seed, index, 999)).uniform(0.3, 2.0))
    n_written = 0
    for number, part in enumerate(parts):
        name = f"{number:02d}-{part.label}"
        if f"{song}/{name}" in writer.done:
            continue
        rng = np.random.default_rng((seed, index, number))
        # Draws of their own: without a band, a song is what it was before there were any.
        taken = band.take(
            synth, part, score, *(np.random.default_rng((seed, index, *more)) for more in ((number, 1), (998,)))
        )
        stem = finish(play(synth, part, score, rng) if taken is None else taken, part, room_seconds, rng)
        if sounds.level_db(stem) < -80:
            continue
        if writer.sample_rate_hz != SYNTH_RATE_HZ:
            stem = soxr.resample(stem, SYNTH_RATE_HZ, writer.sample_rate_hz, quality="HQ")
        writer.add(
            np.ascontiguousarray(stem), id=f"{song}/{name}", kind="rendered", song=song, stem=name, label=part.label,
            synonyms=part.synonyms, family=part.family, four_stem=part.four_stem, split=split, licence=licence,
            source_rate_hz=SYNTH_RATE_HZ,
        )  # fmt: skip
        n_written += 1
    return n_written
