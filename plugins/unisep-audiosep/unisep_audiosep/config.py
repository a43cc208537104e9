"""The sizes of an AudioSep model."""

from __future__ import annotations

from dataclasses import dataclass

N_ENCODERS = 7
# How many times finer time and frequency are above each of the seven encoders than below it.
DOWNSAMPLING = ((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))
FRAMES_MULTIPLE = 32
BINS_MULTIPLE = 64


@dataclass(frozen=True)
class AudioSepConfig:
    """The sizes of a model; the defaults are those of the published checkpoint.

    widths: feature maps after each of the seven encoders. query_dim: length of a query vector.
    n_fft: window of the spectrogram, a multiple of 128; always 64 ms long, every 10 ms.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 384, 384, 384)
    query_dim: int = 512
    n_fft: int = 2048

    @property
    def n_bins(self) -> int:
        """Bins of the spectrogram, the highest included."""
        return self.n_fft // 2 + 1

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.n_fft * 5 // 32

    @property
    def sample_rate_hz(self) -> int:
        """The rate at which `n_fft` samples last 64 ms."""
        return self.n_fft * 1000 // 64
