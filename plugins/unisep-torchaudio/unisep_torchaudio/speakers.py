"""torchaudio's Conv-TasNet as a backend of two speakers."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor, nn

from unisep import Backend, BackendInfo, Output

from .bundles import build, torchaudio_models
from .plugin import SPEAKERS

SAMPLE_RATE_HZ = 8000
PART_SECONDS = 60
OVERLAP_SECONDS = 10


class ConvTasNetBackend(Backend):
    """Separates a recording of any length: the model gives its speakers in no order, so nobody else may cut it.

    Beyond a minute it is cut here. Each part overlaps the one before by ten seconds, in which its speakers are put in
    the order that agrees best with what came before, and one fades into the other.
    """

    def __init__(
        self, model: nn.Module, part_seconds: float = PART_SECONDS, overlap_seconds: float = OVERLAP_SECONDS
    ) -> None:
        self.model = model
        self._part_samples = round(part_seconds * SAMPLE_RATE_HZ)
        self._overlap_samples = round(overlap_seconds * SAMPLE_RATE_HZ)
        self.info = BackendInfo(sources=SPEAKERS, sample_rate_hz=SAMPLE_RATE_HZ, channels=1)

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """The two speakers `[batch, 2, 1, samples]` of `mixture [batch, 1, samples]`."""
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        done = self.model(mixture[..., : self._part_samples])
        while done.shape[-1] < n_samples:
            start = done.shape[-1] - self._overlap_samples
            part = self.model(mixture[..., start : start + self._part_samples])
            done = joined(done, part, self._overlap_samples)
        return Output(done[:, :, None])


def joined(done: Tensor, part: Tensor, overlap_samples: int) -> Tensor:
    """`done` and `part`, both `[batch, speakers, samples]`, one fading into the other over the overlap.

    The speakers of `part` are put in the order in which they agree best with those of `done` there.
    """
    before = done[..., -overlap_samples:]
    orders = torch.tensor(list(permutations(range(part.shape[1]))), device=part.device)
    agreement = torch.stack([(part[:, order, :overlap_samples] * before).sum((1, 2)) for order in orders])
    chosen = orders[agreement.argmax(0)]
    ordered = torch.stack([item[order] for item, order in zip(part, chosen, strict=True)])
    rise = torch.linspace(0, 1, overlap_samples, device=part.device, dtype=part.dtype)
    mixed = before + rise * (ordered[..., :overlap_samples] - before)
    return torch.cat([done[..., :-overlap_samples], mixed, ordered[..., overlap_samples:]], dim=-1)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `conv-tasnet` backend."""
    models = torchaudio_models()
    model = build(lambda: models.conv_tasnet_base(len(SPEAKERS)), weights, "conv-tasnet", device, dtype)
    return ConvTasNetBackend(model)
