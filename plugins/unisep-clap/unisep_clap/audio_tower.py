"""The audio tower: windows of sound in, unit vectors out. A small residual CNN with attention pooling."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unisep_clap.log_mel import LogMel, LogMelConfig


@dataclass(frozen=True)
class AudioTowerConfig:
    """Sizes of an audio tower."""

    mel: LogMelConfig = field(default_factory=LogMelConfig)
    window_seconds: float = 3.0
    widths: tuple[int, ...] = (32, 64, 128, 192)
    pooled_width: int = 256
    n_heads: int = 4
    n_dims: int = 256

    @property
    def window_samples(self) -> int:
        """Length of what the tower hears at once."""
        return round(self.window_seconds * self.mel.sample_rate_hz)


@final
class Stage(nn.Module):
    """Halve both axes, then one residual convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
        self.halve_norm = nn.BatchNorm2d(n_out)
        self.refine = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.refine_norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, n_out, bands / 2, frames / 2]."""
        x = F.relu(self.halve_norm(self.halve(x)))
        return F.relu(x + self.refine_norm(self.refine(x)))


@final
class AudioTower(nn.Module):
    """Waveform windows [batch, samples] at the mel's rate to unit vectors [batch, n_dims]."""

    # b batch, c channels, m bands, t frames, h heads, d dims of a head
    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.mel)
        self.band_norm = nn.BatchNorm1d(config.mel.n_bands)
        widths = (1, *config.widths)
        self.stages = nn.ModuleList(Stage(n_in, n_out) for n_in, n_out in pairwise(widths))
        n_bands_left = -(-config.mel.n_bands // 2 ** len(config.widths))
        self.flatten = nn.Linear(config.widths[-1] * n_bands_left, config.pooled_width)
        self.attention = nn.Linear(config.pooled_width, config.n_heads)
        self.head_norm = nn.LayerNorm(config.pooled_width)
        self.head = nn.Linear(config.pooled_width, config.n_dims)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return unit vectors `[batch, n_dims]`."""
        return self.from_mel(self.log_mel(waveforms))

    def from_mel(self, mel: Tensor) -> Tensor:
        """Encode log-mel spectrograms `[batch, 1, bands, frames]` to unit vectors."""
        x = rearrange(self.band_norm(rearrange(mel, "b 1 m t -> b m t")), "b m t -> b 1 m t")
        for stage in self.stages:
            x = stage(x)
        x = F.relu(self.flatten(rearrange(x, "b c m t -> b t (c m)")))
        weights = self.attention(x).softmax(1)
        values = rearrange(x, "b t (h d) -> b t h d", h=self.config.n_heads)
        pooled = torch.einsum("bth,bthd->bhd", weights, values)
        return F.normalize(self.head(self.head_norm(rearrange(pooled, "b h d -> b (h d)"))), dim=-1)
