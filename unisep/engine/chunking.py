"""Where the overlapping segments of a recording lie, and how they are cut out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unisep.errors import OptionError

MAX_OVERLAP_FRACTION = 0.5


OVERLAP_FRACTION = 0.25  # where nobody asks for another, as demucs overlaps its segments


@dataclass(frozen=True, order=True)
class Segment:
    """Where one segment lies in the recording: its first sample and its length in samples."""

    start: int
    length: int

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.start + self.length


def hop_samples(segment_samples: int, overlap_fraction: float) -> int:
    """Samples from the start of a segment to the start of the next.

    At least half a segment, rounded up, so that no more than two segments ever meet.

    Raises:
        OptionError: an overlap below 0 or above 0.5, or a segment without samples.

    >>> hop_samples(343_980, 0.25)
    257985
    """
    if not 0.0 <= overlap_fraction <= MAX_OVERLAP_FRACTION:
        raise OptionError(
            f"overlap_fraction={overlap_fraction!r} is out of range: give 0 to {MAX_OVERLAP_FRACTION}. "
            "0.25 is usual; more costs time and gains little."
        )
    if segment_samples < 1:
        raise OptionError(f"A segment of {segment_samples} samples is empty. Give a longer segment_seconds.")
    return max(int((1 - overlap_fraction) * segment_samples), (segment_samples + 1) // 2)


def grid(n_samples: int, segment_samples: int | None, overlap_fraction: float) -> list[Segment]:
    """Segments that cover `n_samples`, in order; those at the end are short, none is empty.

    `segment_samples=None` gives one segment over everything, for models that take any length.

    >>> grid(10, 6, 0.25)
    [Segment(start=0, length=6), Segment(start=4, length=6), Segment(start=8, length=2)]
    """
    if segment_samples is None:
        return [Segment(0, n_samples)] if n_samples else []
    hop = hop_samples(segment_samples, overlap_fraction)
    return [Segment(start, min(segment_samples, n_samples - start)) for start in range(0, n_samples, hop)]


def take(mixture: Tensor, segment: Segment, segment_samples: int) -> Tensor:
    """The segment of `mixture` [channels, samples], filled up to `segment_samples`.

    A short segment is put in the middle: what fits before it is the real recording, and only what
    lies beyond the recording's ends is zero.
    """
    n_missing = segment_samples - segment.length
    start = segment.start - n_missing // 2
    return _window(mixture, start, start + segment_samples)


def heard(segment: Segment, segment_samples: int) -> Segment:
    """The stretch of the recording that `take` reads for the segment; it may reach beyond the ends."""
    return Segment(segment.start - (segment_samples - segment.length) // 2, segment_samples)


def trim(output: Tensor, segment: Segment) -> Tensor:
    """The part of `output` [..., segment samples] that belongs to the segment: the reverse of `take`."""
    left = (output.shape[-1] - segment.length) // 2
    return output[..., left : left + segment.length]


def _window(samples: Tensor, start: int, stop: int) -> Tensor:
    n_samples = samples.shape[-1]
    inside = samples[..., max(0, start) : min(n_samples, stop)]
    if inside.shape[-1] == stop - start:
        return inside
    return functional.pad(inside, (max(0, -start), max(0, stop - n_samples)))


class SegmentCutter:
    """Cuts blocks of any size into the segments of `grid`, keeping half a segment of the past.

    Give blocks [channels, samples] to `push`, then call `finish`; both yield each segment with its
    samples [channels, segment_samples], as `take` would from the whole recording. A segment comes out
    as soon as its last sample is in. With `segment_samples=None` everything comes at `finish`.
    """

    def __init__(self, segment_samples: int | None, overlap_fraction: float) -> None:
        self._segment_samples = segment_samples
        self._hop = hop_samples(segment_samples, overlap_fraction) if segment_samples else 0
        self._blocks: list[Tensor] = []
        self._start = 0
        self._stop = 0
        self._next_start = 0

    def push(self, block: Tensor) -> Iterator[tuple[Segment, Tensor]]:
        """The segments that this block completes."""
        self._blocks.append(block)
        self._stop += block.shape[-1]
        if self._segment_samples is None or self._next_start + self._segment_samples > self._stop:
            return
        while self._next_start + self._segment_samples <= self._stop:
            yield self._cut(self._segment_samples, self._segment_samples)
        self._forget(self._next_start - self._segment_samples // 2)

    def finish(self) -> Iterator[tuple[Segment, Tensor]]:
        """The short segments at the end."""
        while self._next_start < self._stop:
            n_left = self._stop - self._next_start
            yield self._cut(n_left, self._segment_samples or n_left)

    def _cut(self, length: int, segment_samples: int) -> tuple[Segment, Tensor]:
        segment = Segment(self._next_start, length)
        self._next_start += self._hop or length
        return segment, take(self._joined(), Segment(segment.start - self._start, length), segment_samples)

    def _joined(self) -> Tensor:
        if len(self._blocks) > 1:
            self._blocks = [torch.cat(self._blocks, dim=-1)]
        return self._blocks[0]

    def _forget(self, before: int) -> None:
        n_old = before - self._start
        if n_old > 0:
            self._blocks = [self._joined()[..., n_old:].clone()]
            self._start = before
