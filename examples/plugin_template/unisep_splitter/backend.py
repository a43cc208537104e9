"""The backend itself: an ideal filter at 1 kHz."""

from pathlib import Path

import torch
from torch import Tensor
from unisep import Backend, BackendInfo, Output

CROSSOVER_HZ = 1_000
SEGMENT_SECONDS = 10.0  # long recordings are cut into pieces of this length, which bounds memory


class Splitter(Backend):
    """Splits `[batch, channels, samples]` into what lies below and above the crossover."""

    info = BackendInfo(sources=("low", "high"), sample_rate_hz=44_100, channels=2, segment_seconds=SEGMENT_SECONDS)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Both bands, `[batch, 2, channels, samples]`; they sum to the mixture."""
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        spectrum = torch.fft.rfft(mixture)
        n_low = 1 + CROSSOVER_HZ * n_samples // self.info.sample_rate_hz
        spectrum[..., n_low:] = 0
        low = torch.fft.irfft(spectrum, n=n_samples)
        return Output(torch.stack([low, mixture - low], dim=1))


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Splitter:
    """The backend; it has no weights, and computes wherever the mixture lies."""
    return Splitter()
