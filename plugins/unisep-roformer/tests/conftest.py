"""Small RoFormers of the peer package, and folders as their publishers lay them out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

with warnings.catch_warnings():  # the peer and what it imports are older than torch's latest warnings
    warnings.simplefilter("ignore")
    from bs_roformer import BSRoformer, MelBandRoformer

BAND_SPLIT: dict[str, Any] = {
    "dim": 16, "depth": 2, "stereo": True, "num_stems": 2, "time_transformer_depth": 1, "freq_transformer_depth": 1,
    "freqs_per_bands": (2, 3, 12, 48, 64), "dim_head": 8, "heads": 3, "stft_n_fft": 256, "stft_hop_length": 64,
    "stft_win_length": 256, "mask_estimator_depth": 2,
}  # fmt: skip
MEL_BAND: dict[str, Any] = {
    **{name: value for name, value in BAND_SPLIT.items() if name != "freqs_per_bands"},
    "num_bands": 12, "sample_rate": 44100,
}  # fmt: skip


def make_reference(kind: str, seed: int = 0, **changed: Any) -> nn.Module:
    """A model of the peer with random parameters, gains and biases too."""
    torch.manual_seed(seed)
    options = {**(MEL_BAND if kind == "mel" else BAND_SPLIT), **changed, "flash_attn": False}
    options = {name: value for name, value in options.items() if name not in ("zero_dc", "skip_connection")}
    mel = {"match_input_audio_length": True} if kind == "mel" else {}
    with warnings.catch_warnings():  # it counts its bins with a spectrogram without a window
        warnings.simplefilter("ignore")
        model: nn.Module = (MelBandRoformer if kind == "mel" else BSRoformer)(**options, **mel).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.3, 0.3)
    return model


def make_music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def relative_distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a part of b's peak."""
    return float((a - b).abs().max() / b.abs().max())


def write_folder(
    folder: Path, model: nn.Module, options: dict[str, Any], training: dict[str, Any], **sections: Any
) -> Path:
    """A folder with the .yaml and .ckpt of a model, tuples tagged as the community's files tag them."""
    folder.mkdir(exist_ok=True)
    described = {"model": options, "training": training, **sections}
    (folder / "config.yaml").write_text(yaml.dump(described))  # PyYAML tags tuples itself
    torch.save(model.state_dict(), folder / "model.ckpt")
    return folder


@pytest.fixture(scope="session")
def reference() -> Callable[..., nn.Module]:
    return make_reference


@pytest.fixture(scope="session")
def music() -> Callable[..., Tensor]:
    return make_music


@pytest.fixture(scope="session")
def distance() -> Callable[[Tensor, Tensor], float]:
    return relative_distance


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    return write_folder


@pytest.fixture(scope="session")
def options() -> Callable[[str], dict[str, Any]]:
    """The options of the small models, a copy."""
    return lambda kind: dict(MEL_BAND if kind == "mel" else BAND_SPLIT)
