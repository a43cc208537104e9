"""A recording that is read in blocks as often as needed, wherever it lies: in memory or on disk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from unisep import files
from unisep.audio import Audio, span_samples
from unisep.errors import AudioError
from unisep.files.formats import AudioFileInfo
from unisep.files.reading import open_audio
from unisep.progress import CancelFlag, stop_if

BLOCK_SAMPLES = 2**17


Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """How a recording lies in time: its rate, channels and length; `n_samples` is None while it goes on."""

    sample_rate_hz: int
    n_channels: int
    n_samples: int | None = None

    def span_samples(self, seconds: tuple[float, float], field: str) -> tuple[int, int]:
        """First sample and the one after the last of a range in seconds, cut at the end where that is known.

        Raises:
            QueryError: the range holds no sample of the recording.
        """
        return span_samples(seconds, self.sample_rate_hz, self.n_samples, field)


@dataclass(frozen=True)
class Statistics:
    """What a backend that normalises by the song needs to know of all of it.

    mean, deviation: of the mono mix of the whole recording, at its own rate (n - 1 degrees of freedom).
    """

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation >= 0):
            raise AudioError(f"{self} cannot be: give finite numbers, and a deviation of 0 or more.")

    @classmethod
    def of(cls, audio: Any, sample_rate_hz: int | None = None) -> Statistics:
        """The statistics of any audio that `Separator.separate` takes; a file is read in blocks.

        >>> Statistics.of(np.array([0.5, -0.5, 0.5, -0.5])).mean
        0.0
        """
        if isinstance(audio, str | Path):
            with on_disk(audio) as recording:
                return recording.statistics
        return InMemory(open_audio(audio, sample_rate_hz).at(44_100)).statistics


class Recording(ABC):
    """A recording. name: of its file without suffix, or "audio". info: what its header says, if it has one."""

    name: str
    info: AudioFileInfo | None
    path: Path | None = None

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Rate, channels and exact length."""

    @property
    @abstractmethod
    def statistics(self) -> Statistics:
        """Of the whole recording, measured once; the same wherever it lies."""

    @abstractmethod
    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """The samples from `start` on, in blocks [channels, samples] of `BLOCK_SAMPLES`, the last one shorter."""

    def excerpt(self, seconds: tuple[float, float]) -> Audio:
        """The part between two times that is an example; nothing else is kept. Raises QueryError if it is empty."""
        first, last = self.layout.span_samples(seconds, "example_range")
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

    def __init__(self, audio: Audio, name: str = "audio", info: AudioFileInfo | None = None) -> None:
        self.audio, self.name, self.info = audio, name, info

    @property
    def layout(self) -> Layout:
        """Rate, channels and length."""
        return Layout(self.audio.sample_rate_hz, self.audio.n_channels, self.audio.n_samples)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the whole recording."""
        return _measured(self.blocks())[1]

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """Views of the samples."""
        for first in range(start, self.audio.n_samples, BLOCK_SAMPLES):
            yield self.audio.samples[:, first : first + BLOCK_SAMPLES]


@final
class OnDisk(Recording):
    """A recording in a file, scanned from beginning to end on opening: what is damaged is refused before any work."""

    def __init__(self, path: Path, opened: files.OpenFile, cancel: CancelFlag | None = None) -> None:
        self.path, self.name, self.info = path, path.stem, opened.info
        self._opened = opened
        self._n_samples, self._statistics = _measured(opened.blocks(BLOCK_SAMPLES), cancel)

    @property
    def layout(self) -> Layout:
        """Rate, channels and length as read, whatever the header says."""
        return Layout(self._opened.info.sample_rate_hz, self._opened.info.n_channels, self._n_samples)

    @property
    def statistics(self) -> Statistics:
        """Of the whole recording."""
        return self._statistics

    def blocks(self, start: int = 0) -> Iterator[Samples]:
        """The samples, read as they are asked for. Raises AudioFileError where they are no longer as many."""
        n_left = self._n_samples - start
        for block in self._opened.blocks(BLOCK_SAMPLES, start):
            n_left -= block.shape[1]
            if n_left < 0:
                raise self._opened.changed()
            yield block
        if n_left > 0:
            raise self._opened.changed()


@contextmanager
def on_disk(path: str | Path) -> Iterator[OnDisk]:
    """The recording in a file. Raises AudioFileError as `files.read` does, for damage at the end too."""
    with files.opened(path) as opened:
        yield OnDisk(Path(path), opened)


def _measured(blocks: Iterable[Samples], cancel: CancelFlag | None = None) -> tuple[int, Statistics]:
    """Length and statistics, in float64.

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
