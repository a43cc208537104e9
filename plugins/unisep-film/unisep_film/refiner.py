"""A second stage: hears the mixture and what the first stage made of it, and gives something better.

A band-split model (`unisep_film.bands`) that hears the query through the FiLMs of its later blocks. Of each bin it keeps a
share of the first stage's target; the rest is a mask of its own on the mixture.

Legend: b items of a batch, n queries, r = (b n), c audio channels, l samples, f bins, t frames, k bands, d features, q condition channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from unisep_htdemucs.spectrogram import spectrogram

from .bands import N_BINS, BandSplit, Block, MaskHead, banded
from .config import BandShape
from .mask import analysis_fade, polar_mask, resynthesised

_HEARD_LEVEL = 0.08  # to which a mixture is brought before it is listened to: -22 dB


@dataclass(frozen=True)
class Heard:
    """What all queries share of a mixture.

    bins: its complex spectrogram `[b, c, f, t]`. gain: at which it is listened to, `[b, 1, 1, 1]`. level: of each band
    `[b, 1, k]`. began, features: of the bands `[b, t, k, d]`, as they were split and after the first blocks. fade: what is left
    of a constant after analysis and synthesis `[l]`.
    """

    bins: Tensor
    gain: Tensor
    level: Tensor
    began: Tensor
    features: Tensor
    fade: Tensor


class Refiner(nn.Module):
    """Refines targets; when new it keeps 0.7 of them and adds 0.3 of the mixture, roughly."""

    def __init__(self, shape: BandShape, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.split = BandSplit(shape, channels)
        self.before = nn.ModuleList(Block(shape) for _ in range(shape.n_first))
        self.first_stage = BandSplit(shape, channels)
        for parameter in self.first_stage.parameters():
            nn.init.zeros_(parameter)
        self.after = nn.ModuleList(Block(shape, condition_channels) for _ in range(shape.n_after))
        self.head = MaskHead(shape, channels, condition_channels, n_parts=3)
        self.kept = nn.Parameter(torch.tensor(0.85))  # in log-odds, of the first stage

    def hear(self, mixture: Tensor) -> Heard:
        """Return what all queries share of `mixture [b, c, l]`."""
        bins = spectrogram(mixture.float(), 2 * N_BINS).contiguous()
        dtype = self.split.band_embedding.dtype
        gain = _HEARD_LEVEL / (mixture.float().std(dim=(1, 2), unbiased=False)[:, None, None, None] + 1e-7)
        groups, levels = banded(bins * gain)
        level = levels.mean(dim=1, keepdim=True).to(dtype)
        began = features = self.split([group.to(dtype) for group in groups], level)
        for block in self.before:
            features, _ = block(features)
        return Heard(bins, gain, level, began, features, analysis_fade(bins, mixture.shape[-1]))

    def forward(self, heard: Heard, targets: Tensor, condition: Tensor) -> Tensor:
        """Return better `targets [b, n, c, l]`, with `condition [r, q]`."""
        n_queries = targets.shape[1]
        bins, gain, level, began, features = (
            repeat(each, "b ... -> (b n) ...", n=n_queries)
            for each in (heard.bins, heard.gain, heard.level, heard.began, heard.features)
        )
        first = spectrogram(rearrange(targets.float(), "b n c l -> (b n) c l"), 2 * N_BINS).contiguous()
        x = features + self.first_stage([group.to(level.dtype) for group in banded(first * gain).groups], level)
        for block in self.after:
            x, _ = block(x, condition)
        odds, angle, kept = self.head(x, began, condition)
        share = torch.sigmoid(kept + self.kept.float())
        refined = share * first + (1 - share) * polar_mask(odds, angle) * bins
        return rearrange(resynthesised(refined, heard.fade), "(b n) c l -> b n c l", n=n_queries)
