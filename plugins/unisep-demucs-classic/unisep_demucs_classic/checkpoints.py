"""Checkpoints of Demucs v3: `.th` packages and the safetensors of demucs 4.1.0, read without running what they name."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from torch import Tensor, nn
from unisep_htdemucs.checkpoints import check_name
from unisep_htdemucs.torch_file import Marker, read_torch_file

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, read_safetensors

from .released import PUBLISHED_SHA256

_TIME, _HYBRID = Marker(), Marker()
# The only names of classes that a file may hold, and what they stand for. `wdemucs` is an older name of demucs's.
_CLASSES: Mapping[str, Marker] = {
    "demucs.demucs Demucs": _TIME,
    "demucs.hdemucs HDemucs": _HYBRID,
    "demucs.wdemucs WDemucs": _HYBRID,
}
_MODELS: dict[int, type[nn.Module]] = {id(_TIME): Demucs, id(_HYBRID): HDemucs}
_LARGEST_OPTION = 1 << 20
_MOST_LAYERS = 12


@dataclass(frozen=True)
class Checkpoint:
    """One model as a file describes it: its class, options and parameters, nothing built yet."""

    path: Path
    model: type[nn.Module]
    options: Mapping[str, Any]
    state: Mapping[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a `.th` or `.safetensors` file.

    Raises WeightsError if the file is missing, damaged, unsafe, quantised, not the one its name promises, or for
    another class than Demucs and HDemucs.
    """
    if not path.is_file():
        raise WeightsError(f"No checkpoint at {path}. Give the path of a .th or .safetensors file.")
    check_name(path, PUBLISHED_SHA256)
    if path.suffix == ".th":
        return _read_package(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise WeightsError(f"{path} is neither .th nor .safetensors, the formats of demucs's checkpoints.")


def build_model(checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """The checkpoint's model in float32 on `device`, ready to separate.

    Raises WeightsError if its options make no model, or names, shapes or numbers do not fit it.
    """

    def make() -> nn.Module:
        try:
            return checkpoint.model(**checkpoint.options)
        except Exception as error:  # whatever strange options provoke in demucs, the caller sees one kind of error
            raise WeightsError(f"{checkpoint.path} does not make a model: {error}") from error

    model = filled(checkpoint.path, make, checkpoint.state, lambda _, value: value.to(device, torch.float32))
    return model.requires_grad_(False)


def _read_package(path: Path) -> Checkpoint:
    package = read_torch_file(path, _CLASSES)
    if not isinstance(package, dict) or not isinstance(package.get("klass"), Marker):
        raise WeightsError(f"{path} holds no package of demucs's (klass, args, kwargs, state).")
    model = _MODELS[id(package["klass"])]
    return _checkpoint(path, model, package.get("args", ()), package.get("kwargs", {}), package.get("state"))


def _read_safetensors(path: Path) -> Checkpoint:
    state, about = read_safetensors(path)
    try:
        args, kwargs = (json.loads(about.get(key, empty), object_hook=_restored) for key, empty in _EMPTY.items())
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise WeightsError(f"{path} describes its options unreadably ({error}). Fetch it again.") from error
    marker = _CLASSES.get(" ".join(about.get("klass", "").rsplit(".", 1)))
    if marker is None:
        raise WeightsError(f"{path} is for {about.get('klass')!r:.80}, not for Demucs v3. Use its own backend.")
    return _checkpoint(path, _MODELS[id(marker)], args, kwargs, None if "structure" in about else state)


_EMPTY = {"args": "[]", "kwargs": "{}"}


def _restored(value: dict[str, Any]) -> Any:
    """JSON metadata, with `{"_type": "fraction", ...}` turned into a Fraction."""
    if value.get("_type") != "fraction":
        return value
    return Fraction(int(value["numerator"]), int(value["denominator"]))


def _checkpoint(path: Path, model: type[nn.Module], args: Any, kwargs: Any, state: Any) -> Checkpoint:
    """A checkpoint from what a file of either kind holds; `state` is None where it is quantised."""
    if not isinstance(state, dict) or "__quantized" in state:
        raise WeightsError(
            f"{path} has no plain parameters. Quantised models (mdx_q, mdx_extra_q) are not supported: "
            "use mdx or mdx_extra, which are the same ones before."
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            raise WeightsError(f"{path}: {name!r:.80} is not a tensor of real numbers.")
    return Checkpoint(path, model, _options(path, model, args, kwargs), dict(state))


def _options(path: Path, model: type[nn.Module], args: Any, kwargs: Any) -> dict[str, Any]:
    """The model's options by name. Those that demucs no longer knows are left out with a warning, as it does."""
    known = [name for name in inspect.signature(model).parameters if name != "self"]
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict) or len(args) > len(known):
        raise WeightsError(f"{path} describes its options in a way that demucs does not.")
    options = dict(zip(known, args, strict=False)) | {str(name): value for name, value in kwargs.items()}
    unknown = sorted(set(options) - set(known))
    if unknown:
        warnings.warn(f"{path}: options that demucs no longer has are left out: {unknown}", stacklevel=2)
    options = {name: value for name, value in options.items() if name in known}
    _check_options(path, options)
    return options


def _check_options(path: Path, options: Mapping[str, Any]) -> None:
    sources = options.get("sources")
    if not isinstance(sources, list | tuple) or not sources or not all(isinstance(s, str) for s in sources):
        raise WeightsError(f"{path} does not name its sources.")
    for name, value in options.items():
        if name == "sources" or value is None:
            continue
        values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(n, int | float | Fraction) and 0 <= n <= _LARGEST_OPTION for n in values):
            raise WeightsError(f"{path} has the option {name}={value!r:.80}, which no model has.")
    layers: list[Any] = [options.get(name, 0) for name in ("depth", "dconv_depth", "lstm_layers")]
    in_bounds = all(isinstance(n, int) and 0 <= n <= _MOST_LAYERS for n in layers)
    if not in_bounds or options.get("audio_channels", 2) not in (1, 2):
        raise WeightsError(f"{path} asks for layers or channels that no model has.")
