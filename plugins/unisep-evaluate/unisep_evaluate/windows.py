"""Which windows of which songs are judged, and for which names: the same list for the same data and options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from unisep.errors import DatasetError, OptionError, suggest
from unisep_evaluate import labels
from unisep_evaluate.datasets import Dataset, Sound, Track
from unisep_evaluate.labels import Kin
from unisep_evaluate.material import levels_of, power_db

_MARGIN_DB = 0.5  # levels of the parts are added as if unrelated; what they really are is checked when read
_MIN_LEVEL_DB = -55.0
_MIN_SOUNDING = 0.3


@dataclass(frozen=True)
class WindowOptions:
    """Which windows are taken.

    window_seconds: their length. n_per_class: at most so many for each name. n_absent: windows in all that are
    asked for what does not sound in them. within_db: how far apart the levels of target and rest may be;
    infinite takes all in which both sound. classes: the names asked for, all without. absent: the names asked
    for where they are absent; those of the data set without. example_seconds: length of example clips.
    seed: of all drawing.

    Raises:
        OptionError: a number out of range.
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
        for name in ("classes", "absent"):
            object.__setattr__(self, name, tuple(labels.canonical(each) for each in getattr(self, name)))


@dataclass(frozen=True)
class Window:
    """A stretch of a song, and the name asked for there; `absent` where nothing of that name sounds."""

    track: Track
    name: str
    start_seconds: float
    absent: bool = False


def song_windows(dataset: Dataset, options: WindowOptions) -> list[Window]:
    """The windows of all songs, song by song.

    Where the name is present: it and the rest sound, their levels are near, and nothing sounds that might
    hold the name unsaid; up to `n_per_class` a name, as even over the songs and over time as there is material.
    Then the absent ones.

    Raises:
        DatasetError: no sound answers to a class that was asked for.
    """
    names = class_names(dataset, options)
    found: list[Window] = []
    for kin in map(dataset.kin, names):
        found += _spread([_present(track, kin, options) for track in dataset.tracks], options)
    found += _absent(dataset, options.absent or names, options)
    order = {track.name: place for place, track in enumerate(dataset.tracks)}
    return sorted(found, key=lambda window: (order[window.track.name], window.absent))


def class_names(dataset: Dataset, options: WindowOptions) -> tuple[str, ...]:
    """The names asked for: the roles and labels of the songs' stems, but "other" and the like.

    Raises:
        DatasetError: no sound answers to a class that was asked for.
    """
    stems = [stem for track in dataset.tracks for stem in track.stems]
    known = {stem.label for stem in stems} | {stem.role for stem in stems} & set(labels.ROLES)
    answered = known.union(*(stem.names for stem in stems)) | {single.label for single in dataset.singles}
    for name in options.classes:
        if name not in answered:
            raise DatasetError(f"Nothing selected of {dataset.name} answers to {name!r}. {suggest(name, answered)}")
    names = (known if not options.classes else set(options.classes)) - labels.UNDECLARED
    return tuple(sorted(names, key=lambda name: (name not in labels.ROLES, name)))


def _present(track: Track, kin: Kin, options: WindowOptions) -> list[Window]:
    """Every window of a song that fits, two a length, so that they overlap by half."""
    matching = [stem for stem in track.stems if stem.answers(kin.name)]
    others = [stem for stem in track.stems if stem not in matching]
    doubtful = [stem for stem in others if stem.might_hold(kin)]
    if not matching or not others:
        return []
    return [
        Window(track, kin.name, start)
        for start in _starts(track, options)
        if _all_silent(doubtful, start, options) and _fits(matching, others, start, options)
    ]


def _fits(matching: Sequence[Sound], others: Sequence[Sound], start: float, options: WindowOptions) -> bool:
    length = options.window_seconds
    heard = np.any([levels_of(stem.path).sounds(start, length) for stem in matching], axis=0)
    target_db, rest_db = (
        power_db([levels_of(stem.path).between(start, length) for stem in stems]) for stems in (matching, others)
    )
    near = abs(target_db - rest_db) < options.within_db - _MARGIN_DB
    return bool(heard.mean() >= _MIN_SOUNDING and min(target_db, rest_db) > _MIN_LEVEL_DB and near)


def _absent(dataset: Dataset, names: Sequence[str], options: WindowOptions) -> list[Window]:
    """Windows in which something sounds, but nothing of the kind asked for.

    By turns: each name once, in some song; then each in another song; then other windows of the same.
    """
    rng = np.random.default_rng((options.seed, 1))
    found: list[Window] = []
    left: list[list[Window]] = []
    for name, track in _by_turns([(n, t) for t in dataset.tracks for n in names if _can_be_absent(t, n)], rng):
        if len(found) >= options.n_absent:
            return found
        windows = _absent_windows(track, dataset.kin(name), options)
        windows = [windows[index] for index in rng.permutation(len(windows))]
        found += windows[:1]
        left.append(windows[1:])
    more = [window for turn in zip_longest(*left) for window in turn if window is not None]
    return found + more[: options.n_absent - len(found)]


def _by_turns(pairs: Sequence[tuple[str, Track]], rng: np.random.Generator) -> list[tuple[str, Track]]:
    """The pairs in drawn order, but each name once before any comes again."""
    n_seen: dict[str, int] = {}
    turns = []
    for index in rng.permutation(len(pairs)):
        name = pairs[index][0]
        n_seen[name] = n_seen.get(name, 0) + 1
        turns.append((n_seen[name], pairs[index]))
    return [pair for _, pair in sorted(turns, key=lambda turn: turn[0])]


def _absent_windows(track: Track, kin: Kin, options: WindowOptions) -> list[Window]:
    near = [stem for stem in track.stems if stem.is_near(kin)]
    found = [
        Window(track, kin.name, start, absent=True)
        for start in _starts(track, options)
        if _all_silent(near, start, options) and _sounds(track, start, options)
    ]
    return _without_overlap(found, options.window_seconds)


def _can_be_absent(track: Track, name: str) -> bool:
    """Whether the song's stems tell where the name does not sound: "other" may hold what has no stem."""
    return any(stem.answers(name) for stem in track.stems) or not any(stem.undeclared for stem in track.stems)


def _sounds(track: Track, start: float, options: WindowOptions) -> bool:
    steps = [levels_of(stem.path).between(start, options.window_seconds) for stem in track.stems]
    return power_db(steps) > _MIN_LEVEL_DB


def _all_silent(stems: Iterable[Sound], start: float, options: WindowOptions) -> bool:
    return all(levels_of(stem.path).is_silent(start, options.window_seconds) for stem in stems)


def _starts(track: Track, options: WindowOptions) -> list[float]:
    """Starts of windows, half a window apart; one at 0 where the song is shorter than a window."""
    seconds = max(levels_of(stem.path).seconds for stem in track.stems)
    n_windows = max(1, int(2 * (seconds - options.window_seconds) / options.window_seconds) + 1)
    return [round(k * options.window_seconds / 2, 6) for k in range(n_windows)]


def _spread(by_track: Sequence[list[Window]], options: WindowOptions) -> list[Window]:
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


def quota(counts: Sequence[int], wanted: int) -> list[int]:
    """How many to take of each so that `wanted` come together, as even as the counts allow.

    >>> quota([2, 10, 10], 8)
    [2, 3, 3]
    """
    quotas = [0] * len(counts)
    while sum(quotas) < min(wanted, sum(counts)):
        open_places = [place for place, count in enumerate(counts) if quotas[place] < count]
        quotas[min(open_places, key=lambda place: (quotas[place], -counts[place]))] += 1
    return quotas
