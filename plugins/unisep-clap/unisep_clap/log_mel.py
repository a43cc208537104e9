"""Log-mel spectrograms of windows, blind to level: what the audio tower looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from einops import rearrange
from torch import Tensor, nn

# Mean and deviation of the logarithm over sounds of all kinds, roughly; the tower's first norm does the rest.
_MIDDLE, _SPREAD = -0.5, 1.5


@dataclass(frozen=True)
class LogMelConfig:
    """What a spectrogram is made of."""

    sample_rate_hz: int = 32000
    window_samples: int = 1024
    hop_samples: int = 640
    n_bands: int = 64
    lowest_hz: float = 40.0
    highest_hz: float = 15000.0
    floor: float = 1e-4


def mel_filters(config: LogMelConfig) -> Tensor:
    """Triangles [bands, frequencies] evenly spaced on the mel scale, each with a sum of 1.

    Source: m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987).
    """
    n_frequencies = config.window_samples // 2 + 1
    hz = torch.linspace(0, config.sample_rate_hz / 2, n_frequencies, dtype=torch.float64)
    lowest, highest = (
        2595 * torch.log10(1 + torch.tensor(f / 700).double()) for f in (config.lowest_hz, config.highest_hz)
    )
    mel = torch.linspace(float(lowest), float(highest), config.n_bands + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (mel / 2595) - 1)
    left, middle, right = (rearrange(edges_hz[i : i + config.n_bands], "m -> m 1") for i in range(3))
    triangles = torch.minimum((hz - left) / (middle - left), (right - hz) / (right - middle)).clamp(min=0)
    # A low band can lie between two bins of the transform: it takes the nearest one.
    empty = triangles.sum(1) == 0
    nearest = (hz - middle).abs().argmin(1)
    triangles[empty, nearest[empty]] = 1
    return (triangles / triangles.sum(1, keepdim=True)).float()


@final
class LogMel(nn.Module):
    """Waveforms [batch, samples] to log-mel spectrograms [batch, 1, bands, frames] of about unit size."""

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # these are in no file of weights: real ones, also in a model on "meta"
            self.register_buffer("window", torch.hann_window(config.window_samples), persistent=False)
            self.register_buffer("filters", mel_filters(config), persistent=False)
        self.window: Tensor
        self.filters: Tensor

    def forward(self, waveforms: Tensor) -> Tensor:
        """Levels relative to the waveform's own mean square, so that a gain changes nothing."""
        return level_free(self.power(waveforms), waveforms.square().mean(-1), self.config)

    def power(self, waveforms: Tensor) -> Tensor:
        """Mean power in each band [batch, bands, frames]."""
        config = self.config
        spectrum = torch.stft(
            waveforms, config.window_samples, config.hop_samples, window=self.window, return_complex=True
        )
        return torch.einsum("mf,bft->bmt", self.filters, spectrum.abs().square())


def level_free(power: Tensor, mean_square: Tensor, config: LogMelConfig) -> Tensor:
    """Log-mels [batch, 1, bands, frames] of band powers, relative to the waveform's mean square [batch]."""
    relative = power / (rearrange(mean_square, "b -> b 1 1") + 1e-12)
    return rearrange((torch.log10(relative + config.floor) - _MIDDLE) / _SPREAD, "b m t -> b 1 m t")
