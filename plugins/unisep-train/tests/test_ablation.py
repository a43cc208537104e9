"""The alternatives to FiLM, and the table that compares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_train.measuring import ablation
from unisep_train.measuring.ablation import (
    VARIANTS,
    AdaptiveNorm,
    Concatenation,
    CrossAttention,
    Deaf,
    Variant,
    with_conditioning,
    without_identity_start,
)
from unisep_train.measuring.measure import Figures
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks.query_model import Recipe

CONFIG = FilmConfig(
    demucs={"channels": 8, "dconv_mode": 0, "context_enc": 1, "t_layers": 2, "t_heads": 2, "nfft": 2048,
            "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1", "samplerate": 8000},
    output="mask", spaces={"toy-1": 8}, condition_channels=16,
)  # fmt: skip
SHAPES = ((3, 12, 5), (3, 12, 4, 5))


@pytest.mark.parametrize("kind", [Concatenation, CrossAttention, Deaf])
@pytest.mark.parametrize("shape", SHAPES)
def test_new_layers_change_nothing(kind: type, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = Deaf() if kind is Deaf else kind(6, 12)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x, torch.randn(3, 6)), x)


@pytest.mark.parametrize("kind", [AdaptiveNorm, Concatenation, CrossAttention])
@pytest.mark.parametrize("channel_axis", [1, 2])
def test_trained_layers_hear_the_query_and_keep_the_shape(kind: type, channel_axis: int) -> None:
    torch.manual_seed(0)
    layer = kind(6, 12)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, condition = torch.randn(3, 12, 5).movedim(1, channel_axis), torch.randn(3, 6)
    one, other = layer(x, condition, channel_axis), layer(x, condition.roll(1, 0), channel_axis)
    assert one.shape == x.shape and (one - other).abs().amax((1, 2)).min() > 1e-3
    alone = layer(x[:1], condition[:1], channel_axis)
    torch.testing.assert_close(one[:1], alone)


def test_attention_reads_differently_at_different_positions() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(6, 12)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 12, 2)
    added = layer(x, torch.randn(1, 6)) - x
    assert (added[..., 0] - added[..., 1]).abs().max() > 1e-2


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.change], ids=lambda v: v.name)
def test_every_variant_runs_and_all_but_random_layers_start_alike(variant: Variant) -> None:
    torch.manual_seed(0)
    model = FilmHTDemucs(CONFIG)
    plain = FilmHTDemucs(CONFIG)
    plain.load_state_dict(model.state_dict())
    assert variant.change is not None
    changed = variant.change(model).eval()
    mixture, queries = torch.randn(1, 2, 8000), torch.randn(1, 2, 8)
    with torch.inference_mode():
        found, _ = changed(mixture, changed.conditions(queries, "toy-1"))
        wanted, _ = plain.eval()(mixture, plain.conditions(queries, "toy-1"))
    starts_alike = variant.name not in ("adaptive norm", "FiLM drawn at random")
    assert torch.allclose(found, wanted, atol=1e-5) == starts_alike


def test_places_are_replaced_and_others_kept() -> None:
    model = with_conditioning(FilmHTDemucs(CONFIG), Deaf, ("skips",))
    kinds = {place: {type(m).__name__ for m in getattr(model, f"film_{place}")} for place in ablation.PLACES}
    assert kinds == {"tokens": {"FiLM"}, "inputs": {"FiLM"}, "skips": {"Deaf"}}
    drawn = without_identity_start(FilmHTDemucs(CONFIG))
    assert all(film.scale.weight.any() for film in drawn.film_tokens)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_patch_makes_a_recipe(variant: Variant) -> None:
    shipped = Path(ablation.__file__).parents[1] / "recipes" / "ablation.json"
    base = json.loads(shipped.read_text())
    patched = Recipe.model_validate(ablation.merged(base, variant.patch))
    assert (patched != Recipe.model_validate(base)) == bool(variant.patch)


def test_the_table_has_a_row_a_variant_with_medians_of_its_windows() -> None:
    rows = [Figures("a", "song", "song", gain, gain + 1, 0.0, -3.0, 0.9) for gain in (1.0, 2.0, 9.0)]
    rows += [
        Figures("b", "single", "solo", 4.0, 3.0, 0.0, -3.0, 0.8),
        Figures("c", "absent", "song", 0.0, 0.0, 0.0, -25.0, 0.1),
    ]
    found = ablation.summary(rows, FilmHTDemucs(CONFIG))
    assert (found["songs_si_sdr_gain_db"], found["songs_sdr_db"], found["absent_db"]) == (2.0, 3.0, -25.0)
    assert found["presence_auc"] == 1.0
    assert "| base | " in ablation.table(
        {"base": found}
    ) and "| 2.0 (3.0) | 4.0 (3.0) | -25 | 1.00 |" in ablation.table({"base": found})


def test_a_part_of_a_store_is_linked_beside_the_run(tmp_path: Path) -> None:
    (tmp_path / "store" / "corpus").mkdir(parents=True)
    (tmp_path / "store" / "rendered").mkdir()
    (tmp_path / "run").mkdir()
    some = ablation._parts_of(tmp_path / "store", ("corpus",), tmp_path / "run")
    assert [path.name for path in some.iterdir()] == ["corpus"]
    assert ablation._parts_of(tmp_path / "store", (), tmp_path / "run") == tmp_path / "store"


def test_the_command_runs_variants_once_and_prints_their_table(
    store: str, encoder: TextAudioEncoder, tmp_path: Path, command: Callable[..., str], capsys: Any, monkeypatch: Any
) -> None:
    config = tmp_path / "recipe.json"
    recipe = {"model": CONFIG.model_copy(update={"spaces": {"toy-1": 16}}).model_dump(), "bfloat16": False, "seed": 1,
              "mix": {"segment_seconds": 0.5, "batch": 2, "example_seconds": 0.5}, "n_steps": 9}  # fmt: skip
    config.write_text(json.dumps(recipe))
    monkeypatch.setattr(ablation, "validation_items", lambda *args: [])  # the songs are too short for windows
    words = ["ablation", store, tmp_path / "out", "--encoder", "hash_encoder:load", "--config", config, "--steps", "1"]
    assert not command(*words, "--only", "base", "concatenation")
    printed = capsys.readouterr().out
    assert "| concatenation | " in printed and "adaptive" not in printed
    monkeypatch.setattr(ablation, "train", None)
    assert not command(*words, "--only", "base")
    assert "another recipe" in command(*words[:-1], "2", "--only", "base")
    assert "Did you mean 'base'?" in command(*words, "--only", "bass")
