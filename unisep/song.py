"""The whole recording as a backend takes it, and the way back for a part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisep import convert
from unisep.audio import Audio
from unisep.backend import BackendInfo
from unisep.spans import Span

_LEAST_DEVIATION = 1e-8


@dataclass(frozen=True, eq=False)
class Song:
    """A recording at the model's rate and channels.

    samples: [channels, samples], on the backend's device, normalised if the backend asks for it.
    mean, deviation: of the mono mix before; 0 and 1 for a backend that takes samples as they are.
    """

    samples: Tensor
    mean: float
    deviation: float

    def restored(self, estimates: Tensor) -> Tensor:
        """`estimates` [..., channels, samples] on the recording's own scale; they are changed in place."""
        if self.mean == 0.0 and self.deviation == 1.0:
            return estimates
        return estimates.mul_(self.deviation).add_(self.mean)


def as_song(mixture: Audio, info: BackendInfo, device: torch.device) -> Song:
    """The mixture as the backend takes it.

    With `info.normalisation == "song"`: minus the mean, over the standard deviation (n - 1, plus 1e-8)
    of the whole recording's mono mix, as HT Demucs was trained.
    """
    converted = convert.to_model(mixture.samples, mixture.sample_rate_hz, info.sample_rate_hz, info.channels)
    samples = _tensor(converted).to(device)
    if info.normalisation == "none":
        return Song(samples, 0.0, 1.0)
    mono = samples.mean(0)
    mean = float(mono.mean())
    deviation = float(mono.std()) if mono.shape[0] > 1 else 0.0
    deviation += _LEAST_DEVIATION
    return Song((samples - mean) / deviation, mean, deviation)


def _tensor(samples: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(samples if samples.flags.writeable else samples.copy())


def at_source(
    estimates: Tensor, model_span: Span, wanted: Span, mixture: Audio, model_rate_hz: int
) -> NDArray[np.float32]:
    """Estimates [..., channels, samples] of `model_span` as samples of `wanted`, like the mixture's own."""
    rate_hz = mixture.sample_rate_hz
    start = model_span.start * rate_hz // model_rate_hz
    samples: NDArray[np.float32] = estimates.cpu().numpy()
    result = convert.to_source(samples, model_rate_hz, rate_hz, mixture.n_channels, wanted.stop - start)
    return result[..., wanted.start - start :]
