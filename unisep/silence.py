"""Where a recording is digital silence: nothing needs to be computed there."""

from __future__ import annotations

import numpy as np

from unisep.buffers import Samples
from unisep.segments import Segment


class Silence:
    """The stretches of a recording in which every sample of every channel is exactly 0, as it arrives in blocks.

    shortest_samples: shorter stretches are of no interest, unless they touch an end of the recording: what lies
        beyond it counts as silent.
    """

    def __init__(self, shortest_samples: int) -> None:
        self._shortest = shortest_samples
        self._n_in = 0
        self._over: list[Segment] = []
        self._last: Segment | None = None  # may go on in the next block

    def push(self, block: Samples) -> None:
        """Nothing; takes the next block [channels, samples]."""
        for stretch in _silent_stretches(block):
            start = self._n_in + stretch.start
            if self._last is not None and self._last.stop == start:
                self._last = Segment(self._last.start, self._last.length + stretch.length)
            else:
                self._close()
                self._last = Segment(start, stretch.length)
        self._n_in += block.shape[-1]
        if self._last is not None and self._last.stop < self._n_in:
            self._close()

    def covers(self, stretch: Segment) -> bool:
        """Whether what has arrived is silent all through `stretch`; what lies beyond both ends counts as silent."""
        start, stop = max(0, stretch.start), min(stretch.stop, self._n_in)
        found = [*self._over, self._last] if self._last is not None else self._over
        return any(each.start <= start and stop <= each.stop for each in found)

    def forget_before(self, sample: int) -> None:
        """Nothing; drops the stretches that ended before this sample: nobody will ask for them again."""
        self._over = [each for each in self._over if each.stop > sample]

    def _close(self) -> None:
        """Nothing; the last stretch is over, and kept if a segment could lie in it."""
        if self._last is not None and (self._last.start == 0 or self._last.length >= self._shortest):
            self._over.append(self._last)
        self._last = None


def _silent_stretches(block: Samples) -> list[Segment]:
    is_silent = ~block.any(axis=0)
    if not is_silent.any():
        return []
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
    return [Segment(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]
