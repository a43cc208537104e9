"""Windows of songs in which a sound and all that stands beside it are heard, at levels near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate.windows import quota

from unisep_train.data import labels
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import ACTIVITY_SECONDS
from unisep_train.mixing import sources
from unisep_train.mixing.augment import Sound

LEAST_DB = -55  # what is quieter, over a window, is not heard
LEAST_SHARE = 0.3  # of a window in which the target sounds


@dataclass(frozen=True)
class Window:
    """The window of a song that begins at sample `start`."""

    song: str
    start: int


@dataclass(frozen=True)
class Stems:
    """A song's stems by whether they answer to a name: surely, surely not, or perhaps."""

    matching: list[int]
    others: list[int]
    unclear: list[int]


@final
class SongWindows:
    """Finds and reads windows of `n_samples` in the songs of a catalogue, two to a window's length."""

    def __init__(self, catalogue: Catalog, n_samples: int) -> None:
        self.catalogue = catalogue
        self.n_samples = n_samples
        self._step_samples = ACTIVITY_SECONDS * catalogue.store.sample_rate_hz

    def stems(self, name: str, song: str) -> Stems:
        """The song's stems, by whether they answer to `name`."""
        found = Stems([], [], [])
        for index in self.catalogue.songs[song]:
            if name in self.catalogue.tags[index]:
                found.matching.append(index)
            elif labels.unclear(name, self.catalogue.items[index].label, self.catalogue.tags[index]):
                found.unclear.append(index)
            else:
                found.others.append(index)
        return found

    def of_name(self, name: str, song: str, max_difference_db: float) -> list[Window]:
        """Windows in which name and rest sound, nothing unclear does, and levels are near."""
        stems = self.stems(name, song)
        return self.between(song, stems.matching, stems.others, max_difference_db, without=stems.unclear)

    def between(
        self,
        song: str,
        target: Sequence[int],
        rest: Sequence[int],
        max_difference_db: float,
        without: Sequence[int] = (),
    ) -> list[Window]:
        """Windows in which both groups of stems sound, within `max_difference_db`, and none of `without`."""
        if not target or not rest:
            return []
        n_total = min(self.catalogue.items[index].n_samples for index in [*target, *rest])
        found = []
        for start in range(0, n_total - self.n_samples + 1, self.n_samples // 2):
            if any(self.catalogue.sounds_in(index, start, self.n_samples) for index in without):
                continue
            if self._share_sounding(target, start) < LEAST_SHARE:
                continue
            target_db, rest_db = self._power_db(target, start), self._power_db(rest, start)
            if abs(target_db - rest_db) < max_difference_db and min(target_db, rest_db) > LEAST_DB:
                found.append(Window(song, start))
        return found

    def read(self, indices: Sequence[int], start: int) -> Sound:
        """The sum `[2, samples]` of stems in a window, as they are in the song."""
        return sources.stems(self.catalogue, indices, start, self.n_samples, np.random.default_rng(0), 0.0)

    def spread(self, by_song: Sequence[Sequence[Window]], n_windows: int) -> list[Window]:
        """Up to `n_windows`, as even over the songs and over time as there is material.

        Windows of one song that overlap are not both taken.
        """
        apart = [[w for k, w in enumerate(windows) if k == 0 or not _overlaps(windows, k, self.n_samples)]
                 for windows in by_song if windows]  # fmt: skip
        quotas = quota([len(windows) for windows in apart], n_windows)
        return [
            windows[int(position)]
            for windows, quota in zip(apart, quotas, strict=True)
            for position in np.linspace(0, len(windows) - 1, quota)
        ]

    def _steps(self, start: int) -> slice:
        first = int(start / self._step_samples)
        return slice(first, first + int(self.n_samples / self._step_samples))

    def _power_db(self, indices: Sequence[int], start: int) -> float:
        powers = [10.0 ** (self._activity(index, start) / 10) for index in indices]
        return float(10 * np.log10(np.sum(powers, axis=0).mean() + 1e-12))

    def _share_sounding(self, indices: Sequence[int], start: int) -> float:
        loudest = np.max([self._activity(index, start) for index in indices], axis=0)
        return float(np.mean(loudest > max(loudest.max() - 25, -50)))

    def _activity(self, index: int, start: int) -> NDArray[np.float64]:
        catalogue = self.catalogue
        return catalogue.store.activity(catalogue.items[index])[self._steps(start)].astype(np.float64)


def _overlaps(windows: Sequence[Window], position: int, n_samples: int) -> bool:
    """Whether the window starts on the odd half of a pair that both qualify."""
    return windows[position].start - windows[position - 1].start < n_samples and bool(
        (windows[position].start // (n_samples // 2)) % 2
    )
