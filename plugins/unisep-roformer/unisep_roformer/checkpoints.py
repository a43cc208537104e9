"""Published RoFormer checkpoints: a YAML file beside the parameters, in torch's format or safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from unisep.weights.checkpoints import filled

from .config import RoformerConfig
from .described import Checkpoint, Description, read_described, read_sections
from .model import Roformer

# Kept in float32 whatever the precision: angles in half precision lose the position.
_ALWAYS_FLOAT32 = "rotary_embed.freqs"
RoformerCheckpoint: TypeAlias = Checkpoint[RoformerConfig]


def read_checkpoint(place: Path) -> RoformerCheckpoint:
    """Read the checkpoint in a folder, or in a file whose partner lies beside it. Nothing that a file names is run.

    Raises:
        WeightsError: Files are missing, several could be meant, or one is damaged or unsafe.
    """
    return read_described(place, read_description)


def read_description(path: Path) -> Description[RoformerConfig]:
    """Read the description in a YAML file.

    Raises:
        WeightsError: It cannot be right; the message says what is wrong with it.
    """
    return read_sections(path, RoformerConfig.from_options)


def build_model(checkpoint: RoformerCheckpoint, device: torch.device, dtype: torch.dtype) -> Roformer:
    """Build the checkpoint's model, ready to separate, on `device` with parameters of `dtype`.

    Raises:
        WeightsError: Names or shapes do not fit the description, or a parameter is not a finite number.
    """
    advice = "The .yaml is another model's, or it is no plain RoFormer."
    if any("lora_" in name for name in checkpoint.state):
        advice = "It is an addition to another model (LoRA). Use a merged checkpoint."

    def placed(name: str, value: Tensor) -> Tensor:
        return value.to(device, torch.float32 if name.endswith(_ALWAYS_FLOAT32) else dtype)

    model = filled(
        checkpoint.path,
        lambda: Roformer(checkpoint.description.config),
        checkpoint.state,
        placed,
        "its description",
        advice,
    )
    return model.to(device).requires_grad_(False)
