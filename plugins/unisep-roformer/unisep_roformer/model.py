"""RoFormers: a complex mask on the mixture's spectrogram from attention over time and over bands in turn.

Band-Split RoFormer: Lu, Wang, Kong, Hung 2023, arXiv:2309.02612. Mel-Band RoFormer: Wang, Lu, Won 2023,
arXiv:2310.01809. Parameters have the names of the community's checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unisep.errors import WeightsError

from .config import RoformerConfig

_LONGEST_PERIOD = 10_000.0
# Slaney's mel scale: linear below 1 kHz, at 200/3 Hz a mel, and logarithmic above, 27 mels for a factor of 6.4.
_HZ_A_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _HZ_A_MEL
_LOG_STEP = math.log(6.4) / 27


class Roformer(nn.Module):
    """A network that separates a mixture into the sources of its config.

    Legend: b batch, c channels, n sources, f bins, r rows (a bin of a channel; those of a bin lie side by side), t
    frames, k bands, d features.
    """

    window: Tensor

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        self.config = config
        is_mel = config.kind == "mel-band"
        depths = (config.time_transformer_depth, config.freq_transformer_depth)
        self.layers = nn.ModuleList(
            nn.ModuleList(Transformer(config, depth, norm_output=is_mel) for depth in depths)
            for _ in range(config.depth)
        )
        self.final_norm = nn.Identity() if is_mel else RMSNorm(config.dim)
        self.bands = Bands(config)
        self.band_split = BandSplit(config.dim, self.bands.sizes)
        self.mask_estimators = nn.ModuleList(MaskEstimator(config, self.bands.sizes) for _ in range(config.num_stems))
        window = torch.hann_window(config.stft_win_length, device="cpu")
        self.register_buffer("window", window, persistent=False)

    def forward(self, mixture: Tensor, stems: Sequence[int] | None = None) -> Tensor:
        """Return the sources `[b, n, c, samples]` of `mixture [b, c, samples]`, of any length.

        `stems` says which of the sources to compute; without, all.
        """
        spectrum = self.spectrum(mixture)
        features = self.features(self.bands.split(spectrum))
        chosen = range(self.config.num_stems) if stems is None else stems
        masks = torch.stack([self.mask_estimators[index](features) for index in chosen], dim=1)
        return self.waveforms(spectrum[:, None] * self.bands.join(masks), mixture.shape[-1])

    def spectrum(self, mixture: Tensor) -> Tensor:
        """Compute the complex spectrogram `[b, r, t]`, always in float32."""
        config, n_samples = self.config, mixture.shape[-1]
        # Both ends are mirrored by half a window, which needs one sample more than that.
        missing = max(0, config.stft_n_fft // 2 + 1 - n_samples)
        signal = rearrange(F.pad(mixture.float(), (0, missing)), "b c samples -> (b c) samples")
        bins = torch.stft(signal, **self._stft(), return_complex=True)
        return rearrange(bins, "(b c) f t -> b (f c) t", c=config.n_channels)

    def features(self, values: Tensor) -> Tensor:
        """Return what the attention makes of the bands: `[b, t, k, d]`."""
        x = self.band_split(values)
        n_batch, n_frames = x.shape[:2]
        earlier: list[Tensor] = []
        for block in self.layers:
            over_time, over_bands = cast(nn.ModuleList, block)
            if self.config.skip_connection:
                x = sum(earlier, x)
            x = over_time(rearrange(x, "b t k d -> (b k) t d"))
            x = over_bands(rearrange(x, "(b k) t d -> (b t) k d", b=n_batch))
            x = rearrange(x, "(b t) k d -> b t k d", t=n_frames)
            earlier.append(x)
        return self.final_norm(x)

    def waveforms(self, spectra: Tensor, n_samples: int) -> Tensor:
        """Return signals `[b, n, c, samples]` of the sources' spectrograms `[b, n, r, t]`."""
        n_batch, n_channels = spectra.shape[0], self.config.n_channels
        bins = rearrange(spectra, "b n (f c) t -> (b n c) f t", c=n_channels)
        if self.config.zero_dc:
            bins = F.pad(torch.view_as_real(bins[:, 1:]), (0, 0, 0, 0, 1, 0))
            bins = torch.view_as_complex(bins)
        shortest = self.config.stft_n_fft // 2 + 1
        signal = torch.istft(bins, **self._stft(), length=max(n_samples, shortest))
        signal = rearrange(signal, "(b n c) samples -> b n c samples", b=n_batch, c=n_channels)
        return signal[..., :n_samples]

    def _stft(self) -> dict[str, Any]:
        config = self.config
        return {
            "n_fft": config.stft_n_fft,
            "hop_length": config.stft_hop_length,
            "win_length": config.stft_win_length,
            "window": self.window,
            "normalized": config.stft_normalized,
        }


class RMSNorm(nn.Module):
    """A norm that brings each vector to length sqrt(dim), times a gain (Zhang and Sennrich 2019, arXiv:1910.07467).

    Computed in float32 at any precision: spectrograms leave the range of half precision.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x [..., dim]`, in the parameters' precision."""
        length = x.shape[-1] ** 0.5
        return (F.normalize(x.float(), dim=-1) * length).to(self.gamma.dtype) * self.gamma


class RotaryPosition(nn.Module):
    """Angles that grow with position, by which pairs of neighbouring values turn (Su et al. 2021, arXiv:2104.09864).

    The angles' frequencies are kept in float32, and part of the checkpoint.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, dim, 2) / dim
        self.freqs = nn.Parameter(_LONGEST_PERIOD**-exponents, requires_grad=False)

    def angles(self, n_positions: int) -> tuple[Tensor, Tensor]:
        """Return cosine and sine `[positions, dim/2]` of every position's angles."""
        positions = torch.arange(n_positions, device=self.freqs.device, dtype=torch.float32)
        angles = torch.outer(positions, self.freqs.float())
        return angles.cos(), angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        """Turn `x [..., positions, dim]`, in its own precision."""
        cosine, sine = self.angles(x.shape[-2])
        first, second = rearrange(x.float(), "... (pair two) -> two ... pair", two=2)
        turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
        return rearrange(turned, "... pair two -> ... (pair two)").to(x.dtype)


class Attention(nn.Module):
    """Attention over positions with rotary positions, each head's output under a gate of its own.

    Legend: b batch, n positions, h heads, d values of a head, k one of query, key and value.
    """

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(dim)
        self.rotary_embed = RotaryPosition(dim_head)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to `x [b, n, dim]`."""
        x = self.norm(x)
        query, key, value = rearrange(self.to_qkv(x), "b n (k h d) -> k b h n d", k=3, h=self.heads)
        attended = F.scaled_dot_product_attention(self.rotary_embed(query), self.rotary_embed(key), value)
        gates = rearrange(self.to_gates(x).sigmoid(), "b n h -> b h n 1")
        return self.to_out(rearrange(attended * gates, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """A network at each position, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The dropouts hold the places that the checkpoints' numbering counts.
        self.net = nn.Sequential(
            RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return what is to be added to `x [b, n, dim]`."""
        return self.net(x)


class Transformer(nn.Module):
    """Attention and feed-forward in turn along one axis; a norm behind them in Mel-Band models only."""

    def __init__(self, config: RoformerConfig, depth: int, norm_output: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(config.dim, config.heads, config.dim_head), FeedForward(config.dim)])
            for _ in range(depth)
        )
        self.norm = RMSNorm(config.dim) if norm_output else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Inform every position of `x [b, n, dim]` by all others of its row."""
        for layer in self.layers:
            for step in layer:  # type: ignore[attr-defined]
                x = x + step(x)
        return self.norm(x)


class Bands(nn.Module):
    """The rows of the spectrogram that each band takes; holds no parameters.

    Mel bands overlap: their rows are given once for each band, and their masks averaged where they meet.
    Legend: b batch, n sources, t frames, r rows of the spectrogram, i rows of all bands.
    """

    rows: Tensor
    shares: Tensor

    def __init__(self, config: RoformerConfig) -> None:
        super().__init__()
        bands = mel_bands(config) if config.num_bands else _adjoining(config.freqs_per_bands)
        channels = np.arange(config.n_channels)
        rows = [np.add.outer(bins * config.n_channels, channels).ravel() for bins in bands]
        n_rows = config.n_bins * config.n_channels
        self.sizes = tuple(2 * len(band) for band in rows)
        together = np.concatenate(rows)
        self._as_they_are = len(together) == n_rows
        self._n_rows = n_rows
        # On the CPU by name, so that they exist while a model is laid out without memory.
        shares = 1 / np.bincount(together, minlength=n_rows)
        self.register_buffer("rows", torch.tensor(together, device="cpu"), persistent=False)
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float32, device="cpu"), persistent=False)

    def split(self, spectrum: Tensor) -> Tensor:
        """Return the spectrum `[b, r, t]` as real numbers `[b, t, 2 i]`, band after band."""
        chosen = spectrum if self._as_they_are else spectrum[:, self.rows]
        return rearrange(torch.view_as_real(chosen), "b i t two -> b t (i two)")

    def join(self, masks: Tensor) -> Tensor:
        """Join what the bands' networks gave `[b, n, t, 2 i]` to complex masks `[b, n, r, t]`."""
        parts = rearrange(masks.float(), "b n t (i two) -> b n i t two", two=2)
        if not self._as_they_are:
            # Two bands at most meet at a row, so that the order of adding cannot matter.
            total = parts.new_zeros((*parts.shape[:2], self._n_rows, *parts.shape[3:]))
            parts = total.index_add(2, self.rows, parts) * self.shares[:, None, None]
        return torch.view_as_complex(parts.contiguous())


class BandSplit(nn.Module):
    """A network that makes one vector for each band and frame."""

    def __init__(self, dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(size), nn.Linear(size, dim)) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[batch, frames, bands, dim]` of `x [batch, frames, all bands' values]`."""
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
        """Return the mask `[batch, frames, all bands' values]` of features `[batch, frames, bands, dim]`."""
        parts = zip(x.unbind(dim=-2), self.to_freqs, strict=True)
        return torch.cat([network(part) for part, network in parts], dim=-1)


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers between `widths`, with tanh between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _adjoining(widths: tuple[int, ...]) -> list[np.ndarray]:
    """Return the bins of bands that lie side by side."""
    return np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1])


def mel_bands(config: RoformerConfig) -> list[np.ndarray]:
    """Return the bins of each mel band (arXiv:2310.01809, section 2): where its triangular filter is above zero.

    Raises:
        WeightsError: Bands are so narrow that some hold no bin, or a bin lies in none.
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


def _hz_to_mel(hz: float) -> float:
    return hz / _HZ_A_MEL if hz < _KNEE_HZ else _KNEE_MEL + math.log(hz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _HZ_A_MEL, above)
