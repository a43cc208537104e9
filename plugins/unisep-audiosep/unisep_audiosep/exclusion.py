"""Leaving a sound out of what AudioSep found, which has no such question of its own."""

from __future__ import annotations

from torch import Tensor

# No bin loses more than this: where the model cannot tell two sounds apart, silence would be left.
LEAST_GAIN = 0.1
_FLOOR = 1e-12


def without(target: Tensor, excluded: Tensor) -> Tensor:
    """The spectrogram `target [..., frames, bins]` less what `excluded` claims of each bin.

    With T and E their magnitudes, a bin keeps the Wiener gain W^2 / (W^2 + E^2), where W = max(0, T - E) is what
    the excluded sound leaves of it, but at least a tenth.
    """
    claimed = excluded.abs()
    left = (target.abs() - claimed).clamp_min(0).square()
    share = (left + _FLOOR) / (left + claimed.square() + _FLOOR)
    return target * share.clamp_min(LEAST_GAIN)
