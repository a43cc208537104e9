"""Leaving a sound out: target and excluded sound share every bin of the spectrogram by their energies."""

from __future__ import annotations

from torch import Tensor
from unisep_htdemucs.spectrogram import spectrogram

from .mask import resynthesised

NFFT = 4096
_FLOOR = 1e-12  # energy below which neither is heard


def without(target: Tensor, excluded: Tensor) -> Tensor:
    """`target [..., samples]` less what `excluded`, of the same shape, claims with more energy.

    Each bin keeps the share |T|^2 / (|T|^2 + |E|^2), the Wiener gain of two sources of which one is wanted: where
    the excluded sound is silent the target is untouched, where both claim a bin alike it loses 6 dB.
    """
    bins, other = spectrogram(target.float(), NFFT), spectrogram(excluded.float(), NFFT)
    energy, rival = bins.abs().square(), other.abs().square()
    share = (energy + _FLOOR) / (energy + rival + _FLOOR)
    return resynthesised(bins * share, target.shape[-1])
