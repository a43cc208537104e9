"""Render made-up songs stem by stem with a General MIDI soundfont into the `rendered` part of a store.

    python -m unisep_train render STORE --soundfont FluidR3Mono_GM.sf3 --songs 280 --rate 44100

The same seed gives the same songs. The last `--valid` songs are marked for validation. Needs `tinysoundfont`;
the soundfont is Debian's `fluidr3mono-gm-soundfont` (MIT). An interrupted run continues where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep.errors import DatasetError
from unisep_train.data.store import PartWriter
from unisep_train.mixing import sounds
from unisep_train.rendering.scores import Part, Score, arrange, new_score

log = logging.getLogger(__name__)
Stem = NDArray[np.float32]  # [samples, channels]
Event = tuple[Any, ...]  # a sample from the start, the synthesizer's method to call there, what comes after the channel

SYNTH_RATE_HZ = 44100
PERCUSSION_BANK = 128
# Pitch wheel: 8192 is the middle, and its range is two semitones.
WHEEL_CENTRE, WHEEL_PER_SEMITONE = 8192, 4096
TAIL_SECONDS = 1.5
# Brings a kit, as the soundfont plays it, to the level of the other parts.
KIT_GAIN_DB = 8.0
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
    seconds = score.seconds(score.n_beats) + TAIL_SECONDS if seconds is None else seconds
    events = _events(part, score, synth.sample_rate_hz, rng)
    sound = synth.play(part.program, part.is_drums, events, round(seconds * synth.sample_rate_hz))
    return sound[:, :1] if np.array_equal(sound[:, 0], sound[:, 1]) else sound


def _events(part: Part, score: Score, rate_hz: int, rng: np.random.Generator) -> Iterator[Event]:
    for note in part.notes:
        start, end = (round(score.seconds(note.start_beats + n) * rate_hz) for n in (0, note.n_beats))
        yield start, "noteon", note.key, note.velocity
        # A sample early: of two notes of one key in a row, the first must end before the second starts.
        yield max(end, start + rate_hz // 100) - 1, "noteoff", note.key
    if part.sustained and part.role == "lead":
        vibrato_hz, depth = rng.uniform(4.5, 6.5), rng.uniform(0.05, 0.25)
        for tick in np.arange(0.0, score.seconds(score.n_beats), 0.025):
            wheel = WHEEL_CENTRE + round(WHEEL_PER_SEMITONE * depth * float(np.sin(2 * np.pi * vibrato_hz * tick)))
            yield round(tick * rate_hz), "pitchbend", wheel


def reverb(stem: Stem, sample_rate_hz: int, decay_seconds: float, wet_db: float, rng: np.random.Generator) -> Stem:
    """Put the stem in a room, in stereo: decaying noise, `decay_seconds` to -60 dB, different left and right."""
    n_room = max(round(decay_seconds * sample_rate_hz), 64)
    envelope = 10.0 ** (-3.0 * np.arange(n_room) / n_room)
    room = rng.standard_normal((n_room, 2)) * envelope[:, None]
    # A room swallows treble: a short moving average of the noise does as much.
    room[1:] = 0.6 * room[1:] + 0.4 * room[:-1]
    room *= 10.0 ** (wet_db / 20) / np.sqrt(np.square(room).sum(axis=0))
    delay = round(rng.uniform(0.005, 0.03) * sample_rate_hz)
    n_fft = sounds.fast_length(len(stem) + n_room + delay)
    spectrum = np.fft.rfft(stem, n_fft, axis=0) * np.fft.rfft(room.astype(np.float32), n_fft, axis=0)
    wet = np.fft.irfft(spectrum, n_fft, axis=0)[: len(stem) - delay]
    out = np.repeat(stem, 2, axis=1) if stem.shape[1] == 1 else stem.copy()
    out[delay:] += wet.astype(np.float32)
    return out


def drive(stem: Stem, amount: float) -> Stem:
    """Pass the stem through a soft clipper; `amount` is how far its peak goes beyond the knee."""
    peak = float(np.abs(stem).max(initial=0.0)) or 1.0
    return (np.tanh(stem * (amount / peak)) * (peak / np.tanh(amount))).astype(np.float32)


def swell(stem: Stem, sample_rate_hz: int, range_db: float, rng: np.random.Generator) -> Stem:
    """Change the stem's level slowly within +-`range_db`, with a new aim every two seconds."""
    points = np.linspace(0, len(stem), len(stem) // (2 * sample_rate_hz) + 2)
    curve_db = np.interp(np.arange(len(stem)), points, rng.uniform(-range_db, range_db, len(points)))
    return stem * (10.0 ** (curve_db / 20)).astype(np.float32)[:, None]


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
    store: Path, *, soundfont: Path = DEFAULT_SOUNDFONT, songs: int = 280, valid: int = 24, seconds: float = 24.0,
    seed: int = 0, first: int = 0, part: str = "rendered", rate_hz: int = SYNTH_RATE_HZ,
) -> int:  # fmt: skip
    """Write the stems of all songs into a part of a store, but for those written earlier; return their number.

    Args:
        store: folder of the training store.
        soundfont: a General MIDI soundfont.
        songs: number of songs.
        valid: how many of them, the last ones, are for validation.
        seconds: about the length of a song.
        seed: of all songs.
        first: number of the first song; a further part of a store goes on where the last one ended.
        part: name of the part inside the store.
        rate_hz: sample rate of the store in Hz.
    """
    synth = Synth(soundfont, SYNTH_RATE_HZ, fading_seconds=0.2)
    n_written = 0
    with PartWriter(store, part, rate_hz, str(soundfont.resolve())) as writer:
        for index in range(first, first + songs):
            split = "valid" if index >= first + songs - valid else "train"
            n_written += _render_song(index, seed, seconds, split, writer, synth)
            if (index - first) % 25 == 24:
                log.info("%d of %d songs", index - first + 1, songs)
    log.info("%d stems written to %s", n_written, store / part)
    return n_written


def _render_song(index: int, seed: int, seconds: float, split: str, writer: PartWriter, synth: Synth) -> int:
    song, (score, parts) = f"render-{index:04d}", song_parts(index, seed, seconds)
    room_seconds = float(np.random.default_rng((seed, index, 999)).uniform(0.3, 2.0))
    n_written = 0
    for number, part in enumerate(parts):
        name = f"{number:02d}-{part.label}"
        if f"{song}/{name}" in writer.done:
            continue
        rng = np.random.default_rng((seed, index, number))
        stem = finish(play(synth, part, score, rng), part, room_seconds, rng)
        if sounds.level_db(stem) < -80:
            continue
        if writer.sample_rate_hz != SYNTH_RATE_HZ:
            stem = soxr.resample(stem, SYNTH_RATE_HZ, writer.sample_rate_hz, quality="HQ")
        writer.add(
            np.ascontiguousarray(stem), id=f"{song}/{name}", kind="rendered", song=song, stem=name, label=part.label,
            synonyms=part.synonyms, family=part.family, four_stem=part.four_stem, split=split, licence="MIT",
            source_rate_hz=SYNTH_RATE_HZ,
        )  # fmt: skip
        n_written += 1
    return n_written
