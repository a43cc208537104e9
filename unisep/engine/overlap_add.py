"""Separate a recording segment by segment: cut, call, crossfade, and average over random shifts."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unisep.engine.chunking import Segment, SegmentCutter, grid, hop_samples, trim
from unisep.engine.device import Options
from unisep.engine.resample import resampled_length
from unisep.engine.timeline import SampleQueue, Samples, Span
from unisep.errors import BackendError, OptionError
from unisep.progress import CancelFlag, stop_if

SegmentCall = Callable[[Tensor, list[Segment]], Tensor]


OnSegment = Callable[[], None]


class OverlapAdd:
    """Blends consecutive segments with a linear crossfade and hands out what is finished.

    Where two segments meet, the result is `a + t (b - a)` with t = (j + 1) / (overlap + 1) at sample j:
    the weighted mean under triangular windows, and exact where a equals b. Feed outputs
    [..., segment.length] in the order of `grid`; together the pieces returned by `push` and `finish`
    have the length of the recording (from the first segment given).
    """

    def __init__(self, segment_samples: int | None, overlap_fraction: float) -> None:
        self._hop = hop_samples(segment_samples, overlap_fraction) if segment_samples else None
        self._n_overlap = segment_samples - self._hop if segment_samples and self._hop else 0
        self._fade = torch.arange(1, self._n_overlap + 1) / (self._n_overlap + 1)
        self._tail: Tensor | None = None

    def push(self, output: Tensor) -> Tensor:
        """Samples [..., n] that no later segment can change; n is 0 for a first, very short one.

        What is given back or kept is a copy: a backend may use the memory of its outputs again.
        """
        if self._hop is None:
            return output
        hop = self._hop
        before, self._tail = self._tail, output[..., hop:].clone()
        if before is None or before.shape[-1] == 0:
            return output[..., :hop].clone()
        n_shared = before.shape[-1]
        self._fade = self._fade.to(device=output.device, dtype=output.dtype)
        shared = torch.addcmul(before, self._fade[:n_shared], output[..., :n_shared] - before)
        return torch.cat([shared, output[..., n_shared:hop]], dim=-1)

    def finish(self) -> Tensor | None:
        """The last samples, or None when nothing was given."""
        tail, self._tail = self._tail, None
        return tail


class Chunker:
    """Separates a recording that arrives in blocks: cuts it, calls for each segment, and blends.

    Give blocks [channels, samples] to `push`, then call `finish`. Both return the finished samples [n,
    channels, samples] that follow those returned before, or None. A sample comes out at most one
    segment (or `batch_segments` of them) after it went in; memory does not grow with the recording.

    call: takes [batch, channels, segment samples] and where each segment lies; returns [batch, n,
        channels, segment samples].
    span: (start, stop) in samples; only the segments that touch it are computed, on the grid of the
        whole recording, and what comes out is that span, equal to the same span of the full run.
    batch_segments: how many segments `call` gets at once.
    on_segment: called after each segment.
    cancel: looked at before each call.

    Raises:
        OptionError: overlap out of range.
        BackendError: `call` returned another length or batch.
        Cancelled: `cancel` was set.
    """

    def __init__(
        self,
        call: SegmentCall,
        *,
        segment_samples: int | None,
        overlap_fraction: float,
        span: tuple[int, int] | None = None,
        batch_segments: int = 1,
        on_segment: OnSegment | None = None,
        cancel: CancelFlag | None = None,
    ) -> None:
        self._call = call
        self._cutter = SegmentCutter(segment_samples, overlap_fraction)
        self._adder = OverlapAdd(segment_samples, overlap_fraction)
        self._start, self._stop = span or (0, sys.maxsize)
        self._batch_segments = max(1, batch_segments)
        self._on_segment = on_segment
        self._cancel = cancel
        self._waiting: list[tuple[Segment, Tensor]] = []
        self._position = -1

    def push(self, block: Tensor) -> Tensor | None:
        """The samples that this block completes, or None."""
        return _joined(self._clipped(self._pieces(self._cutter.push(block), last=False)))

    def finish(self) -> Tensor | None:
        """The remaining samples, or None where there are none."""
        pieces = [*self._pieces(self._cutter.finish(), last=True), self._adder.finish()]
        return _joined(self._clipped(pieces))

    def _pieces(self, cuts: Iterable[tuple[Segment, Tensor]], last: bool) -> Iterator[Tensor | None]:
        for segment, samples in cuts:
            if segment.start < self._stop and segment.stop > self._start:
                self._waiting.append((segment, samples))
            if len(self._waiting) == self._batch_segments or segment.start >= self._stop:
                yield from self._separated()
        if last:
            yield from self._separated()

    def _separated(self) -> Iterator[Tensor]:
        """The segments that wait, computed and blended."""
        if not self._waiting:
            return
        stop_if(self._cancel)
        batch, self._waiting = self._waiting, []
        segments, inputs = [segment for segment, _ in batch], torch.stack([samples for _, samples in batch])
        outputs = self._call(inputs, segments)
        if outputs.shape[0] != inputs.shape[0] or outputs.shape[-1] != inputs.shape[-1]:
            raise BackendError(
                f"The backend was given {tuple(inputs.shape)} and returned {tuple(outputs.shape)}: "
                "[batch, sources, channels, samples] with the same batch and samples is expected."
            )
        if self._position < 0:
            self._position = segments[0].start
        for segment, output in zip(segments, outputs, strict=True):
            yield self._adder.push(trim(output, segment))
            if self._on_segment is not None:
                self._on_segment()

    def _clipped(self, pieces: Iterable[Tensor | None]) -> Iterator[Tensor]:
        """The parts of consecutive pieces that lie in the span."""
        for piece in pieces:
            if piece is None:
                continue
            first, self._position = self._position, self._position + piece.shape[-1]
            inside = piece[..., max(0, self._start - first) : max(0, self._stop - first)]
            if inside.shape[-1]:
                yield inside


def separate_chunks(
    mixture: Tensor,
    call: Callable[[Tensor], Tensor],
    *,
    segment_samples: int | None,
    overlap_fraction: float,
    span: tuple[int, int] | None = None,
    batch_segments: int = 1,
) -> Tensor:
    """The separation [n, channels, samples] of `mixture` [channels, samples], a segment at a time.

    call: takes [batch, channels, segment samples] and returns [batch, n, channels, segment samples].
    The rest is as in `Chunker`. The mixture is not modified.

    Raises:
        OptionError: overlap out of range, or an empty span.
    """
    start, stop = (0, mixture.shape[-1]) if span is None else span
    if max(0, start) >= min(stop, mixture.shape[-1]):
        raise OptionError(f"The span {span} holds none of the recording's {mixture.shape[-1]} samples.")
    chunker = Chunker(
        lambda batch, _: call(batch),
        segment_samples=segment_samples,
        overlap_fraction=overlap_fraction,
        span=span,
        batch_segments=batch_segments,
    )
    found = _joined(piece for piece in (chunker.push(mixture), chunker.finish()) if piece is not None)
    assert found is not None
    return found


def _joined(pieces: Iterable[Tensor]) -> Tensor | None:
    every = list(pieces)
    return torch.cat(every, dim=-1) if len(every) > 1 else every[0] if every else None


MAX_SHIFT_SECONDS = 0.5


@dataclass(frozen=True)
class SegmentPlan:
    """How one backend goes through one part of a song: `span`, in samples of the model.

    segment_samples: None for all at once.
    """

    span: Span
    segment_samples: int | None
    sample_rate_hz: int
    options: Options

    def leads(self) -> list[int]:
        """Samples of silence put in front of the song, one for each time it is separated.

        They come from a generator of their own, seeded anew for every call.
        """
        generator = random.Random(self.options.seed)
        most = int(MAX_SHIFT_SECONDS * self.sample_rate_hz)
        return [generator.randint(0, most) for _ in range(self.options.shifts)] or [0]

    def extent(self, n_samples: int, source_rate_hz: int) -> tuple[int, float]:
        """How many segments are computed for a recording of `n_samples`, and how many seconds they bring."""
        n_model = resampled_length(n_samples, source_rate_hz, self.sample_rate_hz)
        n_segments = sum(
            segment.start < self.span.stop + lead and segment.stop > self.span.start + lead
            for lead in self.leads()
            for segment in grid(n_model + lead, self.segment_samples, self.options.overlap_fraction)
        )
        return n_segments, (min(self.span.stop, n_model) - self.span.start) / self.sample_rate_hz


@dataclass
class _Shifted:
    """The song with silence in front of it, on its way through the segments, and what came of it so far."""

    lead: int
    chunker: Chunker
    found: SampleQueue = field(default_factory=SampleQueue)
    is_begun: bool = False

    def push(self, block: Tensor) -> None:
        if self.lead and not self.is_begun:
            self._put(self.chunker.push(block.new_zeros(block.shape[0], self.lead)))
        self.is_begun = True
        self._put(self.chunker.push(block))

    def finish(self) -> None:
        if self.is_begun:
            self._put(self.chunker.finish())

    def _put(self, samples: Tensor | None) -> None:
        self.found.put(None if samples is None else samples.cpu().numpy())


class ShiftAverager:
    """Separates a song that arrives in blocks, at the backend's rate.

    A shift puts up to half a second of silence in front, so that the grid of segments falls elsewhere;
    the results are averaged (the "shift trick" of Defossez et al. 2019, arXiv:1911.13254). All shifts
    go on side by side, so that the song is needed only once.
    """

    def __init__(
        self, call: SegmentCall, steps: SegmentPlan, on_segment: Callable[[], None], cancel: CancelFlag | None
    ) -> None:
        self._device = steps.options.device
        self._runs = [_Shifted(lead, _chunker(call, steps, lead, on_segment, cancel)) for lead in steps.leads()]

    def push(self, block: Samples) -> Samples | None:
        """Finished outputs [n, channels, samples] that follow those before, after one more block; or None."""
        tensor = torch.from_numpy(block if block.flags.writeable else block.copy()).to(self._device)
        for run in self._runs:
            run.push(tensor)
        return self._averaged()

    def finish(self) -> Samples | None:
        """The remaining outputs, or None."""
        for run in self._runs:
            run.finish()
        return self._averaged()

    def _averaged(self) -> Samples | None:
        n_ready = min(run.found.n_samples for run in self._runs)
        parts = [part for run in self._runs if (part := run.found.take(n_ready)) is not None]
        if len(parts) <= 1:
            return parts[0] if parts else None
        total = parts[0] + parts[1]
        for part in parts[2:]:
            total += part
        result: Samples = total / np.float32(len(parts))
        return result


def _chunker(
    call: SegmentCall, steps: SegmentPlan, lead: int, on_segment: Callable[[], None], cancel: CancelFlag | None
) -> Chunker:
    def in_song(batch: Tensor, segments: list[Segment]) -> Tensor:
        return call(batch, [Segment(segment.start - lead, segment.length) for segment in segments])

    return Chunker(
        in_song,
        segment_samples=steps.segment_samples,
        overlap_fraction=steps.options.overlap_fraction,
        span=(steps.span.start + lead, steps.span.stop + lead),
        batch_segments=steps.options.n_at_once,
        on_segment=on_segment,
        cancel=cancel,
    )
