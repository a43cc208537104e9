"""What is judged: mixtures with their targets, read from the files one song at a time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import final

import numpy as np

from unisep.audio import Audio
from unisep.errors import DatasetError
from unisep_evaluate import labels
from unisep_evaluate.datasets import Dataset, Sound, Track
from unisep_evaluate.examples import Examples
from unisep_evaluate.material import Samples, level_db, levels_of, loudest, read_passages
from unisep_evaluate.windows import Window, WindowOptions, song_windows

_SINGLE_RATE_HZ = 44_100
_OTHERS_DB = (-25.0, -20.0)
_TARGET_DB = (-6.0, 6.0)
_N_OTHERS = (1, 3)
_BATCH = 48  # windows of a song that are held at once


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one window, with its answer.

    name: the class, and the text that asks for it. group: "song" (a window of a song), "single" (a single
    sound mixed with others) or "absent" (nothing of that name sounds; the target is zeros).
    target: samples like the mixture's. example: a clip of another such sound, None where there is none.
    """

    track: str
    name: str
    group: str
    start_seconds: float
    mixture: Audio
    target: Samples
    example: Audio | None = None


@dataclass(frozen=True, eq=False)
class Song:
    """One whole song (or a stretch of it), with the stems that are known: name -> samples like the mixture's."""

    track: str
    start_seconds: float
    mixture: Audio
    references: Mapping[str, Samples]


def query_items(dataset: Dataset, options: WindowOptions | None = None) -> Iterator[Item]:
    """Windows to ask about: of the songs, then single sounds among others.

    Raises:
        DatasetError: nothing fits, or nothing answers to a class that was asked for.
        AudioFileError: a file that cannot be read.
    """
    options = options or WindowOptions()
    windows = song_windows(dataset, options)
    singles = _Singles(dataset, options)
    if not windows and not singles.asked:
        raise DatasetError(
            f"No window of {dataset.name} fits: target and rest sound and are within {options.within_db:g} dB of each "
            "other. Allow more, take shorter windows, or other classes."
        )
    examples = Examples(dataset, options)
    for _, group in groupby(windows, key=lambda window: window.track.name):
        of_song = list(group)
        for first in range(0, len(of_song), _BATCH):
            yield from _window_items(of_song[first : first + _BATCH], options, examples)
    yield from singles.items(examples)
    if not dataset.tracks:
        yield from singles.absent_items(examples)


def songs(dataset: Dataset, seconds: float | None = None) -> Iterator[Song]:
    """Every song with its stems by role (drums, bass, vocals, other), or by label where they have no role.

    Where all stems have roles, and none of them is called "other", a role that no stem has is silence.
    seconds: only the first so many.
    """
    for track in dataset.tracks:
        rate_hz, channels, whole_seconds = _format(track)
        n_samples = round(min(whole_seconds, seconds or math.inf) * rate_hz)
        references: dict[str, Samples] = {}
        for stem in track.stems:
            samples = read_passages(stem.path, [0], n_samples, rate_hz, channels)[0]
            role = stem.role or stem.label
            references[role] = references[role] + samples if role in references else samples
        mixture = np.sum(list(references.values()), axis=0, dtype=np.float32)
        if all(stem.role and not stem.undeclared for stem in track.stems):
            references = {role: references.get(role, np.zeros_like(mixture)) for role in (*labels.ROLES, "other")}
        if track.mixture is not None:
            mixture = read_passages(track.mixture, [0], n_samples, rate_hz, channels)[0]
        yield Song(track.name, 0.0, Audio(mixture, rate_hz), references)


def _format(track: Track) -> tuple[int, int, float]:
    """Rate, channels and seconds of a song: the highest of its files."""
    paths = [stem.path for stem in track.stems] + ([track.mixture] if track.mixture else [])
    found = [levels_of(path) for path in paths]
    return (max(f.sample_rate_hz for f in found), max(f.n_channels for f in found), max(f.seconds for f in found))


def _window_items(windows: Sequence[Window], options: WindowOptions, examples: Examples) -> Iterator[Item]:
    """The items of some windows of one song, each file read once."""
    track = windows[0].track
    rate_hz, channels, _ = _format(track)
    n_samples = round(options.window_seconds * rate_hz)
    starts = sorted({round(window.start_seconds * rate_hz) for window in windows})
    place = {start: index for index, start in enumerate(starts)}
    at = [place[round(window.start_seconds * rate_hz)] for window in windows]
    targets = np.zeros((len(windows), channels, n_samples), np.float32)
    mixtures = np.zeros((len(starts), channels, n_samples), np.float32)
    for stem in track.stems:
        passages = read_passages(stem.path, starts, n_samples, rate_hz, channels)
        mixtures += passages
        for target, window, index in zip(targets, windows, at, strict=True):
            if not window.absent and stem.answers(window.name):
                target += passages[index]
    if track.mixture is not None:
        mixtures = read_passages(track.mixture, starts, n_samples, rate_hz, channels)
    for target, window, index in zip(targets, windows, at, strict=True):
        if window.absent or _near(target, mixtures[index] - target, options.within_db):
            span = (window.start_seconds, window.start_seconds + options.window_seconds)
            yield Item(
                track.name, window.name, "absent" if window.absent else "song", window.start_seconds,
                Audio(mixtures[index], rate_hz), target, examples.for_window(window.name, track, span),
            )  # fmt: skip


def _near(target: Samples, rest: Samples, within_db: float) -> bool:
    return abs(level_db(target) - level_db(rest)) <= within_db


@final
class _Singles:
    """Single sounds, each mixed with one to three others that do not answer to its name."""

    def __init__(self, dataset: Dataset, options: WindowOptions) -> None:
        self._dataset = dataset
        self._options = options
        self._rng = np.random.default_rng((options.seed, 2))
        by_label: dict[str, list[Sound]] = {}
        for sound in dataset.singles:
            by_label.setdefault(sound.label, []).append(sound)
        wanted = [n for n in sorted(by_label) if not options.classes or n in options.classes]
        self.asked = [
            (name, sound, number)
            for name in wanted
            for number, sound in enumerate(_turns(by_label[name], options.n_per_class))
        ]

    def items(self, examples: Examples) -> Iterator[Item]:
        """One item for each that is asked, where there is something to mix it with."""
        for name, target, number in self.asked:
            rng = np.random.default_rng((self._options.seed, number, zlib.crc32(name.encode())))
            others = self._others(name, rng)
            wanted = self._passage(target)
            if others and wanted.any():
                yield self._item(name, target, wanted, others, rng, examples.for_single(name, target))

    def absent_items(self, examples: Examples) -> Iterator[Item]:
        """Mixtures of single sounds asked for a name of which none is near."""
        names = self._options.absent or tuple(sorted({sound.label for sound in self._dataset.singles}))
        rng = np.random.default_rng((self._options.seed, 3))
        for number in range(self._options.n_absent if names else 0):
            kin = self._dataset.kin(names[int(rng.integers(len(names)))])
            others = _some([sound for sound in self._dataset.singles if not sound.is_near(kin)], rng)
            if others:
                rest = _together([self._passage(other) for other in others], rng)
                example = examples.for_single(kin.name, None)
                yield Item(
                    f"mix {number}", kin.name, "absent", 0.0, Audio(rest, _SINGLE_RATE_HZ), np.zeros_like(rest), example
                )

    def _item(
        self, name: str, sound: Sound, wanted: Samples, others: Sequence[Sound], rng: np.random.Generator,
        example: Audio | None,
    ) -> Item:  # fmt: skip
        rest = _together([self._passage(other) for other in others], rng)
        limits = np.clip(_TARGET_DB, -self._options.within_db, self._options.within_db)
        target = _at_level(wanted, level_db(rest) + rng.uniform(*limits))
        mixture = Audio((target + rest).astype(np.float32), _SINGLE_RATE_HZ)
        return Item(sound.path.stem, name, "single", 0.0, mixture, target, example)

    def _others(self, name: str, rng: np.random.Generator) -> list[Sound]:
        kin = self._dataset.kin(name)
        free = [s for s in self._dataset.singles if not s.answers(name) and not s.might_hold(kin)]
        return _some(free, rng)

    def _passage(self, sound: Sound) -> Samples:
        """The loudest stretch of a sound, as long as a window (silence after a shorter one), in stereo."""
        levels, seconds = levels_of(sound.path), self._options.window_seconds
        start = 0.0 if levels.seconds <= seconds else loudest(levels.step_db, seconds) or 0.0
        n_samples = round(seconds * _SINGLE_RATE_HZ)
        return read_passages(sound.path, [round(start * _SINGLE_RATE_HZ)], n_samples, _SINGLE_RATE_HZ, 2)[0]


def _turns(sounds: Sequence[Sound], n_wanted: int) -> list[Sound]:
    """The sounds by turns, `n_wanted` in all where there are at least three, else each once."""
    n = n_wanted if len(sounds) > 2 else min(n_wanted, len(sounds))
    return [sounds[index % len(sounds)] for index in range(n)]


def _some(sounds: Sequence[Sound], rng: np.random.Generator) -> list[Sound]:
    n_wanted = int(rng.integers(*_N_OTHERS, endpoint=True))
    return [sounds[index] for index in rng.permutation(len(sounds))[:n_wanted]]


def _together(parts: Sequence[Samples], rng: np.random.Generator) -> Samples:
    """The sum of parts, each brought to a level of its own."""
    return np.sum([_at_level(part, rng.uniform(*_OTHERS_DB)) for part in parts], axis=0, dtype=np.float32)


def _at_level(samples: Samples, wanted_db: float) -> Samples:
    gain = 10 ** ((wanted_db - level_db(samples)) / 20) if samples.any() else 0.0
    return (samples * gain).astype(np.float32)
