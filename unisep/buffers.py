"""Samples that wait until what belongs to them is there too."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class SampleQueue:
    """Samples [..., n], put in pieces and taken in pieces of other sizes, in order."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._pieces: deque[Samples] = deque()

    def put(self, samples: Samples | None) -> None:
        """Nothing; appends `samples` [..., n], if there are any. They are kept, not copied."""
        if samples is not None and samples.shape[-1]:
            self._pieces.append(samples)
            self.n_samples += samples.shape[-1]

    def take(self, n_samples: int) -> Samples | None:
        """The first samples, up to `n_samples`; None where there are none."""
        taken: list[Samples] = []
        n_left = min(n_samples, self.n_samples)
        self.n_samples -= n_left
        while n_left:
            piece = self._pieces.popleft()
            if piece.shape[-1] > n_left:
                self._pieces.appendleft(piece[..., n_left:])
                piece = piece[..., :n_left]
            n_left -= piece.shape[-1]
            taken.append(piece)
        if len(taken) > 1:
            return np.concatenate(taken, axis=-1)
        return taken[0] if taken else None
