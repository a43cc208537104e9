"""Published RoFormer checkpoints: a YAML file beside the parameters, in torch's format or safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unisep.errors import WeightsError
from unisep.parameters import (
    filled,
    only_tensors,
    read_safetensors,
    read_torch_file,
)

from .description import Description, read_description
from .model import Roformer

_DESCRIPTIONS = frozenset({".yaml", ".yml"})
_PARAMETERS = frozenset({".ckpt", ".chpt", ".pth", ".pt", ".th", ".bin", ".safetensors"})
# Under which names training programs put the parameters among other things.
_INNER = ("state", "state_dict", "model_state_dict", "model")
# What they put before every name, and a counter beside the parameters of a running average.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "n_averaged"
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
    description, parameters = find_files(place)
    return Checkpoint(parameters, read_description(description), _read_parameters(parameters))


def find_files(place: Path) -> tuple[Path, Path]:
    """The YAML file and the parameters' file that `place`, a folder or either of them, means."""
    if place.is_dir():
        return _only(place, _DESCRIPTIONS, "description (.yaml)"), _only(
            place, _PARAMETERS, "checkpoint (.ckpt)"
        )
    if not place.is_file():
        raise WeightsError(f"{place} does not exist. Give the folder that holds the .yaml and the .ckpt.")
    if place.suffix.lower() in _DESCRIPTIONS:
        return place, _partner(place, _PARAMETERS, "checkpoint (.ckpt)")
    if place.suffix.lower() in _PARAMETERS:
        return _partner(place, _DESCRIPTIONS, "description (.yaml)"), place
    raise WeightsError(
        f"{place.name} is neither a description (.yaml) nor a checkpoint ({', '.join(sorted(_PARAMETERS))})."
    )


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


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )


def _only(folder: Path, suffixes: frozenset[str], what: str) -> Path:
    found = _files(folder, suffixes)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise WeightsError(
            f"{folder} holds {len(found)} files that could be the {what}{': ' + names if names else ''}. "
            "Keep one .yaml and one .ckpt a folder, or give the path of the checkpoint with a .yaml of its name beside it."
        )
    return found[0]


def _partner(path: Path, suffixes: frozenset[str], what: str) -> Path:
    """The file that belongs to `path`: of the same name, or the only one of its kind beside it.

    `config_NAME`, `NAME_config` and `NAME.ckpt.yaml`, as programs of many models name them, are the same name as NAME.
    """
    same = [other for other in _files(path.parent, suffixes) if _bare_names(other) & _bare_names(path)]
    return same[0] if len(same) == 1 else _only(path.parent, suffixes, what)


def _bare_names(path: Path) -> frozenset[str]:
    """What the file may be called without its suffixes and the word config."""
    stem = path.stem
    inner = Path(stem)
    names = {stem, stem.removeprefix("config_"), stem.removesuffix("_config")}
    return frozenset(names | ({inner.stem} if inner.suffix.lower() in _PARAMETERS else set()))


def _read_parameters(path: Path) -> dict[str, Tensor]:
    is_safe = path.suffix.lower() == ".safetensors"
    stored: Any = read_safetensors(path)[0] if is_safe else read_torch_file(path)
    for name in _INNER:
        if isinstance(stored, dict) and isinstance(stored.get(name), dict):
            stored = stored[name]
    state = only_tensors(path, stored)
    for prefix in _PREFIXES:
        named = {name: value for name, value in state.items() if name != _COUNTER}
        if all(name.startswith(prefix) for name in named):
            state = {name.removeprefix(prefix): value for name, value in named.items()}
    return state
