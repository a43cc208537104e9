"""Where a recording is digital silence: nothing needs to be computed there."""

from __future__ import annotations

import numpy as np

from unisep.buffers import Samples
from unisep.segments import Segment


class Silence:
    """The stretches of a recording in which every sample of every channel is exactly 0, as it arrives in blocks.

    shortest_samples: shorter stretches are of no interest, unless they reach the end of what has arrived.
    """

    def __init__(self, shortest_samples: int) -> None:
        self._shortest = shortest_samples
        self._n_in = 0
        self._stretches: list[Segment] = []

    def push(self, block: Samples) -> None:
        """Nothing; takes the next block [channels, samples]."""
        for stretch in _silent_stretches(block):
            start, stop = self._n_in + stretch.start, self._n_in + stretch.stop
            if self._stretches and self._stretches[-1].stop == start:
                start = self._stretches.pop().start
            self._stretches.append(Segment(start, stop - start))
        self._n_in += block.shape[-1]
        self._stretches = [
            each for each in self._stretches
            if each.length >= self._shortest or each.stop == self._n_in
        ]  # fmt: skip

    def covers(self, stretch: Segment) -> bool:
        """Whether what has arrived is silent all through `stretch`; what lies beyond both ends counts as silent."""
        start, stop = max(0, stretch.start), min(stretch.stop, self._n_in)
        return any(each.start <= start and stop <= each.stop for each in self._stretches)


def _silent_stretches(block: Samples) -> list[Segment]:
    is_silent = ~block.any(axis=0)
    if not is_silent.any():
        return []
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
    return [Segment(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]
