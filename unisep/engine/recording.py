"""Read a recording in blocks as often as needed, wherever it lies: in memory or on disk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np

from unisep import files
from unisep.audio import Audio, AudioLike, Samples, span_samples
from unisep.errors import AudioError
from unisep.files.reading import open_audio
from unisep.progress import CancelFlag, stop_if

BLOCK_SAMPLES = 2**17


@dataclass(frozen=True)
class Layout:
    """The shape of a recording in time; `n_samples` is None while it goes on."""

    sample_rate_hz: int
    n_channels: int
    n_samples: int | None = None


@dataclass(frozen=True)
class Statistics:
    """What a backend that normalises by the song needs to know of all of it.

    Attributes:
        mean: of the mono mix of the whole recording, at its own rate.
        deviation: the standard deviation of the same, with n - 1 degrees of freedom.
    """

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation >= 0):
            raise AudioError(f"{self} cannot be: give finite numbers, and a deviation of 0 or more.")

    @classmethod
    def of(cls, audio: AudioLike, sample_rate_hz: float | None = None) -> Statistics:
        """Return the statistics, the same at any rate, of audio as `Separator.separate` takes it; a file is read in blocks.

        >>> Statistics.of(np.array([0.5, -0.5, 0.5, -0.5])).mean
        0.0
        """
        if isinstance(audio, str | Path):
            with files.opened(audio) as opened:
                return OnDisk(opened).statistics
        return InMemory(open_audio(audio, sample_rate_hz or 44_100).audio).statistics


class Recording(ABC):
    """A recording of known length."""

    layout: Layout

    @cached_property
    def statistics(self) -> Statistics:
        """Those of the whole recording, measured once; the same wherever it lies."""
        return _measured(self.blocks())[1]

    @abstractmethod
    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Yield the samples from `start` on in blocks `[channels, samples]` of `BLOCK_SAMPLES`, the last one shorter."""

    def excerpt(self, seconds: tuple[float, float]) -> Audio:
        """Return the part between two times that is an example. Raises QueryError if it is empty."""
        first, last = span_samples(seconds, self.layout.sample_rate_hz, self.layout.n_samples, "example_range")
        pieces, n_left = [], last - first
        for block in self.blocks(first):
            pieces.append(block[:, :n_left])
            n_left -= pieces[-1].shape[1]
            if not n_left:
                break
        return Audio(np.concatenate(pieces, axis=1), self.layout.sample_rate_hz)


@final
class InMemory(Recording):
    """A recording that is held as `Audio`."""

    def __init__(self, audio: Audio) -> None:
        self.audio = audio
        self.layout = Layout(audio.sample_rate_hz, audio.n_channels, audio.n_samples)

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Yield views of the samples."""
        for first in range(start, self.audio.n_samples, BLOCK_SAMPLES):
            yield self.audio.samples[:, first : first + BLOCK_SAMPLES]


@final
class OnDisk(Recording):
    """A recording in a file, scanned from beginning to end on opening: what is damaged is refused before any work.

    Its length is that which was read, whatever the header says.
    """

    def __init__(self, opened: files.OpenFile, cancel: CancelFlag | None = None) -> None:
        self._opened = opened
        n_samples, self.statistics = _measured(opened.blocks(BLOCK_SAMPLES), cancel)
        self.layout = Layout(opened.info.sample_rate_hz, opened.info.n_channels, n_samples)

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Yield the samples, read as they are asked for. Raises AudioFileError where they are no longer as many."""
        n_left = (self.layout.n_samples or 0) - start
        for block in self._opened.blocks(BLOCK_SAMPLES, start):
            n_left -= block.shape[1]
            if n_left < 0:
                raise self._opened.changed()
            yield block
        if n_left > 0:
            raise self._opened.changed()


def _measured(blocks: Iterable[Samples], cancel: CancelFlag | None = None) -> tuple[int, Statistics]:
    """Measure length and statistics, in float64.

    Means and squared deviations of blocks are merged after Chan, Golub, LeVeque 1979, "Updating formulae and a
    pairwise algorithm for computing sample variances".
    """
    n_all, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        stop_if(cancel)
        mono = block.mean(axis=0, dtype=np.float64)
        n_samples, block_mean = mono.size, float(mono.mean())
        step = block_mean - mean
        squares += float(np.square(mono - block_mean).sum()) + step**2 * n_all * n_samples / (n_all + n_samples)
        n_all += n_samples
        mean += step * n_samples / n_all
    return n_all, Statistics(mean, math.sqrt(squares / (n_all - 1)) if n_all > 1 else 0.0)
