"""From a file on disk to an AudioSep model, without running anything that the file names."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unisep.errors import WeightsError
from unisep.parameters import check_finite, check_parameters

from .config import BINS_MULTIPLE, N_ENCODERS, AudioSepConfig
from .model import AudioSep, encoder_name

SUFFIXES = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")
_PREFIX = "ss_model."
# The published model keeps its window functions as layers, and has layers that no output depends on.
_FIXED = ("base.stft.", "base.istft.")


def find_file(weights: Path) -> Path:
    """The one checkpoint that `weights`, a file or a folder, holds. Raises WeightsError for none or several."""
    if not weights.is_dir():
        return weights
    found = sorted(path for path in weights.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise WeightsError(
            f"{weights} should hold one AudioSep checkpoint; found: {names}. Give the file itself."
        )
    return found[0]


def load_model(path: Path, device: torch.device, dtype: torch.dtype) -> AudioSep:
    """The model of a checkpoint, ready to separate.

    Raises:
        WeightsError: the file is missing, damaged, names anything but tensors and plain values, or holds
            another model.
    """
    state = read_state(path)
    config = _config(path, state)
    with torch.device("meta"):  # no memory, no random numbers: every parameter comes from the file
        model = AudioSep(config)
    check_parameters(path, state, model.state_dict(), "AudioSep")
    placed = {name: _placed(value, device, dtype) for name, value in state.items()}
    check_finite(path, placed)
    model.load_state_dict(placed, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The separator's parameters in a file, by the names they have in `AudioSep`."""
    if not path.is_file():
        raise WeightsError(f"No checkpoint at {path}. Give an AudioSep checkpoint: {', '.join(SUFFIXES)}.")
    held = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    stored = held.get("state_dict", held)
    if not isinstance(stored, Mapping):
        raise WeightsError(f"{path} holds no parameters under 'state_dict'.")
    own = {
        name.removeprefix(_PREFIX): value
        for name, value in stored.items()
        if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(value, Tensor)
    }
    state = {name: value for name, value in own.items() if not _is_idle(name)}
    if not state:
        raise WeightsError(
            f"{path} is no AudioSep checkpoint: none of its parameters starts with {_PREFIX!r}."
        )
    return state


def _is_idle(name: str) -> bool:
    """Whether no output depends on this parameter of the published model."""
    in_decoder = name.startswith(("base.decoder_block", "film.decoder_block"))
    after = name.split(".")[2] if name.startswith("base.") and name.count(".") > 1 else ""
    second = after == "bn2" or (name.count("->") == 1 and "->beta2." in name)
    return name.startswith(_FIXED) or (in_decoder and second)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}). Fetch it again.") from error


def _torch_file(path: Path) -> dict[str, Any]:
    """What torch's restricted loader makes of a file: tensors, plain values and containers, or a refusal."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or names more than tensors and plain values; nothing of it was run. "
            "Use the file that the model's authors publish."
        ) from error
    except Exception as error:  # whatever a damaged file provokes, the caller sees one kind of error
        raise WeightsError(
            f"{path} is damaged or no torch checkpoint ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(held, dict):
        raise WeightsError(f"{path} holds a {type(held).__name__}, not the parameters of a model.")
    return held


def _config(path: Path, state: Mapping[str, Tensor]) -> AudioSepConfig:
    """The sizes that the parameters' shapes tell."""
    try:
        widths = tuple(
            state[f"base.{encoder_name(index)}.conv_block1.conv1.weight"].shape[0]
            for index in range(N_ENCODERS)
        )
        query_dim = state["film.encoder_block1->conv_block1->beta1.weight"].shape[1]
        n_fft = 2 * (state["base.bn0.weight"].shape[0] - 1)
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{path} is no AudioSep checkpoint: {error} is missing or has no such shape."
        ) from error
    if min(widths) < 1 or n_fft < 1 or n_fft % (2 * BINS_MULTIPLE):
        raise WeightsError(
            f"{path} is for a spectrogram of {n_fft} samples, which this U-Net cannot halve evenly."
        )
    return AudioSepConfig(widths, query_dim, n_fft)


def _placed(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A parameter on its device; counters stay whole numbers."""
    if not value.is_floating_point():
        return value.to(device)
    # A copy: the file may be mapped into memory, and is not to be held open or written to.
    return value.to(device, dtype, copy=True)
