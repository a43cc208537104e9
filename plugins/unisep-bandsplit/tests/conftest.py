"""Small random networks of both kinds, and folders as their publishers lay them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from unisep_bandsplit.bsrnn import BandSplitRNN
from unisep_bandsplit.config import BSRNNConfig, SCNetConfig
from unisep_bandsplit.scnet import SCNet

SCNET: dict[str, Any] = {
    "sources": ["drums", "vocals", "other"], "audio_channels": 2, "dims": [4, 8, 12], "nfft": 256, "hop_size": 64,
    "win_size": 256, "normalized": True, "band_SR": [0.175, 0.392, 0.433], "band_stride": [1, 4, 16],
    "band_kernel": [3, 4, 16], "conv_depths": [3, 2, 1], "compress": 4, "conv_kernel": 3, "num_dplayer": 2, "expand": 1,
}  # fmt: skip
BSRNN: dict[str, Any] = {
    "in_channel": 1, "stems": ["speech", "music", "effects"], "band_specs": "musical", "n_bands": 9, "fs": 44100,
    "require_no_overlap": False, "require_no_gap": True, "normalize_channel_independently": False,
    "treat_channel_as_feature": True, "n_sqm_modules": 2, "emb_dim": 8, "rnn_dim": 5, "bidirectional": True,
    "rnn_type": "GRU", "mlp_dim": 7, "hidden_activation": "Tanh", "hidden_activation_kwargs": None,
    "complex_mask": True, "n_fft": 256, "win_length": 256, "hop_length": 64, "window_fn": "hann_window", "wkwargs": None,
    "power": None, "center": True, "normalized": True, "pad_mode": "constant", "onesided": True,
}  # fmt: skip
OPTIONS = {"scnet": SCNET, "bsrnn": BSRNN}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Draw all parameters anew, gains and biases of norms too, so that each leaves a trace."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            reach = 0.3 if parameter.ndim == 1 else (parameter.numel() / len(parameter)) ** -0.5
            middle = 1 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0
            parameter.uniform_(middle - reach, middle + reach, generator=generator)


def make_model(kind: str, **changed: Any) -> SCNet | BandSplitRNN:
    """A random network, ready to separate."""
    options = {**OPTIONS[kind], **changed}
    model: SCNet | BandSplitRNN
    if kind == "scnet":
        model = SCNet(SCNetConfig.from_options(options))
    else:
        model = BandSplitRNN(BSRNNConfig.from_options(options))
    randomise(model)
    return model.eval()


def make_music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def relative_distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a part of b's peak."""
    return float((a - b).abs().max() / b.abs().max())


def write_folder(
    folder: Path, kind: str, training: dict[str, Any] | None = None, chunk_size: int = 6000, **changed: Any
) -> Path:
    """A folder with the .yaml and .ckpt of a random network, and what BandIt's programs save beside the parameters."""
    options = {**OPTIONS[kind], **changed}
    model = make_model(kind, **changed)
    outputs = options["sources" if kind == "scnet" else "stems"]
    state = dict(model.state_dict())
    if isinstance(model, BandSplitRNN):
        state = {f"bsrnn.{name}": value for name, value in state.items()}
        for stem in outputs:
            for index, (start, end) in enumerate(model.bands):
                state[f"bsrnn.mask_estim.{stem}.freq_weights/{index}"] = model.shares[start:end, 0].double()
        state |= {"stft.window": model.window, "istft.window": model.window}
    folder.mkdir(exist_ok=True)
    training = training or {"instruments": list(outputs), "target_instrument": None}
    audio = {"chunk_size": chunk_size, "num_channels": 2, "sample_rate": 44100}
    (folder / "config.yaml").write_text(yaml.dump({"audio": audio, "model": options, "training": training}))
    torch.save(state, folder / "model.ckpt")
    return folder


@pytest.fixture(scope="session")
def options() -> Callable[[str], dict[str, Any]]:
    return lambda kind: dict(OPTIONS[kind])


@pytest.fixture(scope="session")
def made() -> Callable[..., SCNet | BandSplitRNN]:
    return make_model


@pytest.fixture(scope="session")
def random() -> Callable[..., None]:
    return randomise


@pytest.fixture(scope="session")
def music() -> Callable[..., Tensor]:
    return make_music


@pytest.fixture(scope="session")
def distance() -> Callable[[Tensor, Tensor], float]:
    return relative_distance


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    return write_folder
