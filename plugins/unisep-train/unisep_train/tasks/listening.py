"""Training examples for the audio tower: windows where something sounds, roughened like the world.

Everything happens to band powers: a mixture is the sum of powers, a filter a gain for each band, a change of
pitch a shift along the mel axis.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from unisep_clap.log_mel import level_free

from unisep_train.data.band_powers import MEL, Clip, Store

# Sounds that are asked for most often are heard more often than their number of files would have it.
_EMPHASIS = {"vocals": 3.0, "drums": 1.5, "bass": 1.5, "guitar": 1.2, "keys": 1.2}


@dataclass(frozen=True)
class RougheningConfig:
    """How far examples are bent; rates are probabilities."""

    mix_rate: float = 0.35
    mix_db: tuple[float, float] = (4.0, 25.0)
    noise_rate: float = 0.3
    noise_db: tuple[float, float] = (10.0, 45.0)
    pitch_semitones: float = 2.0
    equaliser_db: float = 4.0
    low_pass_rate: float = 0.15
    shorten_rate: float = 0.3


@final
class Listener:
    """Draws (band powers, clip) pairs from stores, labels balanced by the root of their number of files."""

    def __init__(
        self, stores: list[tuple[Store, list[Clip]]], n_frames: int, config: RougheningConfig, seed: int
    ) -> None:
        self._items = [(store, clip) for store, clips in stores for clip in clips]
        self._n_frames = n_frames
        self._config = config
        self._random = np.random.default_rng(seed)
        n_files = Counter(clip.label for _, clip in self._items)
        weights = np.array([
            _EMPHASIS.get(clip.family, 1.0) / n_files[clip.label] ** 0.5
            * (3.0 if clip.kind == "song" else 1.0) for _, clip in self._items
        ])  # fmt: skip
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, n: int) -> tuple[Tensor, Tensor, list[Clip]]:
        """Powers [n, bands + 1, frames] of sounds, those of strangers to mix in, and the sounds' clips."""
        chosen = [self._item() for _ in range(n)]
        sounds = np.stack([self._cut(*item) for item in chosen])
        strangers = np.stack([self._cut(*self._item()) for _ in range(n)])
        powers = (rearrange(torch.from_numpy(x), "b t m -> b m t") for x in (sounds, strangers))
        return *powers, [clip for _, clip in chosen]  # type: ignore[return-value]

    def _item(self) -> tuple[Store, Clip]:
        return self._items[min(int(np.searchsorted(self._cumulative, self._random.random())), len(self._items) - 1)]

    def _cut(self, store: Store, clip: Clip) -> np.ndarray:
        """A window where the clip sounds, now and then a short one."""
        draw = self._random
        n_wanted = self._n_frames
        if draw.random() < self._config.shorten_rate:
            n_wanted = int(n_wanted * draw.uniform(0.25, 1.0))
        active = clip.active_frames[int(draw.integers(len(clip.active_frames)))]
        start = max(0, min(active - int(draw.integers(0, 50)), clip.n_frames - n_wanted))
        powers = store.powers(clip, start, n_wanted)
        return np.pad(powers, ((0, self._n_frames - n_wanted), (0, 0)))


def roughened(sounds: Tensor, strangers: Tensor, config: RougheningConfig, generator: torch.Generator) -> Tensor:
    """Log-mels [batch, 1, bands, frames] of sounds with strangers and noise behind them, through odd filters."""
    level = sounds[:, -1:].mean(-1, keepdim=True)
    background = _some(strangers, level, config.mix_rate, config.mix_db, generator)
    noise = _some(_noise(sounds, generator), level, config.noise_rate, config.noise_db, generator)
    mixed = sounds + background + noise
    power = _pitched(mixed[:, :-1], config.pitch_semitones, generator) * _filters(sounds, config, generator)
    # A filter changes the level as it does each band, so the mean square follows the bands' sum.
    before = (mixed[:, :-1] * _BAND_WIDTHS).sum((1, 2)) + 1e-20
    mean_square = mixed[:, -1].mean(-1) * ((power * _BAND_WIDTHS).sum((1, 2)) / before)
    return level_free(power, mean_square, MEL)


def _mel_of(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


_LOWEST_MEL, _HIGHEST_MEL = (float(_mel_of(torch.tensor(hz))) for hz in (MEL.lowest_hz, MEL.highest_hz))
_EDGES_MEL = torch.linspace(_LOWEST_MEL, _HIGHEST_MEL, MEL.n_bands + 2)
_EDGES_HZ = 700 * (10 ** (_EDGES_MEL / 2595) - 1)
_BANDS_HZ = _EDGES_HZ[1:-1]
# A band's part in the mean square: its share of the spectrum over the energy of the transform's window.
_SHARES = (
    (_EDGES_HZ[2:] - _EDGES_HZ[:-2]) / MEL.sample_rate_hz / float(torch.hann_window(MEL.window_samples).square().sum())
)
_BAND_WIDTHS = rearrange(_SHARES, "m -> m 1")


def _some(
    powers: Tensor, level: Tensor, rate: float, below_db: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """The powers at a random level below `level` for a random share of the batch, zero for the others."""
    n = len(powers)
    low, high = below_db
    drop_db = low + (high - low) * torch.rand(n, 1, 1, generator=generator)
    wanted = torch.rand(n, 1, 1, generator=generator) < rate
    own = powers[:, -1:].mean(-1, keepdim=True) + 1e-12
    return torch.where(wanted, powers * (level / own * 10 ** (-drop_db / 10)), 0.0)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Steady noise whose power falls with frequency to a random power from 0 to 2."""
    n, _, n_frames = like.shape
    slope = 2 * torch.rand(n, 1, 1, generator=generator)
    shape = (rearrange(_BANDS_HZ, "m -> 1 m 1") / 1000) ** -slope
    flutter = (1 + 0.3 * torch.randn(n, MEL.n_bands, n_frames, generator=generator)).clamp(min=0.1)
    power = shape * flutter
    mean_square = (power * _BAND_WIDTHS).sum(1, keepdim=True)
    return torch.cat([power, mean_square], 1)


def _pitched(power: Tensor, semitones: float, generator: torch.Generator) -> Tensor:
    """Bands read at the places that a change of pitch moves there."""
    n = len(power)
    factor = 2 ** (semitones * (2 * torch.rand(n, 1, generator=generator) - 1) / 12)
    step = float(_EDGES_MEL[1] - _EDGES_MEL[0])
    place = ((_mel_of(_BANDS_HZ / factor) - float(_EDGES_MEL[1])) / step).clamp(0, MEL.n_bands - 1)
    below = place.floor().long().clamp(max=MEL.n_bands - 2)
    share = rearrange(place - below, "b m -> b m 1")
    index = rearrange(below, "b m -> b m 1").expand_as(power)
    return power.gather(1, index) * (1 - share) + power.gather(1, index + 1) * share


def _filters(like: Tensor, config: RougheningConfig, generator: torch.Generator) -> Tensor:
    """Gains [batch, bands, 1]: smooth random curves, some cutting off the upper bands as poor recordings do."""
    n = len(like)
    knots = torch.randn(n, 1, 7, generator=generator) * config.equaliser_db
    curve_db = F.interpolate(knots, MEL.n_bands, mode="linear", align_corners=True)
    cut = torch.where(
        torch.rand(n, 1, 1, generator=generator) < config.low_pass_rate,
        torch.randint(MEL.n_bands // 2, MEL.n_bands, (n, 1, 1), generator=generator), MEL.n_bands,
    )  # fmt: skip
    curve_db = curve_db - 15.0 * (torch.arange(MEL.n_bands) - cut).clamp(min=0)
    return rearrange(10 ** (curve_db / 10), "b 1 m -> b m 1")
