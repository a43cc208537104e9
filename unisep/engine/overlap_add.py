"""Put the outputs of overlapping segments together again, and average them over shifted grids."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from unisep.audio import Samples
from unisep.engine.chunking import Chunker, SegmentPlan, context
from unisep.engine.timeline import SampleQueue, Span


class OverlapAdd:
    """Blend the outputs of consecutive segments with a linear crossfade, and crop them to the plan's span.

    Where two segments meet, the result is `a + t (b - a)` with `t = (j + 1) / (overlap + 1)` at sample j: the weighted
    mean under triangular windows, and exact where a equals b.
    """

    def __init__(self, plan: SegmentPlan) -> None:
        self._plan = plan
        self._hop = plan.hop_samples
        n_overlap = max(0, (plan.segment_samples or 0) - self._hop)
        self._fade = torch.arange(1, n_overlap + 1) / (n_overlap + 1)
        self._tail: Tensor | None = None
        self._tail_start = 0

    def push(self, output: Tensor, segment: Span) -> Tensor:
        """Return the samples `[..., n]` of the span that no later segment can change, after one more segment.

        What is returned or kept of several segments is a copy: a backend may use the memory of its outputs again.
        """
        left = segment.start - context(segment, output.shape[-1]).start
        output = output[..., left : left + segment.length]
        if self._plan.segment_samples is None:
            return self._cropped(output, segment.start)
        tail = output[..., :0] if self._tail is None else self._tail
        n_shared = tail.shape[-1]
        self._fade = self._fade.to(device=output.device, dtype=output.dtype)
        shared = torch.addcmul(tail, self._fade[:n_shared], output[..., :n_shared] - tail)
        self._tail, self._tail_start = output[..., self._hop :].clone(), segment.start + self._hop
        return self._cropped(torch.cat([shared, output[..., n_shared : self._hop]], dim=-1), segment.start)

    def finish(self) -> Tensor | None:
        """Return the last samples, or None where there are none."""
        return None if self._tail is None else self._cropped(self._tail, self._tail_start)

    def _cropped(self, samples: Tensor, start: int) -> Tensor:
        span = self._plan.span
        return samples[..., max(0, span.start - start) : max(0, span.stop - start)]


class ShiftAverager:
    """Average the outputs of several passes over the same samples, as far as all of them are.

    With silence of up to half a second in front, the grid of segments falls elsewhere: the "shift trick" of Defossez
    et al. 2019, arXiv:1911.13254. The shifts go on side by side, so that the recording is needed only once.
    """

    def __init__(self, n_shifts: int) -> None:
        self._queues = [SampleQueue() for _ in range(n_shifts)]

    def put(self, shift: int, outputs: Tensor) -> None:
        """Append outputs `[n, channels, samples]` of one shift."""
        self._queues[shift].put(outputs.cpu().numpy())

    def take(self) -> Samples | None:
        """Return the finished outputs `[n, channels, samples]` that follow those before, or None."""
        n_ready = min(queue.n_samples for queue in self._queues)
        parts = [part for queue in self._queues if (part := queue.take(n_ready)) is not None]
        if len(parts) <= 1:
            return parts[0] if parts else None
        total: Samples = sum(parts[1:], start=parts[0])
        return total / np.float32(len(parts))


def separate_chunks(mixture: Tensor, call: Callable[[Tensor], Tensor], plan: SegmentPlan) -> Tensor:
    """Return the separation `[n, channels, samples]` of a mixture `[channels, samples]`, batch by batch.

    `call` takes `[batch, channels, samples]` and returns `[batch, n, channels, samples]`.
    """
    chunker, adder = Chunker(plan), OverlapAdd(plan)
    pieces = [
        adder.push(output, segment)
        for batch, segments in chain(chunker.push(mixture), chunker.finish())
        for output, segment in zip(call(batch), segments, strict=True)
    ]
    last = adder.finish()
    return torch.cat(pieces if last is None else [*pieces, last], dim=-1)
