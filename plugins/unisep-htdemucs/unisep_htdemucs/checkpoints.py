"""Published HT Demucs checkpoints: safetensors as demucs 4.1.0 reads them, older `.th` packages, `.ckpt` with a YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unisep.errors import OptionError, WeightsError
from unisep.weights.checkpoints import filled, find_described, read_parameters, read_safetensors, read_yaml
from unisep.weights.hashes import sha256_of

from .config import HTDemucsConfig
from .eight_bit import KEY, dequantised
from .model import HTDemucs
from .torch_file import HTDEMUCS, read_torch_file

CLASS = "demucs.htdemucs.HTDemucs"
# How many of the model's options may be given by place, and their names in that order.
_BY_PLACE = ("sources", "audio_channels", "channels", "channels_time", "growth", "nfft")

# sha256 over the whole file, as the registry of demucs-infer 4.4.0 publishes them.
PUBLISHED_SHA256: dict[str, str] = {
    "955717e8-8726e21a.th": "8726e21a993978c7ba086d3872e7608d7d5bfca646ca4aca459ffda844faa8b4",
    "f7e0c4bc-ba3fe64a.th": "ba3fe64ae8ef66ac9a4857222ce48efbdc5eb3ad375cb79dd13debee5aaa4066",
    "d12395a8-e57c48e6.th": "e57c48e6b0e38af4f7118d7bd08c49f0a0c0edf7d09143bdd902ea0d237303e6",
    "92cfc3b6-ef3bcb9c.th": "ef3bcb9c8b40d14ae5d51b6db2587339cc12c6b77c0be151ce6d69002e087bf2",
    "04573f0d-f3cf25b2.th": "f3cf25b222c4eed7cd49dd8b2c9597d50c18bd154090f7b919cfa5f93cf22c49",
    "5c90dfd2-34c22ccb.th": "34c22ccb381c6f9fdbf324f04e1e2fe21aaaf293f5ded163a162697ff9a02ddd",
}


@dataclass(frozen=True)
class Checkpoint:
    """One model as files describe it, nothing built yet.

    Attributes:
        path: The file.
        config: The model's options.
        state: The model's parameters.
        normalisation: Whether it wants songs normalised as a whole, as demucs's own models do.
    """

    path: Path
    config: HTDemucsConfig
    state: Mapping[str, Tensor]
    normalisation: Literal["none", "song"] = "song"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.safetensors` or `.th` file, or a `.ckpt` with a YAML beside it; no model is built yet.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, not the one its name promises, or describes another model
            than HT Demucs.
    """
    if not path.is_file():
        raise WeightsError(f"No checkpoint at {path}. Give the path of a .safetensors or .th file.")
    check_name(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".th":
        return _read_package(path)
    if path.suffix in (".ckpt", ".yaml"):
        return _read_described(path)
    raise WeightsError(f"{path} is neither .safetensors nor .th nor .ckpt, the formats of HT Demucs checkpoints.")


def build_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> HTDemucs:
    """Build the checkpoint's model, ready to separate, on `device` with parameters of `dtype`.

    In bfloat16 on the CPU only the largest products take that dtype, see `of_products`; the rest is float32. That
    agrees with float32 by 45 dB or more, all of it in bfloat16 by no more than 34 dB.

    Raises:
        WeightsError: Names or shapes do not fit the options, or a parameter is not a finite number.
    """
    keeps_sums = device.type == "cpu" and dtype == torch.bfloat16

    def placed(name: str, value: Tensor) -> Tensor:
        return value.to(device, torch.float32 if keeps_sums and not of_products(name) else dtype)

    try:
        model = filled(checkpoint.path, lambda: HTDemucs(checkpoint.config), checkpoint.state, placed)
    except (OptionError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{checkpoint.path} does not make a model: {error}") from error
    return model.requires_grad_(False)


def of_products(name: str) -> bool:
    """Tell whether a parameter belongs to the largest products: the transformer's, and the decoders' gates.

    Most of the arithmetic is theirs, and what they give is added to a stream or narrowed afterwards, so that
    rounding them is heard least; the encoders, the norms and the streams themselves are what agreement hangs on.
    """
    in_layer = name.startswith("crosstransformer.layers") and (".linear" in name or "_proj" in name)
    return in_layer or (name.startswith(("decoder.", "tdecoder.")) and ".rewrite." in name)


def check_name(path: Path, published: Mapping[str, str] = PUBLISHED_SHA256) -> None:
    """Compare a file with the sha256 that was published for its name, or whose digits its name carries.

    Raises:
        WeightsError: It is another file.
    """
    match = re.fullmatch(r"[0-9a-f]{8}-([0-9a-f]{8,64})", path.stem)
    expected = published.get(path.name, match[1] if match else "")
    actual = sha256_of(path) if expected else ""
    if not actual.startswith(expected):
        raise WeightsError(
            f"{path} is not the file its name promises: sha256 {actual}, expected {expected}. Fetch it again."
        )


def _read_safetensors(path: Path) -> Checkpoint:
    state, metadata = read_safetensors(path)
    if metadata.get("klass") != CLASS:
        raise WeightsError(f"{path} is for {metadata.get('klass')!r:.80}, not for {CLASS!r}. Use its own backend.")
    if "structure" in metadata:
        raise WeightsError(f"{path} is quantised in a way that no HT Demucs checkpoint is. Use the plain one.")
    if KEY in metadata:
        state = dequantised(path, metadata[KEY], state)
    return _checkpoint(path, *stored_options(path, metadata), state)


def stored_options(path: Path, metadata: Mapping[str, str]) -> tuple[Any, Any]:
    """Decode the model's `args` and `kwargs` from the metadata of a file that demucs 4.1.0 wrote.

    Raises:
        WeightsError: They cannot be decoded.
    """

    def restored(value: dict[str, Any]) -> Any:
        if value.get("_type") != "fraction":
            return value
        return Fraction(int(value["numerator"]), int(value["denominator"]))

    try:
        args = json.loads(metadata.get("args", "[]"), object_hook=restored)
        return args, json.loads(metadata.get("kwargs", "{}"), object_hook=restored)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise WeightsError(f"{path} describes its options unreadably ({error}). Fetch it again.") from error


def _read_package(path: Path) -> Checkpoint:
    package = read_torch_file(path)
    if not isinstance(package, dict) or package.get("klass") is not HTDEMUCS:
        raise WeightsError(f"{path} holds no HT Demucs package (klass, args, kwargs, state).")
    state = package.get("state")
    if not isinstance(state, dict) or "__quantized" in state:
        raise WeightsError(f"{path} has no plain parameters; quantised checkpoints are not supported.")
    return _checkpoint(path, package.get("args", ()), package.get("kwargs", {}), state)


def _read_described(path: Path) -> Checkpoint:
    """Read what Music-Source-Separation-Training saves: bare parameters, and a YAML with their options."""
    description, parameters = find_described(path)
    try:
        values = read_yaml(description)
        training, options = values["training"], values["htdemucs"]
        kwargs = {name: _number(value) for name, value in options.items()} | {
            "sources": training["instruments"],
            "audio_channels": training["channels"],
            "samplerate": training["samplerate"],
            "segment": training["segment"],
            "use_train_segment": False,
        }
        is_normalised = (values.get("inference") or {}).get("normalize") is True
    except (WeightsError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{description} does not describe an HT Demucs of Music-Source-Separation-Training ({error!r:.200}). Is it another "
            "model's?"
        ) from error
    checkpoint = _checkpoint(parameters, (), kwargs, read_parameters(parameters))
    return replace(checkpoint, normalisation="song" if is_normalised else "none")


def _number(value: Any) -> Any:
    """Return the number that a text writes, other values as they are: YAML 1.1 takes 1e-3 for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _checkpoint(path: Path, args: Any, kwargs: Any, state: Mapping[Any, Any]) -> Checkpoint:
    """Check what a file of any kind holds."""
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict) or len(args) > len(_BY_PLACE):
        raise WeightsError(f"{path} describes its options in a way HT Demucs does not.")
    if any(not isinstance(key, str) for key in (*kwargs, *state)):
        raise WeightsError(f"{path} has options or parameters without a name.")
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise WeightsError(f"{path}: {name:.80} is not a tensor of real numbers.")
    try:
        config = HTDemucsConfig.from_kwargs(dict(zip(_BY_PLACE, args, strict=False)) | kwargs)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(path, config, dict(state))
