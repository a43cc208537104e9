"""A distance between spectra: mean absolute difference of log magnitudes at several resolutions.

The log-magnitude term of Arik, Jun, Diamos 2018 (arXiv:1808.06719), at several window lengths as in Yamamoto, Song,
Kim 2020 (arXiv:1910.11480). It hears quiet bins that an error on the waveform does not, and no phase.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Bins this far below the level of the whole count as silent: what no one hears need not be right.
FLOOR_DB = -60.0


def log_spectral_distance(estimate: Tensor, target: Tensor, windows: tuple[int, ...]) -> Tensor:
    """The distance `[batch]` of waveforms `[batch, samples]`, in natural logarithms, averaged over `windows`.

    Windows longer than the waveform are left out. Hann windows, a quarter of a window apart.
    """
    floor = 10 ** (FLOOR_DB / 10) * target.square().mean(-1, keepdim=True)[..., None] + 1e-8
    usable = [n for n in windows if n <= estimate.shape[-1]] or [estimate.shape[-1]]
    distances = [
        (_log_energy(estimate, n, floor) - _log_energy(target, n, floor)).abs().mean((-1, -2)) / 2 for n in usable
    ]
    return torch.stack(distances).mean(0)


def _log_energy(sound: Tensor, window_samples: int, floor: Tensor) -> Tensor:
    """Log of the energy `[batch, bins, frames]`, where white noise has its own mean energy in every bin."""
    window = torch.hann_window(window_samples, device=sound.device)
    bins = torch.stft(
        sound, window_samples, max(window_samples // 4, 1), window=window, center=False, return_complex=True
    )
    energy = torch.view_as_real(bins).square().sum(-1) / math.fsum(window.square().tolist())
    return torch.log(energy + floor)
