"""Harmonic and percussive: what is steady in time, and what is spread over frequency.

Fitzgerald 2010, "Harmonic/percussive separation using median filtering" (DAFx-10): a median along time keeps
what rings, one along frequency keeps what strikes, and each bin is shared by the squares of the two.
"""

from __future__ import annotations

from pathlib import Path

import librosa
import torch

from unisep import Backend, BackendInfo

from .masking import SAMPLE_RATE_HZ, Masking, Spectrum, Values, power_of_all

# Frames and bins that a median looks at; at 23 ms a frame, sounds above 0.4 s count as steady.
KERNEL = 31


class HarmonicPercussive(Masking):
    """Gives `harmonic` and `percussive`. Both channels get one mask, so that the stereo image stays."""

    info = BackendInfo(
        sources=("harmonic", "percussive"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, segment_seconds=20.0
    )

    def masks(self, spectrum: Spectrum) -> Values:
        """The share of the harmonic part."""
        harmonic, _ = librosa.decompose.hpss(power_of_all(spectrum), kernel_size=KERNEL, power=2.0, mask=True)
        return harmonic[None, None].astype("float32")  # type: ignore[no-any-return]


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `hpss` backend."""
    return HarmonicPercussive()
