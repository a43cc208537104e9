"""SCNet and Band-Split RNN checkpoints as backends of unisep."""

from __future__ import annotations

from pathlib import Path

import torch
from unisep_roformer.backend import CheckpointBackend

from unisep import Backend
from unisep.errors import WeightsError

from .checkpoints import build_model, read_checkpoint


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load any SCNet or Band-Split RNN checkpoint: the folder with its .yaml and .ckpt, or one of the two."""
    if weights is None:
        raise WeightsError(
            "This model has no weights here. Run `unisep models pull NAME`, or give a folder with .yaml and .ckpt."
        )
    checkpoint = read_checkpoint(weights)
    return CheckpointBackend(build_model(checkpoint, device, dtype), checkpoint.description)
