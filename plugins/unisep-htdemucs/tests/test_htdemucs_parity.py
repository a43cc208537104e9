"""The model equals demucs 4.1.0's on the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from unisep_htdemucs.model import HTDemucs

from unisep.errors import AudioError

SIX = ["drums", "bass", "other", "vocals", "guitar", "piano"]
Reference = Callable[..., Any]
Ours = Callable[..., HTDemucs]
Music = Callable[..., Tensor]
Distance = Callable[[Tensor, Tensor], float]
Compared = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def compared(reference: Reference, ours: Ours, music: Music) -> Compared:
    """Outputs of both models for the same input."""

    @torch.inference_mode()
    def compare(kwargs: dict[str, Any], n_samples: int, batch: int = 1) -> tuple[Tensor, Tensor]:
        model = reference(**kwargs)
        mixture = music(n_samples, kwargs.get("audio_channels", 2), batch)
        return ours(model, **kwargs)(mixture), model(mixture)

    return compare


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
def test_every_stem_equals_the_reference(kwargs: dict[str, Any], compared: Compared, distance: Distance) -> None:
    mine, theirs = compared(kwargs, n_samples=13230)
    assert mine.shape == theirs.shape == (1, theirs.shape[1], kwargs.get("audio_channels", 2), 13230)
    for stem, expected in zip(mine.unbind(1), theirs.unbind(1), strict=True):
        assert distance(stem, expected) <= 1e-4


@pytest.mark.parametrize("n_samples", [13229, 7001, 1500, 1])
def test_short_segments_equal_the_reference(n_samples: int, compared: Compared, distance: Distance) -> None:
    mine, theirs = compared({}, n_samples, batch=2)
    assert mine.shape[-1] == n_samples
    assert distance(mine, theirs) <= 1e-4


@pytest.mark.parametrize("n_samples", [13001, 3000, 700])
def test_any_length_equals_the_reference_while_training(
    n_samples: int, reference: Reference, ours: Ours, music: Music, distance: Distance
) -> None:
    model = reference().train()
    mixture = music(n_samples, batch=2)
    assert distance(ours(model).train()(mixture).detach(), model(mixture).detach()) <= 1e-4


def test_gradients_equal_the_reference(reference: Reference, ours: Ours, music: Music) -> None:
    model, mixture = reference().train(), music(5000)
    mine = ours(model).train()
    for one in (model, mine):
        one(mixture).square().mean().backward()
    expected = dict(model.named_parameters())
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None and expected[name].grad is not None
        assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6), name


@torch.inference_mode()
def test_parity_is_lost_without_the_transformer_layers(
    reference: Reference, ours: Ours, music: Music, distance: Distance
) -> None:
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
def test_full_size_equals_the_reference(sources: list[str], compared: Compared, distance: Distance) -> None:
    kwargs: dict[str, Any] = {
        "sources": sources, "channels": 48, "nfft": 4096, "bottom_channels": 512 if len(sources) == 4 else 0,
        "t_layers": 5, "t_heads": 8, "segment": Fraction(13, 10),
    }  # fmt: skip
    mine, theirs = compared(kwargs, n_samples=50000)
    for stem, expected in zip(mine.unbind(1), theirs.unbind(1), strict=True):
        assert distance(stem, expected) <= 1e-4


@torch.inference_mode()
def test_more_than_a_segment_is_refused(reference: Reference, ours: Ours, music: Music) -> None:
    with pytest.raises(AudioError, match="at most 13230"):
        ours(reference())(music(13231))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(
    dtype: torch.dtype, reference: Reference, ours: Ours, music: Music, distance: Distance
) -> None:
    model = ours(reference())
    mixture = music(13230)
    full = model(mixture)
    half = model.to(dtype)(mixture)
    assert half.dtype == torch.float32
    assert 0 < distance(half, full) < (0.1 if dtype == torch.bfloat16 else 0.01)
