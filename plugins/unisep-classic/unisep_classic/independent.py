"""Two parts that are statistically independent: FastICA on the two channels.

Hyvarinen and Oja 2000, "Independent component analysis: algorithms and applications". It undoes a mix in which
each of two sources is only louder or softer in a channel; with delays, reverberation or more than two sources it
gives the two directions of the stereo image that are least alike in their statistics.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import FastICA
from torch import Tensor

from unisep import Backend, BackendInfo

from .masking import SAMPLE_RATE_HZ, Unmixing

MOST_SAMPLES = 1 << 20
_FEWEST_SAMPLES = 64
_LEAST_PART_OF_POWER = 1e-9


class Independent(Unmixing):
    """Gives `part-1`, the one with more power, and `part-2`, from the whole recording at once.

    A recording whose channels are one and the same up to their level is all `part-1`.
    """

    info = BackendInfo(sources=("part-1", "part-2"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, needs_whole=True)

    def unmix(self, mixture: Tensor) -> Tensor:
        """The stereo image of the first part, `[1, channels, samples]`."""
        heard = mixture.double().numpy()
        centred = heard - heard.mean(1, keepdims=True)
        covariance = centred @ centred.T / heard.shape[1]
        powers = np.linalg.eigvalsh(covariance)
        if heard.shape[1] < _FEWEST_SAMPLES or powers[0] <= _LEAST_PART_OF_POWER * powers[1]:
            return mixture[None].clone()
        step = -(-heard.shape[1] // MOST_SAMPLES)
        # The tolerance is on 1 - |cosine| of a direction between two steps; samples are evenly thinned.
        analysis = FastICA(2, whiten="unit-variance", random_state=0, max_iter=1000, tol=1e-5)
        analysis.fit(centred[:, ::step].T)
        images = analysis.mixing_.T[:, :, None] * (analysis.components_ @ centred)[:, None, :]
        loudest = int(np.square(images).sum((1, 2)).argmax())
        return torch.from_numpy(images[loudest : loudest + 1]).float()


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `ica` backend."""
    return Independent()
