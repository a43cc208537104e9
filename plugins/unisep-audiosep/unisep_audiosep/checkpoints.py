"""Read an AudioSep checkpoint without running anything that the file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, read_safetensors, read_torch_file

from .model import BINS_MULTIPLE, N_ENCODERS, AudioSep, AudioSepConfig, encoder_name

SUFFIXES = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")
_PREFIX = "ss_model."
# The published model keeps its window functions as layers, and has layers that no output depends on.
_FIXED = ("base.stft.", "base.istft.")


def find_file(weights: Path) -> Path:
    """Return the one checkpoint that `weights`, a file or a folder, holds.

    Raises:
        WeightsError: There is none, or several.
    """
    if not weights.is_dir():
        return weights
    paths = sorted(path for path in weights.iterdir() if path.suffix in SUFFIXES)
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise WeightsError(f"{weights} should hold one AudioSep checkpoint; found: {names}. Give the file itself.")
    return paths[0]


def load_model(path: Path, device: torch.device, dtype: torch.dtype) -> AudioSep:
    """Load the model of a checkpoint, ready to separate.

    Raises:
        WeightsError: The file is missing, damaged, names anything but tensors and plain values, or holds another model.
    """
    state = read_state(path)
    config = _config(path, state)
    model = filled(path, lambda: AudioSep(config), state, lambda _, value: _placed(value, device, dtype), "AudioSep")
    return model.to(device).requires_grad_(False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the separator's parameters in a file, by the names they have in `AudioSep`."""
    if not path.is_file():
        raise WeightsError(f"No checkpoint at {path}. Give an AudioSep checkpoint: {', '.join(SUFFIXES)}.")
    # Mapped, so that the optimiser's state is never read.
    content = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch_file(path, mapped=True)
    stored = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(stored, Mapping):
        raise WeightsError(f"{path} holds no parameters by name, under 'state_dict' or without.")
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in stored.items()
        if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(value, Tensor)
    }
    state = {name: value for name, value in state.items() if not _is_idle(name)}
    if not state:
        raise WeightsError(f"{path} is no AudioSep checkpoint: none of its parameters starts with {_PREFIX!r}.")
    return state


def _is_idle(name: str) -> bool:
    """Tell whether no output depends on this parameter of the published model."""
    in_decoder = name.startswith(("base.decoder_block", "film.decoder_block"))
    after = name.split(".")[2] if name.startswith("base.") and name.count(".") > 1 else ""
    second = after == "bn2" or (name.count("->") == 1 and "->beta2." in name)
    return name.startswith(_FIXED) or (in_decoder and second)


def _config(path: Path, state: Mapping[str, Tensor]) -> AudioSepConfig:
    """Return the sizes that the parameters' shapes tell."""
    try:
        widths = tuple(
            state[f"base.{encoder_name(index)}.conv_block1.conv1.weight"].shape[0] for index in range(N_ENCODERS)
        )
        query_dim = state["film.encoder_block1->conv_block1->beta1.weight"].shape[1]
        n_fft = 2 * (state["base.bn0.weight"].shape[0] - 1)
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{path} is no AudioSep checkpoint: {error} is missing or has no such shape.") from error
    if min(widths) < 1 or n_fft < 1 or n_fft % (2 * BINS_MULTIPLE):
        raise WeightsError(f"{path} is for a spectrogram of {n_fft} samples, which this U-Net cannot halve evenly.")
    return AudioSepConfig(widths, query_dim, n_fft)


def _placed(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy a parameter to its device; counters stay whole numbers."""
    if not value.is_floating_point():
        return value.to(device)
    # A copy: the file may be mapped into memory, and is not to be held open or written to.
    return value.to(device, dtype, copy=True)
