"""The model's separate steps, for those who build on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.spectrogram import spectrogram, waveform

from unisep.errors import OptionError, WeightsError

Model = Callable[..., HTDemucs]
Music = Callable[..., Tensor]


@pytest.fixture
def model(reference: Callable[..., nn.Module], ours: Model) -> HTDemucs:
    return ours(reference())


@torch.inference_mode()
def test_the_steps_make_the_forward_pass(model: HTDemucs, music: Music) -> None:
    mixture = music(13230)
    encoded = model.encode(mixture)
    seen: list[tuple[str, int, int]] = []

    def hook(branch: str) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
        def before(index: int, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
            assert x.shape == skip.shape
            seen.append((branch, index, x.shape[1]))
            return x, skip

        return before

    bottom = model.bottleneck(encoded.x, encoded.xt)
    sources = model.decode(*bottom, encoded, on_freq=hook("freq"), on_time=hook("time"))
    assert torch.equal(sources, model(mixture))
    assert seen == [(b, i, c) for i, c in enumerate(model.decoder_channels) for b in ("freq", "time")]
    assert model.decoder_channels == (64, 32, 16, 8)


@torch.inference_mode()
def test_hooks_change_what_they_are_given(model: HTDemucs, music: Music) -> None:
    encoded = model.encode(music(9000))
    plain = model.decode(*model.bottleneck(encoded.x, encoded.xt), encoded)
    without_skips = model.decode(
        *model.bottleneck(encoded.x, encoded.xt), encoded, on_freq=lambda _, x, skip: (x, 0 * skip)
    )
    assert not torch.allclose(without_skips, plain, atol=1e-3)


@torch.inference_mode()
def test_a_batch_grown_after_encoding_is_decoded_item_by_item(model: HTDemucs, music: Music) -> None:
    encoded = model.encode(music(9000, batch=2))

    transformer = model.crosstransformer
    assert transformer is not None
    x, xt = transformer.layer(0, *transformer.begin(*model.widened(encoded.x, encoded.xt)))
    x, xt = x.repeat_interleave(3, 0), xt.repeat_interleave(3, 0)
    for index in range(1, len(transformer.layers)):
        x, xt = transformer.layer(index, x, xt)
    grown = model.decode(*model.narrowed(*transformer.end(x, xt, encoded.x.shape[2])), encoded)
    plain = model.decode(*model.bottleneck(encoded.x, encoded.xt), encoded)
    assert torch.allclose(grown, plain.repeat_interleave(3, 0), atol=1e-5 * float(plain.abs().max()))


@torch.inference_mode()
def test_deterministic_and_the_same_alone_or_in_a_batch(model: HTDemucs, music: Music) -> None:
    mixture = music(13230, batch=3)
    before = mixture.clone()
    together = model(mixture)
    assert torch.equal(together, model(mixture))
    assert torch.equal(mixture, before)
    for index in range(3):
        alone = model(mixture[index : index + 1])
        assert torch.allclose(together[index : index + 1], alone, atol=1e-5 * float(alone.abs().max()))


@torch.inference_mode()
def test_silence_gives_finite_numbers(model: HTDemucs) -> None:
    assert model(torch.zeros(1, 2, 13230)).isfinite().all()


@pytest.mark.parametrize("n_samples", [1, 512, 4000, 13230])
def test_the_spectrogram_can_be_undone(n_samples: int, music: Music) -> None:
    wave = music(n_samples)
    bins = spectrogram(wave, 1024)
    assert bins.shape == (1, 2, 512, -(-n_samples // 256))
    without_nyquist = waveform(bins, n_samples)
    assert without_nyquist.shape == wave.shape
    if n_samples > 1024:  # all that is lost is the Nyquist bin, a thousandth of white noise
        lost = (without_nyquist - wave)[..., 1024:-1024].square().mean() / wave.square().mean()
        assert 0 < lost < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"sources": ()},
        {"sources": ("a", "a")},
        {"audio_channels": 3},
        {"channels": 0},
        {"channels": 1e3},
        {"channels_time": 7},
        {"depth": 5},
        {"nfft": 1000},
        {"stride": 2},
        {"t_heads": 7},
        {"t_layers": 10**9},
        {"segment": float("nan")},
        {"dconv_mode": 4},
        {"t_sparsity": 1.0},
        {"t_sparsity": float("nan")},
        {"t_mask_random_seed": -1},
        {"t_sparse_cross_attn": True},
    ],
    ids=str,
)
def test_options_that_make_no_model_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        HTDemucsConfig(**({"sources": ("a", "b")} | options))


@pytest.mark.parametrize(
    "kwargs",
    [{"cac": False}, {"t_emb": "cape"}, {"multi_freqs": [0.3]}, {"t_sparse_self_attn": True}, {"channels": "48"}],
    ids=str,
)
def test_options_of_unreleased_models_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        HTDemucsConfig.from_kwargs({"sources": ["a"]} | kwargs)


def test_unknown_options_are_dropped_aloud() -> None:
    with pytest.warns(UserWarning, match="t_new"):
        config = HTDemucsConfig.from_kwargs({"sources": ["a"], "t_new": 1, "t_mask_type": "jmask", "multi_freqs": []})
    assert config == HTDemucsConfig(sources=("a",))


def test_defaults_are_those_of_demucs() -> None:
    import inspect

    from demucs.htdemucs import HTDemucs as ReferenceHTDemucs

    theirs = inspect.signature(ReferenceHTDemucs).parameters
    mine = inspect.signature(HTDemucsConfig).parameters
    for name, parameter in mine.items():
        if name not in ("sources", "t_layer_scale_init"):
            assert parameter.default == theirs[name].default, name


def test_layer_scale_may_start_where_training_from_nothing_wants_it() -> None:
    config = HTDemucsConfig(sources=("a",), channels=8, depth=2, nfft=512, t_layers=1, t_layer_scale_init=1.0)
    state = HTDemucs(config).state_dict()
    assert state["crosstransformer.layers.0.gamma_1.scale"].eq(1.0).all()
    assert state["encoder.0.dconv.layers.0.6.scale"].eq(torch.tensor(1e-3)).all()
