"""Small random networks, and folders of them as they are published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unisep_openunmix.model import OpenUnmix, Shape

SMALL = Shape(n_bins=65, n_input_bins=40, n_channels=2, hidden=12, n_layers=3, bidirectional=True)
FRAMING = {"sample_rate": 44_100, "nfft": 128, "nhop": 32, "nb_channels": 2}


def make_network(shape: Shape = SMALL, seed: int = 0) -> OpenUnmix:
    """A network with random parameters and statistics that all leave a trace."""
    torch.manual_seed(seed)
    network = OpenUnmix(shape).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.startswith("bn") and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif name.startswith("bn") and name.endswith("bias"):
                value.uniform_(-0.5, 0.5)
            elif name.endswith("running_mean") or name == "input_mean":
                value.uniform_(-1.0, 1.0)
            elif name.endswith("running_var") or name in ("input_scale", "output_scale"):
                value.uniform_(0.5, 2.0)
    return network


def make_music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def write_folder(
    folder: Path, names: tuple[str, ...], shape: Shape = SMALL, framing: dict[str, Any] | None = None
) -> Path:
    """A folder of networks with what older versions left in such files."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        state = dict(make_network(shape, seed).state_dict())
        state |= {
            "sample_rate": torch.tensor(44_100),
            "stft.window": torch.ones(4),
            "transform.0.window": torch.ones(4),
        }
        torch.save(state, folder / f"{name}.pth")
    (folder / "separator.json").write_text(json.dumps({**FRAMING, **(framing or {})}))
    return folder


@pytest.fixture(scope="session")
def network() -> Callable[..., OpenUnmix]:
    return make_network


@pytest.fixture(scope="session")
def music() -> Callable[..., Tensor]:
    return make_music


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    return write_folder


@pytest.fixture(scope="session")
def small() -> Shape:
    return SMALL
