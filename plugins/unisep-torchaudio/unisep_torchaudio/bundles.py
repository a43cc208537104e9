"""torchaudio's models, built without its own downloads, from files that unisep has checked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unisep.errors import BackendError, OptionError, WeightsError
from unisep.weights.checkpoints import check_finite, only_tensors, read_torch_file


def torchaudio_models() -> Any:
    """The module `torchaudio.models`. Raises BackendError where torchaudio is missing or does not fit torch."""
    try:
        return import_module("torchaudio.models")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise BackendError(
            f"This backend needs torchaudio, which cannot be imported here ({type(error).__name__}: {error}). "
            f"Install a torchaudio that fits torch {torch.__version__}: pip install 'unisep-torchaudio[torchaudio]'. "
            "Where torch has no such build, use an environment of its own, or the backend htdemucs."
        ) from error


def build(
    make: Callable[[], nn.Module], weights: Path | None, name: str, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The model that `make` gives, filled from a file or from the one `.pt` in a folder.

    name: of the backend, for messages.

    Raises:
        WeightsError: no file, a damaged or unsafe one, or parameters that do not fit.
        OptionError: another precision than float32, in which torchaudio's models compute.
    """
    if dtype != torch.float32:
        raise OptionError(f"The backend {name!r} computes in float32 only; leave precision at 'auto'.")
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    path = _file(weights)
    state = only_tensors(path, read_torch_file(path))
    model = make()
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} does not fit the model of {name!r}: {str(error)[:300]}") from error
    check_finite(path, state)
    return model.to(device).eval().requires_grad_(False)


def _file(weights: Path) -> Path:
    if weights.is_file():
        return weights
    found = sorted(weights.glob("*.pt")) if weights.is_dir() else []
    if len(found) != 1:
        raise WeightsError(f"{weights} should be a .pt file, or a folder with one; found {len(found)}.")
    return found[0]
