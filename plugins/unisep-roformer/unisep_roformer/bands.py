"""How the spectrogram is cut into bands, and how masks over bands become one over the spectrogram.

A row is one bin of one channel; the channels of a bin lie side by side.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from unisep.errors import WeightsError

from .config import RoformerConfig
from .layers import RMSNorm


class Bands(nn.Module):
    """Which rows of the spectrogram each band takes.

    Mel bands overlap: their rows are given once for each band, and their masks averaged where they meet.
    Holds no parameters. Legend: b batch, n sources, t frames, r rows of the spectrogram, i rows of all bands.
    """

    rows: Tensor
    shares: Tensor

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        bands = mel_bands(config) if config.num_bands else _adjoining(config.freqs_per_bands)
        channels = np.arange(config.n_channels)
        rows = [np.add.outer(bins * config.n_channels, channels).ravel() for bins in bands]
        n_rows = config.n_bins * config.n_channels
        self.sizes = tuple(2 * len(each) for each in rows)
        together = np.concatenate(rows)
        self._as_they_are = len(together) == n_rows
        self._n_rows = n_rows
        # On the CPU by name, so that they exist while a model is laid out without memory.
        shares = 1 / np.bincount(together, minlength=n_rows)
        self.register_buffer("rows", torch.tensor(together, device="cpu"), persistent=False)
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float32, device="cpu"), persistent=False)

    def split(self, spectrum: Tensor) -> Tensor:
        """The spectrum `[b, r, t]` as real numbers `[b, t, 2 i]`, band after band."""
        chosen = spectrum if self._as_they_are else spectrum[:, self.rows]
        return rearrange(torch.view_as_real(chosen), "b i t two -> b t (i two)")

    def join(self, masks: Tensor) -> Tensor:
        """Complex masks `[b, n, r, t]` from what `[b, n, t, 2 i]` the bands' networks gave."""
        parts = rearrange(masks.float(), "b n t (i two) -> b n i t two", two=2)
        if not self._as_they_are:
            # Two bands at most meet at a row, so that the order of adding cannot matter.
            total = parts.new_zeros((*parts.shape[:2], self._n_rows, *parts.shape[3:]))
            parts = total.index_add(2, self.rows, parts) * self.shares[:, None, None]
        return torch.view_as_complex(parts.contiguous())


class BandSplit(nn.Module):
    """One vector for each band and frame."""

    def __init__(self, dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(size), nn.Linear(size, dim)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[batch, frames, bands, dim]` of `x [batch, frames, all bands' values]`."""
        parts = zip(x.split(self.sizes, dim=-1), self.to_features, strict=True)
        return torch.stack([network(part) for part, network in parts], dim=-2)


class MaskEstimator(nn.Module):
    """The mask of one source: a network for each band, ending in a gated linear unit."""

    def __init__(self, config: RoformerConfig, sizes: tuple[int, ...]) -> None:
        super().__init__()
        hidden = config.dim * config.mlp_expansion_factor
        widths = (config.dim, *(hidden,) * config.n_hidden_layers)
        self.to_freqs = nn.ModuleList(nn.Sequential(_network((*widths, 2 * size)), nn.GLU(dim=-1)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """The mask `[batch, frames, all bands' values]` from features `[batch, frames, bands, dim]`."""
        parts = zip(x.unbind(dim=-2), self.to_freqs, strict=True)
        return torch.cat([network(part) for part, network in parts], dim=-1)


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers between `widths`, with tanh between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _adjoining(widths: tuple[int, ...]) -> list[np.ndarray]:
    """The bins of bands that lie side by side."""
    return np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1])


def mel_bands(config: RoformerConfig) -> list[np.ndarray]:
    """The bins of each mel band (arXiv:2310.01809, section 2): where its triangular filter is above zero.

    Raises WeightsError where bands are so narrow that some hold no bin, or a bin lies in none.
    """
    bin_hz = np.arange(config.n_bins) * config.sample_rate / config.stft_n_fft
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(config.sample_rate / 2), config.num_bands + 2))
    inside = (bin_hz > edges_hz[:-2, None]) & (bin_hz < edges_hz[2:, None])
    # The ends of the outermost triangles are zero; the models count 0 Hz and the last bin in.
    inside[0, 0] = inside[-1, -1] = True
    if not inside.any(axis=0).all() or not inside.any(axis=1).all():
        raise WeightsError(
            f"{config.num_bands} mel bands do not fit {config.n_bins} bins at {config.sample_rate} Hz: some band "
            "is empty or some bin in none. Use the file from the checkpoint's publisher."
        )
    return [np.flatnonzero(band) for band in inside]


# Slaney's mel scale: linear below 1 kHz, at 200/3 Hz a mel, and logarithmic above, 27 mels for a factor of 6.4.
_HZ_A_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _HZ_A_MEL
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _HZ_A_MEL if hz < _KNEE_HZ else _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _HZ_A_MEL, above)
