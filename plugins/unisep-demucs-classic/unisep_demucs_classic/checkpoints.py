"""Checkpoints of Demucs v3: `.th` packages and the safetensors of demucs 4.1.0, read without running what they name."""

from __future__ import annotations

import inspect
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
from unisep_htdemucs.checkpoints import check_name, stored_options
from unisep_htdemucs.torch_file import Marker, read_torch_file

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, read_safetensors

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

# sha256 over the whole file, as the registry of demucs-infer 4.4.0 publishes them; demucs's own names carry
# the first eight digits of each.
PUBLISHED_SHA256: dict[str, str] = {
    "0d19c1c6-0f06f20e.th": "0f06f20ed6ddc8058fa72ccc4845f3a88916eff7d007b623924193de217bbcf4",
    "5d2d6c55-db83574e.th": "db83574e05b2308f76e2764819da673f2d16d437b9e619f5fcb72f275fc0e24f",
    "7d865c68-3d5dd56b.th": "3d5dd56b5bc986f136dff98655ded22b2b033f465ccec7a28640a6b15fd71ed6",
    "7ecf8ec1-70f50cc9.th": "70f50cc947d08f32e6dd8e2b687d398fa5ef9e51d1bd7600e32205d1f44be6b9",
    "a1d90b5c-ae9d2452.th": "ae9d245283bf24b552913ee233a1101dcd0aeaed59b1c0a2da0e1f6eda15101b",
    "c511e2ab-fe698775.th": "fe6987756a7087d339bf63b19bb481b12cea02d3bc0de7583df7597210209649",
    "cfa93e08-61801ae1.th": "61801ae1567d606c97a9c3469e943ae306d0a873eeb60d623ae7cfc7042b3f68",
    "e51eebcc-c1b80bdd.th": "c1b80bdd6de58274abf359e66822a76f49ce2b9f086fc5dc917ac14598e6bebf",
    "1ef250f1-592467ce.th": "592467cef0b0d878bc66fe38c8456353ff435334331baab08e1dc82beeefd596",
    "902315c2-b39ce9c9.th": "b39ce9c97b5603fbaee99ec59fe1d2db570c77a37356c9c85542d881517c3302",
    "9a6b4851-03af0aa6.th": "03af0aa64af2c4f0795659c265fdead238fab31c064a8a4b5b051c1b22c8ad48",
    "fa0cb7f9-100d8bf4.th": "100d8bf4dc5e228edfd9bb7a2ec44ad9f44d8f0a845964d38ee8c11ea8ca1399",
    "75fc33f5-1941ce65.th": "1941ce654b11df4132b9f4eae408556b4c83fad6fe26b4bc0dbcb36b975befb3",
}


@dataclass(frozen=True)
class Checkpoint:
    """One model as a file describes it: its class, options and parameters, nothing built yet."""

    path: Path
    model: type[nn.Module]
    options: Mapping[str, Any]
    state: Mapping[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint in a `.th` or `.safetensors` file.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, quantised, not the one its name promises, or for another
            class than Demucs and HDemucs.
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
    """Build the checkpoint's model in float32 on `device`, ready to separate.

    Raises:
        WeightsError: Its options make no model, or names, shapes or numbers do not fit it.
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
    state, metadata = read_safetensors(path)
    args, kwargs = stored_options(path, metadata)
    marker = _CLASSES.get(" ".join(metadata.get("klass", "").rsplit(".", 1)))
    if marker is None:
        raise WeightsError(f"{path} is for {metadata.get('klass')!r:.80}, not for Demucs v3. Use its own backend.")
    return _checkpoint(path, _MODELS[id(marker)], args, kwargs, None if "structure" in metadata else state)


def _checkpoint(path: Path, model: type[nn.Module], args: Any, kwargs: Any, state: Any) -> Checkpoint:
    """Check what a file of either kind holds; `state` is None where it is quantised."""
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
    """Return the options by name. Those that demucs no longer knows are left out with a warning, as it does."""
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
