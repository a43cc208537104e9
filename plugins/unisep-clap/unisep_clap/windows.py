"""Cut a clip into windows that overlap by half and keep those in which it sounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A window this far below the loudest one is a pause, and would only blur the average.
QUIET_BELOW_DB = -40.0


def loud_windows(mono: NDArray[np.float32], window_samples: int) -> list[NDArray[np.float32]]:
    """Windows [window_samples]; a short clip gives one, padded with zeros; the last one ends with the clip.

    >>> [len(w) for w in loud_windows(np.ones(10, np.float32), 4)], len(loud_windows(np.ones(3, np.float32), 4))
    ([4, 4, 4, 4], 1)
    """
    if len(mono) <= window_samples:
        return [np.pad(mono, (0, window_samples - len(mono)))]
    last = len(mono) - window_samples
    starts = [*range(0, last, max(1, window_samples // 2)), last]
    windows = [mono[start : start + window_samples] for start in starts]
    levels = [float(np.square(window).mean()) for window in windows]
    audible = max(levels) * 10 ** (QUIET_BELOW_DB / 10)
    return [window for window, level in zip(windows, levels, strict=True) if level >= audible]
