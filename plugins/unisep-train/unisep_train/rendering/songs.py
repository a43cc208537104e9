"""Render made-up songs stem by stem with a General MIDI soundfont into the `rendered` part of a store.

    python -m unisep_train.rendering.songs STORE --soundfont FluidR3Mono_GM.sf3 --songs 280 --rate 44100

The same seed gives the same songs. The last `--valid` songs are marked for validation. Needs `tinysoundfont`;
the soundfont is Debian's `fluidr3mono-gm-soundfont` (MIT). An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep_train.data.part_writer import PartWriter
from unisep_train.data.store import StoreError
from unisep_train.mixing import augment
from unisep_train.rendering import effects, scores
from unisep_train.rendering.arrangement import Part, arrange
from unisep_train.rendering.effects import Stem
from unisep_train.rendering.scores import Score

log = logging.getLogger(__name__)

SYNTH_RATE_HZ = 44100
TAIL_SECONDS = 1.5
# Brings a kit, as the soundfont plays it, to the level of the other parts.
KIT_GAIN_DB = 8.0
# Pitch wheel: 8192 is the middle, and its range is two semitones.
WHEEL_CENTRE, WHEEL_PER_SEMITONE = 8192, 4096
DEFAULT_SOUNDFONT = Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3")


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """How many songs, how long, and how many of them are kept for validation.

    Song numbers run from `first_song`; a further part of a store continues where the last one ended.
    """

    n_songs: int = 280
    n_valid: int = 24
    seconds: float = 24.0
    seed: int = 0
    first_song: int = 0
    reverb_probability: float = 0.3
    drive_probability: float = 0.12
    colour_probability: float = 0.4


@final
class Player:
    """Plays parts with one soundfont, one at a time."""

    def __init__(self, soundfont: Path) -> None:
        try:
            import tinysoundfont
        except ImportError as error:
            raise StoreError("Rendering needs tinysoundfont: pip install --no-deps tinysoundfont.") from error
        if not soundfont.is_file():
            raise StoreError(f"No soundfont at {soundfont}. On Debian: apt install fluidr3mono-gm-soundfont.")
        self._synth = tinysoundfont.Synth(samplerate=SYNTH_RATE_HZ, gain=-6)
        self._soundfont = self._synth.sfload(str(soundfont))

    def play(self, part: Part, score: Score, rng: np.random.Generator) -> Stem:
        """The part's sound at 44.1 kHz, with a tail: `[samples, 1]` where both channels are the same, else 2."""
        bank = 128 if part.is_drums else 0
        channel = 9 if part.is_drums else 0
        self._synth.program_select(channel, self._soundfont, bank, part.program, part.is_drums)
        n_total = round((score.seconds(score.n_beats) + TAIL_SECONDS) * SYNTH_RATE_HZ)
        sound = np.zeros((n_total, 2), dtype=np.float32)
        position = 0
        for at, action in sorted(self._events(part, score, channel, rng), key=lambda event: event[0]):
            at = min(max(at, position), n_total)
            if at > position:
                sound[position:at] = self._generate(at - position)
                position = at
            action[0](*action[1:])
        sound[position:] = self._generate(n_total - position)
        self._silence(channel)
        return sound[:, :1] if np.array_equal(sound[:, 0], sound[:, 1]) else sound

    def _events(
        self, part: Part, score: Score, channel: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Samples from the start, and the call to make there."""
        for note in part.notes:
            start, end = (
                round(score.seconds(beats) * SYNTH_RATE_HZ)
                for beats in (note.start_beats, note.start_beats + note.n_beats)
            )
            yield start, (self._synth.noteon, channel, note.key, note.velocity)
            # A sample early: of two notes of one key in a row, the first must end before the second starts.
            yield max(end, start + 441) - 1, (self._synth.noteoff, channel, note.key)
        if part.sustained and part.role == "lead":
            yield from self._vibrato(score, channel, rng)

    def _vibrato(self, score: Score, channel: int, rng: np.random.Generator) -> Iterator[tuple[int, tuple[Any, ...]]]:
        rate_hz, depth = rng.uniform(4.5, 6.5), rng.uniform(0.05, 0.25)
        for tick in np.arange(0.0, score.seconds(score.n_beats), 0.025):
            wheel = WHEEL_CENTRE + round(WHEEL_PER_SEMITONE * depth * float(np.sin(2 * np.pi * rate_hz * tick)))
            yield round(tick * SYNTH_RATE_HZ), (self._synth.pitchbend, channel, wheel)

    def _generate(self, n_samples: int) -> NDArray[np.float32]:
        return np.frombuffer(self._synth.generate(n_samples), dtype=np.float32).reshape(-1, 2)[:n_samples]

    def _silence(self, channel: int) -> None:
        self._synth.pitchbend(channel, WHEEL_CENTRE)
        self._synth.sounds_off()
        self._synth.generate(SYNTH_RATE_HZ // 5)


def finish(stem: Stem, part: Part, config: RenderConfig, room_seconds: float, rng: np.random.Generator) -> Stem:
    """The stem with its effects, at its level; drums keep the balance of their kit."""
    if part.sustained or part.role == "pad":
        stem = effects.swell(stem, SYNTH_RATE_HZ, 4.0, rng)
    if rng.random() < config.drive_probability:
        stem = effects.drive(stem, rng.uniform(1.0, 4.0))
    if rng.random() < config.colour_probability:
        stem = augment.colour(stem.T, SYNTH_RATE_HZ, rng).T
    if rng.random() < config.reverb_probability:
        stem = effects.reverb(stem, SYNTH_RATE_HZ, room_seconds, rng.uniform(-20, -8), rng)
    if part.is_drums:
        return stem * augment.gain(KIT_GAIN_DB + rng.uniform(-3, 3))
    return augment.to_level(stem, part.level_db + rng.uniform(-3, 3))


def song_parts(index: int, config: RenderConfig) -> tuple[Score, list[Part]]:
    """The score and parts of song `index`."""
    rng = np.random.default_rng((config.seed, index))
    score = scores.new_score(config.seconds, rng)
    return score, arrange(score, rng)


def render(store: Path, soundfont: Path, config: RenderConfig, sample_rate_hz: int, part: str = "rendered") -> int:
    """The number of stems written by this run into `STORE/<part>`; earlier ones are kept."""
    player = Player(soundfont)
    n_written = 0
    with PartWriter(store, part, sample_rate_hz, str(soundfont.resolve())) as writer:
        for count in range(config.n_songs):
            n_written += _render_song(config.first_song + count, writer, player, config, sample_rate_hz)
            if count % 25 == 24:
                log.info("%d of %d songs", count + 1, config.n_songs)
    return n_written


def _render_song(index: int, writer: PartWriter, player: Player, config: RenderConfig, sample_rate_hz: int) -> int:
    song = f"render-{index:04d}"
    score, parts = song_parts(index, config)
    room_seconds = float(np.random.default_rng((config.seed, index, 999)).uniform(0.3, 2.0))
    n_written = 0
    for number, part in enumerate(parts):
        identity = f"{song}/{number:02d}-{part.label}"
        if identity in writer.done:
            continue
        rng = np.random.default_rng((config.seed, index, number))
        stem = finish(player.play(part, score, rng), part, config, room_seconds, rng)
        if augment.level_db(stem) < -80:
            continue
        if sample_rate_hz != SYNTH_RATE_HZ:
            stem = soxr.resample(stem, SYNTH_RATE_HZ, sample_rate_hz, quality="HQ")
        writer.add(
            np.ascontiguousarray(stem),
            id=identity, kind="rendered", song=song, stem=f"{number:02d}-{part.label}", label=part.label,
            synonyms=part.synonyms, family=part.family, four_stem=part.four_stem,
            split="valid" if index >= config.first_song + config.n_songs - config.n_valid else "train",
            licence="MIT", source_rate_hz=SYNTH_RATE_HZ,
        )  # fmt: skip
        n_written += 1
    return n_written


def main(arguments: Iterable[str] | None = None) -> int:
    """Exit status of `python -m unisep_train.rendering.songs`."""
    parser = argparse.ArgumentParser(
        prog="unisep_train.rendering.songs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = RenderConfig()
    parser.add_argument("store", type=Path, help="folder of the training store")
    parser.add_argument("--soundfont", type=Path, default=DEFAULT_SOUNDFONT, help="General MIDI soundfont")
    parser.add_argument("--songs", type=int, default=defaults.n_songs, help="number of songs")
    parser.add_argument("--valid", type=int, default=defaults.n_valid, help="how many of them are for validation")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="about the length of a song")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--first", type=int, default=0, help="number of the first song")
    parser.add_argument("--part", default="rendered", help="name of the part inside the store")
    parser.add_argument("--rate", type=int, default=SYNTH_RATE_HZ, help="sample rate of the store in Hz")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = RenderConfig(options.songs, options.valid, options.seconds, options.seed, options.first)
    try:
        n_written = render(options.store, options.soundfont, config, options.rate, options.part)
    except StoreError as error:
        log.error("%s", error)
        return 1
    log.info("%d stems written to %s", n_written, options.store / options.part)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
