"""How sure a query model is that a sound is there: from what it hears in the mixture, and in what it isolated."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.spectrogram import spectrogram

from .film import FiLM

_N_BANDS = 48  # as wide as the ear's, between these two
_LOWEST_HZ, _HIGHEST_HZ = 30.0, 20_000.0
_N_FEATURES = 96
_QUIETEST = 1e-7  # of the mean power of the mixture


class PresenceOfLevel(nn.Linear):
    """What the level of a target against its mixture adds to the log-odds that it is there: what is silent is not."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        nn.init.ones_(self.weight)  # even odds at 15 dB below the mixture
        nn.init.constant_(self.bias, 1.5)

    def forward(self, level: Tensor) -> Tensor:
        """Log-odds `[...]` of `level [...]`, the decimal logarithm of a ratio of energies."""
        return super().forward(level[..., None].to(self.weight.dtype))[..., 0].float()


class Presence(nn.Module):
    """Hears mixture and target by band and frame, with FiLM, and the level of the target against the mixture.

    Nothing is learnt through it by what separates: the targets are heard without their gradients.

    Axes: b batch, n queries, r = (b n), c audio channels, l samples, t frames, f bands, k condition channels.
    """

    bands: Tensor

    def __init__(self, shape: HTDemucsConfig, condition_channels: int) -> None:
        super().__init__()
        self.nfft = shape.nfft
        self.register_buffer("bands", _bands(shape.nfft // 2, shape.samplerate), persistent=False)
        widths = (2 * _N_BANDS, _N_FEATURES, _N_FEATURES)
        self.over_time = nn.ModuleList(
            nn.Conv1d(n_in, n_out, 3, stride=2, padding=1) for n_in, n_out in pairwise(widths)
        )
        self.films = nn.ModuleList(FiLM(condition_channels, _N_FEATURES) for _ in self.over_time)
        self.of_all = nn.Sequential(
            nn.Linear(2 * _N_FEATURES + condition_channels, _N_FEATURES), nn.GELU(), nn.Linear(_N_FEATURES, 1)
        )
        self.of_level = PresenceOfLevel()

    def forward(self, mixture: Tensor, targets: Tensor, conditions: Tensor, powers: Tensor | None = None) -> Tensor:
        """Return log-odds `[b, n]` that each query's sound is in `mixture [b, c, l]`.

        targets: `[b, n, c, l]`, as they were isolated; conditions: `[b, n, k]`; powers: of the mixture, where they are known.
        """
        return self.log_odds(*self.heard(mixture, targets, powers), conditions)

    def heard(self, mixture: Tensor, targets: Tensor, powers: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is heard of mixture `[b, t, f]` and targets `[b, n, t, f]`, and the level of the targets `[b, n]`.

        All are decimal logarithms of ratios to the mean power of the mixture.
        """
        targets = targets.detach()  # without no_grad, whose inside is closed to exporters
        powers = self.powers(mixture) if powers is None else powers
        mean = powers.mean(dim=(1, 2), keepdim=True) + 1e-16
        of_mixture = torch.log10(powers / mean + _QUIETEST)
        return of_mixture, torch.log10(self.powers(targets) / mean[:, None] + _QUIETEST), level_of(targets, mixture)

    def powers(self, waveform: Tensor) -> Tensor:
        """Return the mean power `[..., t, f]` of each band of `waveform [..., c, l]`, summed over its channels."""
        bins = spectrogram(waveform.float(), self.nfft)
        return (bins.real.square() + bins.imag.square()).sum(dim=-3).transpose(-1, -2) @ self.bands.float()

    def log_odds(self, mixture: Tensor, targets: Tensor, level: Tensor, conditions: Tensor) -> Tensor:
        """Return log-odds `[b, n]` of what `heard` gives, and conditions `[b, n, k]`."""
        n_queries = targets.shape[1]
        condition = rearrange(conditions, "b n k -> (b n) k")
        both = torch.cat([repeat(mixture, "b t f -> b n t f", n=n_queries), targets], dim=-1)
        x = rearrange(both, "b n t f -> (b n) f t").to(condition) / 2 + 1
        for layer, film in zip(self.over_time, self.films, strict=True):
            x = F.gelu(film(layer(x), condition))
        out: Tensor = self.of_all(torch.cat([x.mean(dim=2), x.amax(dim=2), condition], dim=1))
        return rearrange(out.float(), "(b n) 1 -> b n", n=n_queries) + self.of_level(level)


def level_of(targets: Tensor, mixture: Tensor) -> Tensor:
    """Return the decimal logarithm `[b, n]` of the energy of `targets [b, n, c, l]` over that of `mixture [b, c, l]`."""
    energy, of_mixture = targets.float().square().mean(dim=(2, 3)), mixture.float().square().mean(dim=(1, 2))
    return torch.log10((energy + 1e-16) / (of_mixture[:, None] + 1e-16)).clamp(-6, 1)


def _bands(n_bins: int, rate_hz: int) -> Tensor:
    """Return weights `[bins, f]` that take the mean power of each band, even on the mel scale; a bin wide at least."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (_LOWEST_HZ, min(_HIGHEST_HZ, rate_hz / 2)))
    edges_hz = 700 * (10 ** (torch.linspace(low, high, _N_BANDS + 1, device="cpu") / 2595) - 1)
    edges = (edges_hz / rate_hz * 2 * n_bins).round().long().clamp_max(n_bins - 1)
    first, last = edges[:-1], torch.maximum(edges[1:], edges[:-1] + 1)
    bins = torch.arange(n_bins, device="cpu")[:, None]
    inside = (bins >= first) & (bins < last)
    return inside / inside.sum(dim=0)
