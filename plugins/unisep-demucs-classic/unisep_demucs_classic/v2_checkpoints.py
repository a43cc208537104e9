"""Checkpoints of Demucs v1 and v2 and their Conv-TasNet, read without running what they name; shapes tell the options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from unisep_htdemucs.checkpoints import check_name
from unisep_htdemucs.torch_file import Marker
from unisep_htdemucs.torch_file import read_torch_file as read_naming_a_class

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, only_tensors, read_safetensors, read_torch_file

from .conv_tasnet import ConvTasNet, ConvTasNetShape
from .demucs_v2 import STEMS, DemucsV2, DemucsV2Shape

_LONGEST_REACH_SECONDS = 10
_MOST_BLOCKS = 16  # the dilation doubles with each
# Files of Demucs v1 name their class beside its options; those of v2 hold parameters alone.
_CLASSES: Mapping[str, Marker] = {"demucs.model Demucs": Marker(), "demucs.tasnet ConvTasNet": Marker()}
_BLOCK = r"separator\.network\.2\.(\d+)\.(\d+)\.net\."
# How the modules of a Conv-TasNet are called in the file and here; norms have gamma and beta there.
_TASNET_NAMES = {
    r"encoder\.conv1d_U": "encoder",
    r"decoder\.basis_signals": "decoder",
    r"separator\.network\.0": "norm",
    r"separator\.network\.1": "bottleneck",
    r"separator\.network\.3": "masks",
    _BLOCK + r"0": r"blocks.\1.\2.into",
    _BLOCK + r"1": r"blocks.\1.\2.into_slope",
    _BLOCK + r"2": r"blocks.\1.\2.into_norm",
    _BLOCK + r"3\.net\.0": r"blocks.\1.\2.depthwise",
    _BLOCK + r"3\.net\.1": r"blocks.\1.\2.depthwise_slope",
    _BLOCK + r"3\.net\.2": r"blocks.\1.\2.depthwise_norm",
    _BLOCK + r"3\.net\.3": r"blocks.\1.\2.out",
}
_NUMBERS = {"gamma": "weight", "beta": "bias"}


def load_v2(path: Path, device: torch.device) -> DemucsV2 | ConvTasNet:
    """Build the Demucs v1, v2 or Conv-TasNet in a `.th` or `.safetensors` file, in float32 on `device`.

    Raises:
        WeightsError: The file is missing, damaged, unsafe, quantised, not the one its name promises, or another model's.
    """
    if not path.is_file():
        raise WeightsError(f"No checkpoint at {path}. Give the path of a .th or .safetensors file.")
    digits = re.fullmatch(r"\w+-([0-9a-f]{8})", path.stem)
    check_name(path, {path.name: digits[1]} if digits else {})
    state, options = _read(path)
    try:
        if type(rate := options["samplerate"]) is not int or rate not in range(8_000, 192_001):
            raise ValueError(f"it states a sample rate of {rate!r:.80}")
        model: DemucsV2 | ConvTasNet

        def placed(_: str, value: Tensor) -> Tensor:
            return value.to(device, torch.float32)

        if "encoder.conv1d_U.weight" in state:
            tasnet = _tasnet_shape(state, options)
            model = filled(path, partial(ConvTasNet, tasnet), _renamed(state, tasnet), placed)
        else:
            model = filled(path, partial(DemucsV2, _demucs_shape(state, options)), state, placed)
        if model.valid_length(1) > _LONGEST_REACH_SECONDS * rate:
            raise ValueError(f"one sample of it needs {model.valid_length(1):.3g} around it")
    except WeightsError:
        raise
    except Exception as error:  # whatever strange shapes provoke, the caller sees one kind of error
        raise WeightsError(f"{path} is no Demucs v2 or Conv-TasNet: {type(error).__name__}: {error!s:.200}") from error
    model.requires_grad_(False)
    return model


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the parameters in a file, and what it says of its options beside."""
    options: dict[str, Any] = {"samplerate": 44_100}
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0], options
    try:
        content = read_torch_file(path)
    except WeightsError:  # it may name its class, as v1 does: this reader takes the two of v1 for marks, and no other
        content = read_naming_a_class(path, _CLASSES)
    if isinstance(content, tuple):
        if len(content) != 4 or not isinstance(content[0], Marker) or not isinstance(content[2], Mapping):
            raise WeightsError(f"{path} is no package of Demucs v1 (class, args, kwargs, state).")
        options, content = options | {**content[2], "resample": False}, content[3]
    if isinstance(content, Mapping) and "compressed" in content:
        raise WeightsError(f"{path} is quantised by DiffQ, which is not supported. Use demucs, the same one before.")
    return only_tensors(path, content), options


def _demucs_shape(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> DemucsV2Shape:
    depth = sum(re.fullmatch(r"encoder\.\d+\.0\.weight", name) is not None for name in state)
    firsts = [state[f"encoder.{index}.0.weight"].shape for index in range(depth)]
    _check_outputs(state[f"decoder.{depth - 1}.2.weight"].shape[1], firsts[0][1])
    kernel, stride = firsts[0][2], options.get("stride", DemucsV2Shape.stride)
    if type(stride) is not int or not 1 <= stride <= kernel:
        raise ValueError(f"a convolution of {kernel} samples has no stride of {stride!r:.80}")
    return DemucsV2Shape(
        audio_channels=firsts[0][1],
        widths=tuple(shape[0] for shape in firsts),
        kernel_size=kernel,
        stride=stride,
        context=state["decoder.0.0.weight"].shape[2],
        n_lstm_layers=sum(re.fullmatch(r"lstm\.lstm\.weight_ih_l\d+", name) is not None for name in state),
        resampled=options.get("resample", True) is True,
        sample_rate_hz=options["samplerate"],
    )


def _tasnet_shape(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> ConvTasNetShape:
    defaults = {"causal": False, "mask_nonlinear": "relu", "norm_type": "gLN"}
    if any(options.get(name, default) != default for name, default in defaults.items()):
        raise ValueError("only networks that are not causal, with global norms and masks by ReLU, are supported")
    blocks = [match for name in state if (match := re.match(_BLOCK + r"0\.weight", name))]
    n_repeats, n_blocks = (1 + max(int(match[place]) for match in blocks) for place in (1, 2))
    if n_repeats * n_blocks != len(blocks) or n_blocks > _MOST_BLOCKS:
        raise ValueError(
            f"{len(blocks)} blocks are not {n_repeats} times {n_blocks}, of which {_MOST_BLOCKS} are the most"
        )
    n_filters, audio_channels, filter_samples = state["encoder.conv1d_U.weight"].shape
    _check_outputs(state["separator.network.3.weight"].shape[0] // n_filters * audio_channels, audio_channels)
    depthwise = state["separator.network.2.0.0.net.3.net.0.weight"]
    if filter_samples < 2 or depthwise.shape[2] % 2 == 0:
        raise ValueError(
            f"filters of {filter_samples} samples and kernels of {depthwise.shape[2]} frames are in no Conv-TasNet"
        )
    return ConvTasNetShape(
        audio_channels=audio_channels,
        n_filters=n_filters,
        filter_samples=filter_samples,
        bottleneck=state["separator.network.1.weight"].shape[0],
        hidden=depthwise.shape[0],
        kernel_size=depthwise.shape[2],
        n_blocks=n_blocks,
        n_repeats=n_repeats,
        sample_rate_hz=options["samplerate"],
    )


def _renamed(state: Mapping[str, Tensor], shape: ConvTasNetShape) -> dict[str, Tensor]:
    """Return the parameters of a Conv-TasNet with the names and shapes that they have here."""
    renamed = {}
    for name, value in state.items():
        module, _, number = name.rpartition(".")
        ours = [re.sub(old, new, module) for old, new in _TASNET_NAMES.items() if re.fullmatch(old, module)] or [module]
        if ours[0] == "decoder":
            value = rearrange(value, "(c samples) filters -> filters c samples", samples=shape.filter_samples)
        renamed[f"{ours[0]}.{_NUMBERS.get(number, number)}"] = value.flatten() if number in _NUMBERS else value
    return renamed


def _check_outputs(n_outputs: int, audio_channels: int) -> None:
    if audio_channels not in (1, 2) or n_outputs != len(STEMS) * audio_channels:
        raise ValueError(f"it makes {n_outputs} signals of {audio_channels}, not four stems in mono or stereo")
