"""The model equals demucs 4.1.0's on the same parameters."""

from __future__ import annotations

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
SIX = ["drums", "bass", "other", "vocals", "guitar", "piano"]


def reference(seed: int = 0, **kwargs: Any) -> nn.Module:
    """demucs's own model with random parameters whose LayerScales are far from zero.

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


def ours(model: nn.Module, **kwargs: Any) -> HTDemucs:
    """Our model holding the reference's parameters, every name matched."""
    mine = HTDemucs(HTDemucsConfig.from_kwargs(SMALL | kwargs))
    mine.load_state_dict(model.state_dict(), strict=True)
    return mine.eval()


def music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.1, 1.0, n_samples)


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a part of b's peak."""
    return float((a - b).abs().max() / b.abs().max())


@torch.inference_mode()
def compared(kwargs: dict[str, Any], n_samples: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Outputs of both models for the same input."""
    model = reference(**kwargs)
    mixture = music(n_samples, kwargs.get("audio_channels", 2), batch)
    return ours(model, **kwargs)(mixture), model(mixture)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"sources": SIX},
        {"sources": SIX, "bottom_channels": 0},
        {"audio_channels": 1},
        {"t_cross_first": True},
        {"t_layer_scale": False},
        {"t_layers": 0},
        {"dconv_mode": 1, "norm_starts": 2},
        {"dconv_mode": 0, "context_enc": 1},
        {"freq_emb": 0.0, "depth": 3, "nfft": 1024, "growth": 3},
        {"use_train_segment": False},
        {"dconv_depth": -2, "dconv_comp": 4, "t_hidden_scale": 2.0, "t_weight_pos_embed": 0.5},
    ],
    ids=lambda kwargs: "-".join(kwargs) or "four",
)
def test_every_stem_equals_the_reference(kwargs: dict[str, Any]) -> None:
    mine, theirs = compared(kwargs, n_samples=int(0.3 * 44100))
    assert mine.shape == theirs.shape == (1, theirs.shape[1], kwargs.get("audio_channels", 2), 13230)
    for stem, expected in zip(mine.unbind(1), theirs.unbind(1), strict=True):
        assert distance(stem, expected) <= 1e-4


@pytest.mark.parametrize("n_samples", [13229, 7001, 1500, 1])
def test_short_segments_equal_the_reference(n_samples: int) -> None:
    mine, theirs = compared({}, n_samples, batch=2)
    assert mine.shape[-1] == n_samples
    assert distance(mine, theirs) <= 1e-4


@pytest.mark.parametrize("n_samples", [13001, 3000, 700])
def test_any_length_equals_the_reference_while_training(n_samples: int) -> None:
    model = reference().train()
    mixture = music(n_samples, batch=2)
    assert distance(ours(model).train()(mixture).detach(), model(mixture).detach()) <= 1e-4


def test_gradients_equal_the_reference() -> None:
    model, mixture = reference().train(), music(5000)
    mine = ours(model).train()
    for one in (model, mine):
        one(mixture).square().mean().backward()
    expected = dict(model.named_parameters())
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None and expected[name].grad is not None
        assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6), name


@torch.inference_mode()
def test_parity_is_lost_without_the_transformer_layers() -> None:
    model = reference()
    mine = ours(model)
    assert mine.crosstransformer is not None
    for layer in [*mine.crosstransformer.layers, *mine.crosstransformer.layers_t]:
        for name, parameter in layer.named_parameters():
            if "norm_out" not in name:
                parameter.zero_()
    mixture = music(13230)
    for stem, expected in zip(mine(mixture).unbind(1), model(mixture).unbind(1), strict=True):
        assert distance(stem, expected) > 1e-2


@pytest.mark.parametrize("sources", [SIX[:4], SIX], ids=["four", "six"])
@torch.inference_mode()
def test_full_size_equals_the_reference(sources: list[str]) -> None:
    kwargs: dict[str, Any] = {
        "sources": sources, "channels": 48, "nfft": 4096, "bottom_channels": 512 if len(sources) == 4 else 0,
        "t_layers": 5, "t_heads": 8, "segment": Fraction(13, 10),
    }  # fmt: skip
    mine, theirs = compared(kwargs, n_samples=50000)
    for stem, expected in zip(mine.unbind(1), theirs.unbind(1), strict=True):
        assert distance(stem, expected) <= 1e-4
