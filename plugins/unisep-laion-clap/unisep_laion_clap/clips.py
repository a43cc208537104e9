"""From a clip of any kind to the windows of ten seconds that CLAP hears."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep import Audio

SAMPLE_RATE_HZ = 48_000
WINDOW_SAMPLES = 480_000
# A window this far below the loudest one is a pause, and would only blur the average.
QUIET_BELOW_DB = -40.0
_FULL_SCALE = 32767.0

Samples = NDArray[np.float32]


def windows(clip: Audio) -> list[Samples]:
    """The windows `[WINDOW_SAMPLES]` of a clip, rounded to 16 bits as in training.

    A short clip is repeated as often as it fits, then filled up with zeros. Of a long one, windows that overlap by
    half are kept where it sounds; laion-clap itself takes one at random.
    """
    mono = np.asarray(soxr.resample(clip.samples.mean(0), clip.sample_rate_hz, SAMPLE_RATE_HZ), np.float32)
    rounded = _rounded(mono if len(mono) else np.zeros(1, np.float32))
    if len(rounded) <= WINDOW_SAMPLES:
        repeated = np.tile(rounded, WINDOW_SAMPLES // len(rounded))
        return [np.pad(repeated, (0, WINDOW_SAMPLES - len(repeated)))]
    last = len(rounded) - WINDOW_SAMPLES
    starts = [*range(0, last, WINDOW_SAMPLES // 2), last]
    return _sounding([rounded[start : start + WINDOW_SAMPLES] for start in starts])


def _rounded(mono: Samples) -> Samples:
    steps = (mono.clip(-1, 1) * _FULL_SCALE).astype(np.int16)
    return steps.astype(np.float32) / np.float32(_FULL_SCALE)


def _sounding(parts: list[Samples]) -> list[Samples]:
    levels = [float(np.square(part).mean()) for part in parts]
    audible = max(levels) * 10 ** (QUIET_BELOW_DB / 10)
    return [part for part, level in zip(parts, levels, strict=True) if level >= audible]
