"""Separate a recording a segment at a time, and blend what comes back, whole or as a stream.

Whole recordings and streams share one path, so they give the same bits. The grid, the context
around short segments and the crossfade are those of the released HT Demucs models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from unisep.errors import BackendError, Cancelled, OptionError
from unisep.segments import Cutter, Segment, grid, hop_samples, take, trim

__all__ = [
    "CancelFlag",
    "Cutter",
    "OverlapAdd",
    "Segment",
    "grid",
    "hop_samples",
    "separate_chunks",
    "stream_chunks",
    "take",
    "trim",
]

SegmentCall = Callable[[Tensor], Tensor]
OnSegment = Callable[[int, int | None], None]


class CancelFlag(Protocol):
    """Anything that tells whether the caller wants to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """True once the work is to stop."""


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
        """Samples [..., n] that no later segment can change; n is 0 for a first, very short one."""
        blended = self._blend(output)
        hop = blended.shape[-1] if self._hop is None else self._hop
        self._tail = blended[..., hop:]
        return blended[..., :hop]

    def finish(self) -> Tensor | None:
        """The last samples, or None when nothing was given."""
        tail, self._tail = self._tail, None
        return tail

    def _blend(self, output: Tensor) -> Tensor:
        if self._tail is None or self._tail.shape[-1] == 0:
            return output
        n_shared = self._tail.shape[-1]
        self._fade = self._fade.to(device=output.device, dtype=output.dtype)
        shared = self._tail + self._fade[:n_shared] * (output[..., :n_shared] - self._tail)
        return torch.cat([shared, output[..., n_shared:]], dim=-1)


def stream_chunks(
    blocks: Iterable[Tensor],
    call: SegmentCall,
    *,
    segment_samples: int | None,
    overlap_fraction: float,
    batch_segments: int = 1,
    on_segment: OnSegment | None = None,
    cancel: CancelFlag | None = None,
) -> Iterator[Tensor]:
    """Finished pieces [n, channels, samples] of the separation of `blocks` [channels, samples].

    Memory does not grow with the recording. A sample comes out at most one segment (or
    `batch_segments` of them) after it went in. `call` and the rest are as in `separate_chunks`.
    """
    cutter = Cutter(segment_samples, overlap_fraction)

    def cuts() -> Iterator[tuple[Segment, Tensor]]:
        for block in blocks:
            yield from cutter.push(block)
        yield from cutter.finish()

    adder = OverlapAdd(segment_samples, overlap_fraction)
    outputs = _outputs(cuts(), call, batch_segments, cancel)
    yield from _finished(outputs, adder, on_segment, None)


def separate_chunks(
    mixture: Tensor,
    call: SegmentCall,
    *,
    segment_samples: int | None,
    overlap_fraction: float,
    span: tuple[int, int] | None = None,
    batch_segments: int = 1,
    on_segment: OnSegment | None = None,
    cancel: CancelFlag | None = None,
) -> Tensor:
    """The separation [n, channels, samples] of `mixture` [channels, samples], a segment at a time.

    call: takes [batch, channels, segment samples] and returns [batch, n, channels, segment samples].
    span: (start, stop) in samples; only the segments that touch it are computed, on the grid of the
        whole mixture, and the result is that span, equal to the same span of the full run.
    batch_segments: how many segments `call` gets at once.
    on_segment: called after each segment with (segments done, segments in all).
    cancel: looked at before each call.

    The result lies on the mixture's device, wherever `call` computes. The mixture is not modified.

    Raises:
        OptionError: overlap out of range, or an empty span.
        BackendError: `call` returned another length or batch.
        Cancelled: `cancel` was set.
    """
    n_samples = mixture.shape[-1]
    start, stop = _checked_span(span, n_samples)
    segments = [
        segment
        for segment in grid(n_samples, segment_samples, overlap_fraction)
        if segment.start < stop and segment.stop > start
    ]
    cuts = ((segment, take(mixture, segment, segment_samples or segment.length)) for segment in segments)
    adder = OverlapAdd(segment_samples, overlap_fraction)
    outputs = _outputs(cuts, call, batch_segments, cancel)
    result, position = torch.empty(0), segments[0].start - start
    for piece in _finished(outputs, adder, on_segment, len(segments)):
        if result.ndim == 1:
            result = piece.new_empty((*piece.shape[:-1], stop - start), device=mixture.device)
        _put(result, piece, position)
        position += piece.shape[-1]
    return result


def _finished(
    outputs: Iterable[tuple[Segment, Tensor]],
    adder: OverlapAdd,
    on_segment: OnSegment | None,
    n_all: int | None,
) -> Iterator[Tensor]:
    for n_done, (_, output) in enumerate(outputs, start=1):
        yield adder.push(output)
        if on_segment is not None:
            on_segment(n_done, n_all)
    tail = adder.finish()
    if tail is not None and tail.shape[-1]:
        yield tail


def _put(result: Tensor, piece: Tensor, at: int) -> None:
    first, last = max(0, at), min(result.shape[-1], at + piece.shape[-1])
    if first < last:
        result[..., first:last] = piece[..., first - at : last - at]


def _checked_span(span: tuple[int, int] | None, n_samples: int) -> tuple[int, int]:
    start, stop = (0, n_samples) if span is None else (max(0, span[0]), min(n_samples, span[1]))
    if start >= stop:
        raise OptionError(f"The span {span} holds none of the recording's {n_samples} samples.")
    return start, stop


def _outputs(
    cuts: Iterable[tuple[Segment, Tensor]],
    call: SegmentCall,
    batch_segments: int,
    cancel: CancelFlag | None,
) -> Iterator[tuple[Segment, Tensor]]:
    """Each segment with its own output [n, channels, segment.length], computed in batches."""
    for batch in _batched(cuts, max(1, batch_segments)):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Cancelled: the separation was stopped on request.")
        inputs = torch.stack([samples for _, samples in batch])
        outputs = call(inputs)
        if outputs.shape[0] != inputs.shape[0] or outputs.shape[-1] != inputs.shape[-1]:
            raise BackendError(
                f"The backend was given {tuple(inputs.shape)} and returned {tuple(outputs.shape)}: "
                "[batch, sources, channels, samples] with the same batch and samples is expected."
            )
        for (segment, _), output in zip(batch, outputs, strict=True):
            yield segment, trim(output, segment)


def _batched(
    cuts: Iterable[tuple[Segment, Tensor]], batch_segments: int
) -> Iterator[list[tuple[Segment, Tensor]]]:
    batch: list[tuple[Segment, Tensor]] = []
    for cut in cuts:
        batch.append(cut)
        if len(batch) == batch_segments:
            yield batch
            batch = []
    if batch:
        yield batch
