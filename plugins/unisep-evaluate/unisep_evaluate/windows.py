"""Which windows of which songs are judged, and for which names: the same list for the same data and options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from unisep.errors import DatasetError, OptionError, suggest
from unisep_evaluate.datasets import ROLES, UNDECLARED, Dataset, Kin, Sound, Track, canonical
from unisep_evaluate.passages import levels_of, power_db

_MARGIN_DB = 0.5  # levels of the parts are added as if unrelated; what they really are is checked when read
_MIN_LEVEL_DB = -55.0
_MIN_SOUNDING = 0.3


@dataclass(frozen=True)
class WindowOptions:
    """Which windows are taken.

    Attributes:
        window_seconds: Length of each window.
        n_per_class: Windows for each name, at most.
        n_absent: Windows in all that are asked for what does not sound in them.
        within_db: How far apart the levels of target and rest may be; infinite takes all in which both sound.
        classes: Names to ask for; without, all.
        absent: Names to ask for where they are absent; without, those of the data set.
        example_seconds: Length of example clips.
        seed: Seed of all drawing.

    Raises:
        OptionError: A number is out of range.
    """

    window_seconds: float = 6.0
    n_per_class: int = 8
    n_absent: int = 24
    within_db: float = 10.0
    classes: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    example_seconds: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window_seconds", "within_db", "example_seconds"):
            value = getattr(self, name)
            if math.isnan(value) or value <= 0 or (math.isinf(value) and name != "within_db"):
                raise OptionError(f"{name}={value}: give a number above 0.")
        if self.seed < 0:
            raise OptionError(f"seed={self.seed}: give a whole number of 0 or more.")
        if self.n_per_class < 1 or self.n_absent < 0:
            raise OptionError("Give at least 1 window a class, and 0 or more absent ones.")
        for field in ("classes", "absent"):
            object.__setattr__(self, field, tuple(map(canonical, getattr(self, field))))


@dataclass(frozen=True)
class Window:
    """A stretch of a song, and the name asked for there; `absent` where nothing of that name sounds."""

    track: Track
    name: str
    start_seconds: float
    absent: bool = False


def song_windows(dataset: Dataset, options: WindowOptions) -> list[Window]:
    """Return the windows of all songs, song by song, absent ones last.

    Where the name is present, it and the rest sound, their levels are near, and nothing sounds that might hold the
    name without saying so. There are up to `n_per_class` for a name, as even over the songs and over time as there is
    material.

    Raises:
        DatasetError: No sound answers to a class that was asked for.
    """
    names = _class_names(dataset, options)
    windows: list[Window] = []
    for kin in map(dataset.kin, names):
        windows += _spread([_present_windows(track, kin, options) for track in dataset.tracks], options)
    windows += _absent_windows(dataset, options.absent or names, options)
    order = {track.name: place for place, track in enumerate(dataset.tracks)}
    return sorted(windows, key=lambda window: (order[window.track.name], window.absent))


def _class_names(dataset: Dataset, options: WindowOptions) -> tuple[str, ...]:
    """Return the names to ask for: roles and labels of the songs' stems, without "other" and the like."""
    stems = [stem for track in dataset.tracks for stem in track.stems]
    known = {stem.label for stem in stems} | {stem.role for stem in stems} & set(ROLES)
    answered = known.union(*(stem.names for stem in stems)) | {single.label for single in dataset.singles}
    for name in options.classes:
        if name not in answered:
            raise DatasetError(f"Nothing selected of {dataset.name} answers to {name!r}. {suggest(name, answered)}")
    names = set(options.classes or known) - UNDECLARED
    return tuple(sorted(names, key=lambda name: (name not in ROLES, name)))


def _present_windows(track: Track, kin: Kin, options: WindowOptions) -> list[Window]:
    """Return every window of a song that fits, two a length, so that they overlap by half."""
    matching = [stem for stem in track.stems if stem.answers(kin.name)]
    others = [stem for stem in track.stems if stem not in matching]
    doubtful = [stem for stem in others if kin.might_hold(stem)]
    if not matching or not others:
        return []
    return [
        Window(track, kin.name, start)
        for start in _starts(track, options)
        if _all_silent(doubtful, start, options) and _fits(matching, others, start, options)
    ]


def _fits(matching: Sequence[Sound], others: Sequence[Sound], start: float, options: WindowOptions) -> bool:
    sounding = np.any([levels_of(stem.path).sounds(start, options.window_seconds) for stem in matching], axis=0)
    target_db, rest_db = _level_db(matching, start, options), _level_db(others, start, options)
    is_near = abs(target_db - rest_db) < options.within_db - _MARGIN_DB
    return bool(sounding.mean() >= _MIN_SOUNDING and min(target_db, rest_db) > _MIN_LEVEL_DB and is_near)


def _absent_windows(dataset: Dataset, names: Sequence[str], options: WindowOptions) -> list[Window]:
    """Return windows in which something sounds, but nothing of the kind asked for.

    By turns: each name once, in some song; then each in another song; then other windows of the same.
    """
    rng = np.random.default_rng((options.seed, 1))
    pairs = [(name, track) for track in dataset.tracks for name in names if _can_be_absent(track, name)]
    windows: list[Window] = []
    spare: list[list[Window]] = []
    for name, track in _by_turns(pairs, rng):
        if len(windows) >= options.n_absent:
            return windows
        candidates = _absent_from(track, dataset.kin(name), options)
        drawn = [candidates[index] for index in rng.permutation(len(candidates))]
        windows += drawn[:1]
        spare.append(drawn[1:])
    more = [window for turn in zip_longest(*spare) for window in turn if window is not None]
    return windows + more[: options.n_absent - len(windows)]


def _can_be_absent(track: Track, name: str) -> bool:
    """Tell whether the stems show where the name does not sound: "other" may hold what has no stem of its own."""
    return any(stem.answers(name) for stem in track.stems) or not any(stem.undeclared for stem in track.stems)


def _by_turns(pairs: Sequence[tuple[str, Track]], rng: np.random.Generator) -> list[tuple[str, Track]]:
    """Return the pairs in drawn order, but each name once before any comes again."""
    drawn = [pairs[index] for index in rng.permutation(len(pairs))]
    names = [name for name, _ in drawn]
    turns = [names[:place].count(name) for place, name in enumerate(names)]
    return [drawn[place] for place in np.argsort(turns, kind="stable")]


def _absent_from(track: Track, kin: Kin, options: WindowOptions) -> list[Window]:
    near = [stem for stem in track.stems if kin.is_near(stem)]
    windows = [
        Window(track, kin.name, start, absent=True)
        for start in _starts(track, options)
        if _all_silent(near, start, options) and _level_db(track.stems, start, options) > _MIN_LEVEL_DB
    ]
    return _without_overlap(windows, options.window_seconds)


def _level_db(stems: Iterable[Sound], start: float, options: WindowOptions) -> float:
    return power_db([levels_of(stem.path).between(start, options.window_seconds) for stem in stems])


def _all_silent(stems: Iterable[Sound], start: float, options: WindowOptions) -> bool:
    return all(levels_of(stem.path).is_silent(start, options.window_seconds) for stem in stems)


def _starts(track: Track, options: WindowOptions) -> list[float]:
    """Return starts of windows, half a window apart; one at 0 where the song is shorter than a window."""
    seconds = max(levels_of(stem.path).seconds for stem in track.stems)
    n_windows = max(1, int(2 * (seconds - options.window_seconds) / options.window_seconds) + 1)
    return [round(k * options.window_seconds / 2, 6) for k in range(n_windows)]


def _spread(by_track: Sequence[list[Window]], options: WindowOptions) -> list[Window]:
    """Return up to `n_per_class` windows that do not overlap, as even over songs and time as there are any."""
    apart = [_without_overlap(windows, options.window_seconds) for windows in by_track]
    quotas = quota([len(windows) for windows in apart], options.n_per_class)
    return [
        windows[int(place)]
        for windows, n in zip(apart, quotas, strict=True)
        for place in np.linspace(0, len(windows) - 1, n)
    ]


def _without_overlap(windows: Sequence[Window], seconds: float) -> list[Window]:
    kept: list[Window] = []
    for window in windows:
        if not kept or window.start_seconds >= kept[-1].start_seconds + seconds - 1e-6:
            kept.append(window)
    return kept


def quota(counts: Sequence[int], n_wanted: int) -> list[int]:
    """Return how many to take of each so that `n_wanted` come together, as even as the counts allow.

    >>> quota([2, 10, 10], 8)
    [2, 3, 3]
    """
    quotas = [0] * len(counts)
    while sum(quotas) < min(n_wanted, sum(counts)):
        open_places = [place for place, count in enumerate(counts) if quotas[place] < count]
        quotas[min(open_places, key=lambda place: (quotas[place], -counts[place]))] += 1
    return quotas
