"""Separation by masks on the short-time spectrum, a recording at a time."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisep import Backend, Output

SAMPLE_RATE_HZ = 44_100
N_FFT = 4096
HOP_SAMPLES = 1024
Spectrum = NDArray[np.complex64]
Values = NDArray[np.float32]


class Unmixing(Backend):
    """A backend that finds all sources of one recording but the last, which is what they leave over."""

    @abstractmethod
    def unmix(self, mixture: Tensor) -> Tensor:
        """All sources but the last, `[sources - 1, channels, samples]`, of `mixture [channels, samples]` on the CPU."""

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """The sources of `mixture [batch, channels, samples]`; they sum to it. Computed on the CPU.

        Raises BackendError for queries, AudioError for another shape.
        """
        self.check_input(mixture, queries, negatives)
        heard = mixture.detach().cpu().float()
        found = torch.stack([self.unmix(recording) for recording in heard])
        last = heard[:, None] - found.sum(1, keepdim=True)
        return Output(torch.cat([found, last], dim=1).to(mixture.device))


class Masking(Unmixing):
    """A backend that multiplies the mixture's spectrum by masks between 0 and 1."""

    @abstractmethod
    def masks(self, spectrum: Spectrum) -> Values:
        """Masks `[sources - 1, channels or 1, bins, frames]` for `spectrum [channels, bins, frames]`."""

    def unmix(self, mixture: Tensor) -> Tensor:
        """See `Unmixing.unmix`."""
        if not bool(mixture.any()):
            return torch.zeros(len(self.info.sources) - 1, *mixture.shape)
        window = torch.hann_window(N_FFT)
        spectrum = torch.stft(mixture, N_FFT, HOP_SAMPLES, window=window, pad_mode="constant", return_complex=True)
        masked = torch.from_numpy(self.masks(spectrum.numpy())) * spectrum
        rows = rearrange(masked, "source channel bin frame -> (source channel) bin frame")
        samples = torch.istft(rows, N_FFT, HOP_SAMPLES, window=window, length=mixture.shape[-1])
        return rearrange(samples, "(source channel) sample -> source channel sample", channel=mixture.shape[0])


def power_of_all(spectrum: Spectrum) -> Values:
    """The magnitude `[bins, frames]` that holds the power of all channels together."""
    power: Values = np.sqrt(np.square(np.abs(spectrum)).sum(0, dtype=np.float32))
    return power
