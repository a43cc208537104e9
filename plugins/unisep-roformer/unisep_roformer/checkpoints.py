"""Published RoFormer checkpoints: a YAML file beside the parameters, in torch's format or safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unisep.weights.checkpoints import filled, find_described, read_parameters

from .description import Description, read_description
from .model import Roformer

# Kept in float32 whatever the precision: angles in half precision lose the position.
_ALWAYS_FLOAT32 = "rotary_embed.freqs"


@dataclass(frozen=True)
class Checkpoint:
    """What the two files say: the description, and parameters by name."""

    path: Path
    description: Description
    state: dict[str, Tensor]


def read_checkpoint(place: Path) -> Checkpoint:
    """The checkpoint in a folder, or in a file whose partner lies beside it. Nothing that a file names is run.

    Raises WeightsError if files are missing, several could be meant, or one is damaged or unsafe.
    """
    description, parameters = find_described(place)
    return Checkpoint(parameters, read_description(description), read_parameters(parameters))


def build_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Roformer:
    """The checkpoint's model, ready to separate, on `device` with parameters of `dtype`.

    Raises WeightsError if names or shapes do not fit the description, or a parameter is not a finite number.
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
