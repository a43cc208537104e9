"""What is heard of a separation: targets and rest, each at a gain, and how loud they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep import Separation

SILENT_DB = -60.0  # as low as gains and meters go; there it is silence
LOUDEST_DB = 12.0
_METER_DB = 3.0  # of one character

Samples = NDArray[np.float32]


@dataclass
class Mixer:
    """Mixes the sum of the targets and the rest.

    Gains in dB may be changed from another thread at any time; a block passes from one gain to the next without a step.
    """

    target_db: float = 0.0
    rest_db: float = SILENT_DB
    target_peak: float = 0.0
    rest_peak: float = 0.0

    def __post_init__(self) -> None:
        self._gains = self._wanted()

    def mix(self, parts: Separation) -> Samples:
        """Return the mix of one block `[channels, samples]`."""
        target, rest = np.sum([audio.samples for audio in parts.values()], axis=0), parts.rest.samples
        self.target_peak, self.rest_peak = float(np.abs(target).max()), float(np.abs(rest).max())
        before, self._gains = self._gains, self._wanted()
        ramps = np.linspace(before, self._gains, target.shape[1] + 1, dtype=np.float32)[1:].T
        mixed: Samples = ramps[0] * target + ramps[1] * rest
        return mixed

    def press(self, key: str) -> bool:
        """Do what a key asks for; return False for the one that ends it all."""
        steps = {"w": (1, 0), "s": (-1, 0), "e": (0, 1), "d": (0, -1)}
        target, rest = steps.get(key, (0, 0))
        self.target_db = within(self.target_db + target)
        self.rest_db = within(self.rest_db + rest)
        if key in "bt":  # everything as it was, or the target alone
            self.target_db, self.rest_db = 0.0, 0.0 if key == "b" else SILENT_DB
        return key != "q"

    def meters(self) -> str:
        """Return a line of gains and meters."""
        rows = (("target", self.target_db, self.target_peak), ("rest", self.rest_db, self.rest_peak))
        return "  ".join(f"{name} {in_words(gain_db):>6} [{_bar(peak)}]" for name, gain_db, peak in rows)

    def _wanted(self) -> tuple[float, float]:
        return gain(self.target_db), gain(self.rest_db)


def gain(level_db: float) -> float:
    """Return the factor of a gain in dB; the lowest is silence.

    >>> gain(0.0), gain(-60.0)
    (1.0, 0.0)
    """
    return 0.0 if level_db <= SILENT_DB else float(10 ** (level_db / 20))


def within(level_db: float) -> float:
    """Return the nearest gain in dB that there is."""
    return min(max(level_db, SILENT_DB), LOUDEST_DB)


def in_words(level_db: float) -> str:
    """Return a gain as it is shown.

    >>> in_words(-60.0), in_words(3.0)
    ('off', '+3 dB')
    """
    return "off" if level_db <= SILENT_DB else f"{level_db:+.0f} dB"


def _bar(peak: float) -> str:
    n_most = round(-SILENT_DB / _METER_DB)
    level_db = 20 * math.log10(max(peak, 1e-9))
    n_lit = min(n_most, max(0, math.ceil((level_db - SILENT_DB) / _METER_DB)))
    return "#" * n_lit + "." * (n_most - n_lit)
