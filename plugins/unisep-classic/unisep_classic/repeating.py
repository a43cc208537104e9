"""What repeats and what varies over it: accompaniment and voice, in music that repeats.

Rafii and Pardo 2012, "Music/voice separation using the similarity matrix" (ISMIR): each frame is compared with
those most like it elsewhere in the recording; their median is what repeats, and what rises above it varies.
"""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import torch

from unisep import Backend, BackendInfo

from .masking import HOP_SAMPLES, SAMPLE_RATE_HZ, Masking, Spectrum, Values, power_of_all

N_SIMILAR_FRAMES = 30
LEAST_SECONDS_APART = 1.0
_FEWEST_FRAMES = 5


class Repeating(Masking):
    """Gives `repeating` and `varying`, from the whole recording at once."""

    info = BackendInfo(sources=("repeating", "varying"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2)

    def masks(self, spectrum: Spectrum) -> Values:
        """The share of what repeats; a recording too short to repeat anything counts as repeating."""
        magnitude = power_of_all(spectrum)
        n_frames = magnitude.shape[1]
        if n_frames < _FEWEST_FRAMES:
            return np.ones((1, 1, *magnitude.shape), dtype=np.float32)
        apart = min(int(LEAST_SECONDS_APART * SAMPLE_RATE_HZ / HOP_SAMPLES), (n_frames - 1) // 2 - 1)
        similar = librosa.decompose.nn_filter(
            magnitude, aggregate=np.median, metric="cosine", width=apart, k=N_SIMILAR_FRAMES
        )
        share = np.minimum(similar, magnitude) / np.maximum(magnitude, np.finfo(np.float32).tiny)
        return share[None, None].astype(np.float32)  # type: ignore[no-any-return]


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `repet-sim` backend."""
    return Repeating()
