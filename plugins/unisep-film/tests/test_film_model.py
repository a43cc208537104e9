"""FiLM HT Demucs: starts as the HT Demucs it is made from, and hears the query everywhere it should."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch.nn.functional import normalize
from unisep_film.checkpoints import from_htdemucs
from unisep_film.config import FilmConfig
from unisep_film.film import FiLM
from unisep_film.mask import analysis_fade, features, merge_bins, polar_mask, resynthesised, split_bins
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.spectrogram import spectrogram

SPACES = {"toy-1": 8, "maker/other@1": 5}
SOURCES = ("drums", "bass", "other", "vocals")
MASK = FilmConfig(
    demucs={"channels": 8, "dconv_mode": 0, "context_enc": 1, "t_layers": 2, "t_heads": 2, "nfft": 2048,
            "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1"},
    output="mask", bands=((512, 1), (512, 2)), spaces=SPACES, condition_channels=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def separator() -> HTDemucs:
    """A small HT Demucs whose transformer matters: LayerScales drawn from 0.25-0.75."""
    torch.manual_seed(1)
    config = HTDemucsConfig(SOURCES, channels=8, t_layers=3, t_heads=2, bottom_channels=32, segment=1)
    model = HTDemucs(config)
    for name, value in model.named_parameters():
        if name.endswith(".scale"):
            torch.nn.init.uniform_(value, 0.25, 0.75)
    return model.eval()


@pytest.fixture(scope="module")
def mixture() -> torch.Tensor:
    return torch.randn(2, 2, 44100, generator=torch.Generator().manual_seed(2))


def queries(n: int, n_dims: int = 8, n_batch: int = 2) -> torch.Tensor:
    vectors = torch.randn(n, n_dims, generator=torch.Generator().manual_seed(3))
    return normalize(vectors, dim=-1).expand(n_batch, n, n_dims)


def randomise_film(model: FilmHTDemucs) -> None:
    torch.manual_seed(4)
    for module in model.modules():
        if isinstance(module, FiLM):
            torch.nn.init.normal_(module.scale.weight, std=0.1)
            torch.nn.init.normal_(module.shift.weight, std=0.1)


@pytest.mark.parametrize("source", SOURCES)
def test_identity_film_and_one_hot_mix_give_the_htdemucs_stem(
    separator: HTDemucs, mixture: torch.Tensor, source: str
) -> None:
    model = from_htdemucs(separator, SPACES).eval()
    model.forget_query(source)
    with torch.inference_mode():
        expected = separator(mixture)[:, SOURCES.index(source)]
        targets, _ = model(mixture, model.conditions(queries(3), "toy-1"))
    for index in range(3):
        error = (targets[:, index] - expected).abs().max() / expected.abs().max()
        assert error <= 1e-5


def test_identity_start_keeps_every_parameter(separator: HTDemucs) -> None:
    kept = from_htdemucs(separator, SPACES).core.state_dict()
    assert all(torch.equal(kept[f"demucs.{name}"], value) for name, value in separator.state_dict().items())


def test_the_mixing_weights_sum_the_stems(separator: HTDemucs, mixture: torch.Tensor) -> None:
    model = from_htdemucs(separator, SPACES).eval()
    weights = torch.tensor([0.5, -1.0, 2.0, 0.0])
    with torch.inference_mode():
        model.mix.bias.copy_(weights)
        targets, _ = model(mixture, model.conditions(queries(1), "toy-1"))
        expected = (separator(mixture) * weights[:, None, None]).sum(1)
    assert (targets[:, 0] - expected).abs().max() / expected.abs().max() <= 1e-5


@pytest.mark.parametrize("film", ["layers", "stream"])
@pytest.mark.parametrize("output", ["spectrogram", "mask"])
def test_every_film_layer_changes_the_target(
    separator: HTDemucs, mixture: torch.Tensor, output: str, film: Literal["layers", "stream"]
) -> None:
    torch.manual_seed(0)
    around = from_htdemucs(separator, SPACES)
    config = around.config if output == "spectrogram" else MASK
    model = FilmHTDemucs(config.model_copy(update={"film": film})).eval()
    if output == "spectrogram":
        model.core.load_state_dict(around.core.state_dict())
    films = [(name, module) for name, module in model.named_modules() if isinstance(module, FiLM)]
    films = [(name, film) for name, film in films if not name.startswith("presence.")]
    n_layers, depth, n_decoders = model.config.separator.t_layers, 4, model.core.n_decoders
    n_tokens = 2 * n_layers if film == "stream" else 2 * (2 * (n_layers - 1) + 1)
    assert len(films) == n_tokens + 2 * depth * n_decoders
    last = {"film_attention": model.film_attention, "film_feed": model.film_feed, "film_tokens": model.film_tokens}
    unheard = {f"{name}.{len(layers) - 1}" for name, layers in last.items()}
    with torch.inference_mode():
        plain, _ = model(mixture, model.conditions(queries(1), "toy-1"))
        for name, film in films:
            torch.nn.init.normal_(film.scale.bias, std=3.0)
            changed, _ = model(mixture, model.conditions(queries(1), "toy-1"))
            film.reset()
            # The last time-branch layer of a mask model has no decoder to reach.
            heard = not (output == "mask" and name in unheard)
            assert ((changed - plain).abs().max() > 1e-6) == heard, name


def test_queries_that_shift_drown_the_sound_on_the_stream_and_not_in_the_layers(mixture: torch.Tensor) -> None:
    share = {}
    for film in ("layers", "stream"):
        torch.manual_seed(0)
        shape = {**MASK.demucs, "t_layers": 5}
        model = FilmHTDemucs(MASK.model_copy(update={"demucs": shape, "film": film})).eval()
        for layer in (*model.film_attention, *model.film_feed, *model.film_tokens):
            torch.nn.init.normal_(layer.shift.bias, std=2.0)
        seen: list[torch.Tensor] = []
        model.core.transformer.layers[-1].register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        with torch.inference_mode():
            model(mixture, model.conditions(queries(1), "toy-1"))
        varying = seen[0] - seen[0].mean(dim=1, keepdim=True)
        share[film] = float(varying.square().mean() / seen[0].square().mean())
    assert share["layers"] > 16 * share["stream"]


@pytest.mark.parametrize("output", ["spectrogram", "mask"])
def test_encoders_run_once_however_many_queries(separator: HTDemucs, mixture: torch.Tensor, output: str) -> None:
    model = (from_htdemucs(separator, SPACES) if output == "spectrogram" else FilmHTDemucs(MASK)).eval()
    calls: list[tuple[int, ...]] = []
    core = model.core.demucs if output == "spectrogram" else model.core
    watched = [*core.encoder, *core.tencoder, core.crosstransformer.layers[0], core.crosstransformer.layers_t[0]]
    for layer in watched:
        layer.register_forward_hook(lambda module, args, out: calls.append(tuple(args[0].shape)))
    with torch.inference_mode():
        targets, _ = model(mixture, model.conditions(queries(5), "toy-1"))
    assert targets.shape == (2, 5, 2, 44100)
    assert len(calls) == len(watched)
    assert all(shape[0] == 2 for shape in calls), "encoders and first layer see the batch, not batch x queries"


def test_many_queries_equal_one_by_one(mixture: torch.Tensor) -> None:
    model = FilmHTDemucs(MASK).eval()
    randomise_film(model)
    with torch.inference_mode():
        conditions = model.conditions(queries(3), "toy-1")
        together, presence = model(mixture, conditions)
        for index in range(3):
            alone, logits = model(mixture, conditions[:, index : index + 1])
            assert torch.equal(together[:, index], alone[:, 0])
            assert torch.equal(presence[:, index], logits[:, 0])
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3, "different queries, different targets"
    # as in training, and on accelerators: all queries in one batch
    batched, odds = model(mixture, model.conditions(queries(3), "toy-1"))
    torch.testing.assert_close(batched.detach(), together, rtol=0, atol=1e-5)
    torch.testing.assert_close(odds.detach(), presence, rtol=0, atol=1e-5)


def test_presence_turns_a_gated_model_down(mixture: torch.Tensor) -> None:
    torch.manual_seed(0)
    gated = FilmHTDemucs(MASK.model_copy(update={"gated": True})).eval()
    free = FilmHTDemucs(MASK).eval()
    free.load_state_dict({name: v for name, v in gated.state_dict().items() if not name.startswith("gate.")})
    with torch.inference_mode():
        conditions = gated.conditions(queries(3), "toy-1")
        wanted, logits = free(mixture, conditions)
        for bias in (-3.0, 2.0):
            gated.gate.bias.fill_(bias)
            found, same_logits = gated(mixture, conditions)
            torch.testing.assert_close(same_logits, logits)
            torch.testing.assert_close(found, wanted * torch.sigmoid(logits + bias)[..., None, None])


def test_each_space_has_its_projector() -> None:
    model = FilmHTDemucs(MASK)
    assert model.conditions(queries(2), "toy-1").shape == (2, 2, 16)
    assert model.conditions(queries(2, 5), "maker/other@1").shape == (2, 2, 16)


def test_a_zero_mask_is_the_identity_and_masks_only_scale_and_turn() -> None:
    zeros = torch.zeros(3, 4)
    assert torch.equal(polar_mask(zeros, zeros), torch.ones(3, 4, dtype=torch.complex64))
    mask = polar_mask(torch.randn(100), torch.randn(100))
    assert mask.abs().max() <= 2


@pytest.mark.parametrize("n_samples", [1, 100, 5000, 22050])
def test_unmasked_bins_give_the_recording_back_to_its_very_ends(n_samples: int) -> None:
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(n_samples) / 44100 + 1)[None, None]
    bins = spectrogram(tone, 2048)
    again = resynthesised(bins, analysis_fade(bins, n_samples))
    torch.testing.assert_close(again, tone, rtol=0, atol=1e-3)


def test_split_bins_reverses_merge_bins_for_constant_groups() -> None:
    bands = ((4, 1), (6, 2), (6, 3))
    merged = torch.randn(1, 2, 4 + 3 + 2, 5)
    assert torch.allclose(merge_bins(split_bins(merged, bands), bands), merged, atol=1e-6)
    assert split_bins(merged, bands).shape == (1, 2, 16, 5)


def test_features_do_not_depend_on_level() -> None:
    bins = torch.randn(1, 2, 16, 5, dtype=torch.complex64)
    torch.testing.assert_close(features(bins), features(bins * 100), rtol=1e-4, atol=1e-5)


def test_silence_in_finite_out() -> None:
    model = FilmHTDemucs(MASK).eval()
    with torch.inference_mode():
        targets, logits = model(torch.zeros(1, 2, 44100), model.conditions(queries(1, n_batch=1), "toy-1"))
    assert torch.isfinite(targets).all() and torch.isfinite(logits).all()
    assert targets.abs().max() < 1e-6
