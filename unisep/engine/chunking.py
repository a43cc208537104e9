"""Cut a recording into overlapping segments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unisep.audio import ENDLESS
from unisep.engine.timeline import WHOLE, Span

OVERLAP_FRACTION = 0.25  # as demucs overlaps its segments
MAX_OVERLAP_FRACTION = 0.5  # so that no more than two segments ever meet

Batch = tuple[Tensor, list[Span]]


@dataclass(frozen=True)
class SegmentPlan:
    """How a backend goes through a part of a recording, in samples at the backend's rate.

    Without `segment_samples` it takes everything at once. Only segments that touch `span` are computed. `leads` are the
    samples of silence in front of the recording, one number for each time it is separated.
    """

    segment_samples: int | None
    overlap_fraction: float = OVERLAP_FRACTION
    span: Span = WHOLE
    leads: tuple[int, ...] = (0,)
    batch_segments: int = 1

    @property
    def hop_samples(self) -> int:
        """Samples from the start of a segment to the start of the next: at least half a segment, rounded up.

        >>> SegmentPlan(343_980).hop_samples
        257985
        """
        if self.segment_samples is None:
            return ENDLESS
        return max(int((1 - self.overlap_fraction) * self.segment_samples), (self.segment_samples + 1) // 2)

    def grid(self, n_samples: int, lead_samples: int = 0) -> list[Span]:
        """Return the segments that cover a recording of `n_samples`; those at its end are short.

        >>> SegmentPlan(6).grid(10)
        [Span(start=0, stop=6), Span(start=4, stop=10), Span(start=8, stop=10)]
        """
        length = self.segment_samples or n_samples + lead_samples
        starts = range(-lead_samples, n_samples, self.hop_samples)
        return [Span(start, min(start + length, n_samples)) for start in starts]

    def touches(self, segment: Span) -> bool:
        """Tell whether a segment holds a sample that is wanted."""
        return segment.start < self.span.stop and segment.stop > self.span.start


def context(segment: Span, segment_samples: int) -> Span:
    """Return the stretch of `segment_samples` that the backend hears for a segment: a short one lies in the middle."""
    start = segment.start - (segment_samples - segment.length) // 2
    return Span(start, start + segment_samples)


def window(samples: Tensor, stretch: Span) -> Tensor:
    """Return a stretch of `samples [..., n]`, with zeros for what lies beyond the ends."""
    n_samples = samples.shape[-1]
    inside = samples[..., max(0, stretch.start) : min(n_samples, stretch.stop)]
    if inside.shape[-1] == stretch.length:
        return inside
    return functional.pad(inside, (max(0, -stretch.start), max(0, stretch.stop - n_samples)))


class Chunker:
    """Cut blocks of any size into the batches of a plan, keeping half a segment of the past.

    Push the blocks of a recording, then finish. A segment comes out as soon as its last sample is in, together with
    those that fill a batch. Segments are in samples of the recording; with a lead, the first begins before it.

    Attributes:
        is_only: whether the segment that came out last is all there is to compute, as far as the plan or the end tells.
    """

    def __init__(self, plan: SegmentPlan, lead_samples: int = 0) -> None:
        self._plan = plan
        self._next_start = -lead_samples
        self._blocks: list[Tensor] = []
        self._first = self._n_in = 0  # what is kept: from the first sample to what came in so far
        self._batch: list[tuple[Tensor, Span]] = []
        self._n_cut = 0
        self.is_only = False

    def push(self, block: Tensor) -> Iterator[Batch]:
        """Yield the batches `[batch, channels, samples]` that a block `[channels, samples]` completes."""
        self._blocks.append(block)
        self._n_in += block.shape[-1]
        length = self._plan.segment_samples or ENDLESS
        while self._next_start + length <= self._n_in:
            yield from self._cut(Span(self._next_start, self._next_start + length), self._plan.span.stop)
        n_old = self._next_start - length // 2 - self._first
        if n_old > 0:
            self._blocks = [self._joined()[..., n_old:].clone()]
            self._first += n_old

    def finish(self) -> Iterator[Batch]:
        """Yield what is left: the short segments at the end."""
        while self._next_start < self._n_in:
            yield from self._cut(Span(self._next_start, self._n_in), min(self._n_in, self._plan.span.stop))
        yield from self._flush()

    def _cut(self, segment: Span, stop: int) -> Iterator[Batch]:
        """Yield what a segment completes; none follows that begins at `stop` or later."""
        self._next_start += self._plan.hop_samples
        if self._plan.touches(segment):
            heard = context(segment, self._plan.segment_samples or segment.length)
            inside = Span(heard.start - self._first, heard.stop - self._first)
            self._batch.append((window(self._joined(), inside), segment))
            self._n_cut += 1
            self.is_only = self._n_cut == 1 and self._next_start >= stop
        if len(self._batch) == self._plan.batch_segments or self._next_start >= self._plan.span.stop:
            yield from self._flush()

    def _flush(self) -> Iterator[Batch]:
        if self._batch:
            samples, segments = zip(*self._batch, strict=True)
            self._batch = []
            yield torch.stack(samples), list(segments)

    def _joined(self) -> Tensor:
        if len(self._blocks) > 1:
            self._blocks = [torch.cat(self._blocks, dim=-1)]
        return self._blocks[0]
