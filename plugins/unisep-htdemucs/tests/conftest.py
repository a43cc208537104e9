"""demucs's own models with telling parameters, and signals to try them on."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from demucs.htdemucs import HTDemucs as ReferenceHTDemucs
from torch import Tensor, nn
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs

SMALL: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "nfft": 2048,
    "depth": 4,
    "bottom_channels": 32,
    "t_layers": 3,
    "t_heads": 4,
    "dconv_mode": 3,
    "segment": Fraction(3, 10),
}


def make_reference(seed: int = 0, **kwargs: Any) -> nn.Module:
    """A model of demucs with random parameters whose LayerScales are far from zero.

    At their initial 1e-4 a model without any transformer would pass for equal.
    """
    torch.manual_seed(seed)
    model: nn.Module = ReferenceHTDemucs(**(SMALL | kwargs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.25, 0.75)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model


def make_ours(model: nn.Module, **kwargs: Any) -> HTDemucs:
    """Our model holding the reference's parameters, every name matched."""
    mine = HTDemucs(HTDemucsConfig.from_kwargs(SMALL | kwargs))
    mine.load_state_dict(model.state_dict(), strict=True)
    return mine.eval()


def make_music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def relative_distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a part of b's peak."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture
def reference() -> Callable[..., nn.Module]:
    return make_reference


@pytest.fixture
def ours() -> Callable[..., HTDemucs]:
    return make_ours


@pytest.fixture
def music() -> Callable[..., Tensor]:
    return make_music


@pytest.fixture
def distance() -> Callable[[Tensor, Tensor], float]:
    return relative_distance
