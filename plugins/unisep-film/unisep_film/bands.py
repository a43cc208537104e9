"""A band-split mask model's parts (Luo, Yu 2023, arXiv:2209.15174): bands, recurrent blocks, and a mask for each band.

32 bands, narrow where notes lie close, of a spectrogram with windows of 4096 samples. Blocks run along time in each band, then
across the bands of each frame.

Legend: b items of a batch, n queries, r = (b n), c audio channels, t frames, f bins, k bands, d features, q condition channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from .config import BandShape
from .film import FiLM
from .mask import COMPRESSION, merge_bins, split_bins

N_BINS = 2048  # of a window; the highest, at half the rate, is left out
MERGED = ((512, 1), (512, 2), (1024, 4))  # from low to high: bins, and how many count as one
_BANDS = ((16, 8), (8, 16), (4, 64), (2, 128), (2, 128))  # bands, and merged bins in each
N_BANDS = sum(n for n, _ in _BANDS)
_N_FEATURES = 3  # of a merged bin and channel: compressed magnitude, and it times cosine and sine
_QUIETEST = 0.05  # compressed: what is below is silence

Memory = tuple[Tensor, Tensor]


class Banded(NamedTuple):
    """Features of the merged bins of bands, `[b, k, t, w, p c]` for each group of bands, and levels `[b, t, k]`."""

    groups: Sequence[Tensor]
    levels: Tensor


def banded(bins: Tensor) -> Banded:
    """Return what is heard of complex `bins [b, c, f, t]`."""
    magnitude = bins.abs().clamp_min(1e-9)
    loudness = magnitude.pow(COMPRESSION)
    parts = torch.view_as_real(bins) * (loudness / magnitude)[..., None]
    stacked = rearrange(torch.cat([loudness[..., None], parts], dim=-1), "b c f t p -> b (p c) f t")
    merged = rearrange(merge_bins(stacked, MERGED), "b (p c) f t -> b p c f t", p=_N_FEATURES)
    groups = [
        rearrange(group, "b p c (k w) t -> b k t w p c", k=n)
        for group, (n, _) in zip(merged.split([n * width for n, width in _BANDS], dim=3), _BANDS, strict=True)
    ]
    levels = torch.cat([reduce(group[..., 0, :], "b k t w c -> b t k", "mean") for group in groups], dim=2)
    return Banded(groups, levels)


class BandSplit(nn.Module):
    """What is heard in each band to features, at the band's own level."""

    def __init__(self, shape: BandShape, channels: int) -> None:
        super().__init__()
        n_in = _N_FEATURES * channels
        self.per_band = nn.ParameterList(
            nn.Parameter(torch.randn(n, width * n_in, shape.features) * (width * n_in) ** -0.5) for n, width in _BANDS
        )
        self.band_embedding = nn.Parameter(0.3 * torch.randn(N_BANDS, shape.features))

    def forward(self, groups: Sequence[Tensor], levels: Tensor) -> Tensor:
        """Return features `[b, t, k, d]` of the groups of `banded`, against `levels [b, t or 1, k]`."""
        features = []
        parts = levels.split([n for n, _ in _BANDS], dim=2)
        for group, level, layer in zip(groups, parts, self.per_band, strict=True):
            scaled = group / rearrange(level + _QUIETEST, "b t k -> b k t 1 1 1")
            flat = rearrange(scaled, "b k t w p c -> k (b t) (w p c)")
            features.append(rearrange(torch.bmm(flat, layer), "k (b t) d -> b t k d", b=group.shape[0]))
        return torch.cat(features, dim=2) + self.band_embedding


class Block(nn.Module):
    """Recurrent layers over time in each band, then over the bands of each frame, both added to what they read.

    Over time they run forwards only if `causal`, over bands both ways. With `condition_channels` each reads through a FiLM.
    """

    def __init__(self, shape: BandShape, condition_channels: int = 0, *, causal: bool = False) -> None:
        super().__init__()
        d = shape.features
        self.norm_time, self.norm_bands = nn.LayerNorm(d), nn.LayerNorm(d)
        self.film_time = FiLM(condition_channels, d) if condition_channels else None
        self.film_bands = FiLM(condition_channels, d) if condition_channels else None
        self.lstm_time = nn.LSTM(d, shape.hidden_time, batch_first=True, bidirectional=not causal)
        self.lstm_bands = nn.LSTM(d, shape.hidden_bands, batch_first=True, bidirectional=True)
        self.from_time = nn.Linear((1 if causal else 2) * shape.hidden_time, d)
        self.from_bands = nn.Linear(2 * shape.hidden_bands, d)

    def forward(
        self, x: Tensor, condition: Tensor | None = None, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """Return `x [r, t, k, d]` and what is remembered, with `condition [r, q]`."""
        n_rows, n_frames = x.shape[:2]
        heard = rearrange(filmed(self.norm_time(x), self.film_time, condition), "r t k d -> (r k) t d")
        over_time, memory = self.lstm_time(heard, memory)
        x = x + rearrange(self.from_time(over_time), "(r k) t d -> r t k d", r=n_rows)
        heard = rearrange(filmed(self.norm_bands(x), self.film_bands, condition), "r t k d -> (r t) k d")
        over_bands, _ = self.lstm_bands(heard)
        return x + rearrange(self.from_bands(over_bands), "(r t) k d -> r t k d", t=n_frames), memory


class MaskHead(nn.Module):
    """Features, and what they began as, to the parts of a mask: log-odds of the magnitude, angle, and what else is asked for."""

    def __init__(self, shape: BandShape, channels: int, condition_channels: int, n_parts: int = 2) -> None:
        super().__init__()
        self.n_parts = n_parts
        d, hidden, n_out = 2 * shape.features, shape.hidden_mask, n_parts * channels
        self.norm, self.film = nn.LayerNorm(d), FiLM(condition_channels, d)
        self.per_band = nn.Parameter(torch.randn(N_BANDS, d, hidden) * d**-0.5)
        self.bias = nn.Parameter(torch.zeros(N_BANDS, 1, hidden))
        self.last = nn.ParameterList(
            nn.Parameter(torch.randn(n, hidden, width * n_out) * 0.1 * hidden**-0.5) for n, width in _BANDS
        )
        self.last_bias = nn.ParameterList(nn.Parameter(torch.zeros(n, 1, width * n_out)) for n, width in _BANDS)

    def forward(self, x: Tensor, began: Tensor, condition: Tensor) -> Tensor:
        """Return the parts `[p, r, c, f, t]` of features `[r, t, k, d]` and what they began as, of the same shape."""
        n_rows = x.shape[0]
        joined = torch.cat([x, began.to(x)], dim=-1)
        x = rearrange(filmed(self.norm(joined), self.film, condition), "r t k d -> k (r t) d")
        x = F.gelu(torch.bmm(x, self.per_band) + self.bias)
        groups = zip(x.split([n for n, _ in _BANDS]), self.last, self.last_bias, _BANDS, strict=True)
        parts = [
            rearrange((torch.bmm(group, layer) + bias).float(), "k (r t) (w o) -> r o (k w) t", r=n_rows, w=width)
            for group, layer, bias, (_, width) in groups
        ]
        return rearrange(split_bins(torch.cat(parts, dim=2), MERGED), "r (c p) f t -> p r c f t", p=self.n_parts)


def filmed(x: Tensor, film: FiLM | None, condition: Tensor | None) -> Tensor:
    """Return `x [r, t, k, d]` as the condition `[r, q]` has it; as it is without one."""
    return x if film is None or condition is None else film(x, condition, channel_axis=3)
