"""The middle of the stereo image: what is alike in both channels, in level and in phase.

The similarity of the channels is that of Avendano 2003 (WASPAA, "Frequency-domain source identification and
manipulation in stereo mixes"), with the sign of the phase kept: 2 Re(L R*) / (|L|^2 + |R|^2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unisep import Backend, BackendInfo

from .masking import SAMPLE_RATE_HZ, Masking, Spectrum, Values

# How narrow the middle is: a source whose channels differ by 4.8 dB keeps a tenth of its amplitude.
SHARPNESS = 16


class Centre(Masking):
    """Gives `centre` and `sides`. A mono recording is all centre."""

    info = BackendInfo(sources=("centre", "sides"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, segment_seconds=20.0)

    def masks(self, spectrum: Spectrum) -> Values:
        """The similarity of the channels, sharpened."""
        left, right = spectrum
        both = np.maximum(np.square(np.abs(left)) + np.square(np.abs(right)), np.finfo(np.float32).tiny)
        alike = np.clip(2 * (left * right.conj()).real / both, 0.0, 1.0)
        return (alike**SHARPNESS)[None, None].astype(np.float32)  # type: ignore[no-any-return]


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `stereo-centre` backend."""
    return Centre()
