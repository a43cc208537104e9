"""A part of a song, a segment at a time, averaged over random shifts where asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unisep.buffers import SampleQueue, Samples
from unisep.cancelling import CancelFlag
from unisep.chunks import Chunker, SegmentCall
from unisep.convert import resampled_length
from unisep.options import Options
from unisep.segments import Segment, grid
from unisep.spans import Span

MAX_SHIFT_SECONDS = 0.5


@dataclass(frozen=True)
class Steps:
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


class Stepper:
    """Separates a song that arrives in blocks, at the backend's rate.

    A shift puts up to half a second of silence in front, so that the grid of segments falls elsewhere;
    the results are averaged (the "shift trick" of Defossez et al. 2019, arXiv:1911.13254). All shifts
    go on side by side, so that the song is needed only once.
    """

    def __init__(
        self, call: SegmentCall, steps: Steps, on_segment: Callable[[], None], cancel: CancelFlag | None
    ) -> None:
        self._device = steps.options.device
        self._runs = [
            _Shifted(lead, _chunker(call, steps, lead, on_segment, cancel)) for lead in steps.leads()
        ]

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
    call: SegmentCall, steps: Steps, lead: int, on_segment: Callable[[], None], cancel: CancelFlag | None
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
