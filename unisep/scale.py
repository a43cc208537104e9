"""The scale on which a backend hears a recording, and the way back: minus a mean, over a deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unisep.buffers import Samples
from unisep.recording import Statistics

LEAST_DEVIATION = 1e-8
Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """One scale for the whole recording, as HT Demucs was trained; as it is with mean 0 and deviation 1."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, statistics: Statistics) -> Scale:
        """The scale on which a recording has mean 0 and deviation 1, or next to 0 where it is silent."""
        return cls(statistics.mean, statistics.deviation + LEAST_DEVIATION)

    def normalised(self, samples: Samples) -> Samples:
        """`samples` on this scale; the input is not modified."""
        if self == Scale():
            return samples
        result: Samples = (samples - self.mean) / self.deviation
        return result

    def restoring(self, call: Call) -> Call:
        """`call`, with what it returns brought back to the recording's own scale."""
        if self == Scale():
            return call

        def restored(batch: Tensor) -> Tensor:
            found = call(batch)
            return torch.add(found.new_full((), self.mean), found, alpha=self.deviation)

        return restored


def by_segment(call: Call) -> Call:
    """`call` with each segment [channels, samples] of the batch on a scale of its own, and put back."""

    def scaled(batch: Tensor) -> Tensor:
        mono = batch.mean(1)
        mean = mono.mean(-1)[:, None, None]
        deviation = mono.std(-1, correction=min(1, mono.shape[-1] - 1))[:, None, None] + LEAST_DEVIATION
        return call((batch - mean) / deviation) * deviation[:, None] + mean[:, None]

    return scaled
