"""torchaudio's Hybrid Demucs as a backend of four stems."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output

from .bundles import build, torchaudio_models
from .plugin import STEMS

SAMPLE_RATE_HZ = 44_100
SEGMENT_SECONDS = 10.0


class HybridDemucsBackend(Backend):
    """Separates stretches of ten seconds; the host normalises the song as a whole, as in training."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.info = BackendInfo(
            sources=STEMS,
            sample_rate_hz=SAMPLE_RATE_HZ,
            channels=2,
            segment_seconds=SEGMENT_SECONDS,
            normalisation="song",
        )

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """The four stems `[batch, 4, 2, samples]` of `mixture [batch, 2, samples]`.

        What is shorter than a second is put in the middle of one, between silence.
        """
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        missing = max(0, SAMPLE_RATE_HZ - n_samples)
        before = missing // 2
        sources = self.model(F.pad(mixture, (before, missing - before)))
        return Output(sources[..., before : before + n_samples])


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `hdemucs-high` backend."""
    models = torchaudio_models()
    model = build(lambda: models.hdemucs_high(list(STEMS)), weights, "hdemucs-high", device, dtype)
    return HybridDemucsBackend(model)
