"""Published SCNet and Band-Split RNN checkpoints: a YAML file beside the parameters, in torch's format or safetensors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from unisep_roformer.described import Checkpoint, Description, read_described, read_sections

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled

from .bsrnn import BandSplitRNN, band_shares
from .config import BSRNNConfig, SCNetConfig
from .scnet import SCNet

Config: TypeAlias = SCNetConfig | BSRNNConfig
# What BandIt's programs save beside the parameters, all of it known from the description.
_WINDOW = re.compile(r"i?stft\.window")
_WEIGHTS = re.compile(r"mask_estim\..+\.freq_weights/(\d{1,3})")


def read_checkpoint(place: Path) -> Checkpoint[Config]:
    """Read the checkpoint in a folder, or in a file whose partner lies beside it. Nothing that a file names is run.

    Raises:
        WeightsError: Files are missing, several could be meant, or one is damaged or unsafe.
    """
    checkpoint = read_described(place, read_description)
    config = checkpoint.description.config
    if isinstance(config, SCNetConfig):
        return checkpoint
    return replace(checkpoint, state=_bsrnn_parameters(checkpoint.path, config, checkpoint.state))


def read_description(path: Path) -> Description[Config]:
    """Read the description in a YAML file.

    Raises:
        WeightsError: It cannot be right; the message says what is wrong with it.
    """
    return read_sections(path, _config)


def build_model(checkpoint: Checkpoint[Config], device: torch.device, dtype: torch.dtype) -> SCNet | BandSplitRNN:
    """Build the checkpoint's model, ready to separate, on `device` with parameters of `dtype`.

    Raises:
        WeightsError: Names or shapes do not fit the description, or a parameter is not a finite number.
    """
    advice = "The .yaml is another model's, or it is a variant that is not loaded here."
    if any(name.startswith(("mask_layer.", "pos_embed")) for name in checkpoint.state):
        advice = "It is an SCNet Masked, which is not loaded here. Use a plain SCNet."
    config = checkpoint.description.config

    def made() -> SCNet | BandSplitRNN:
        return SCNet(config) if isinstance(config, SCNetConfig) else BandSplitRNN(config)

    model = filled(
        checkpoint.path, made, checkpoint.state, lambda _, value: value.to(device, dtype), "its description", advice
    )
    return model.to(device).requires_grad_(False)


def _config(options: dict[Any, Any]) -> Config:
    for name, kind in (("sources", SCNetConfig), ("stems", BSRNNConfig)):
        if name in options:
            return kind.from_options(options)
    raise WeightsError(
        "This is neither an SCNet, which names its 'sources', nor a Band-Split RNN, which names its 'stems'. "
        "The backend 'bs-roformer' takes RoFormers."
    )


def _bsrnn_parameters(path: Path, config: BSRNNConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters alone; the bands' weights, where they are saved, must be those of the description."""
    bands, shares = config.bands(), torch.from_numpy(band_shares(config))
    parameters = {}
    for name, value in state.items():
        name = name.removeprefix("bsrnn.")
        if weights := _WEIGHTS.fullmatch(name):
            index = int(weights[1])
            expected = shares[slice(*bands[index])] if index < len(bands) else shares[:0]
            if value.shape != expected.shape or not torch.allclose(value.double(), expected, atol=1e-4):
                raise WeightsError(f"{path} was trained with other bands than its description says ({name:.80}).")
        elif not _WINDOW.fullmatch(name):
            parameters[name] = value
    return parameters
