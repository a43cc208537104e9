"""Equal runs of one recipe with one thing changed each, and the table that compares them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from unisep_train.measuring import ablation
from unisep_train.tasks.query_model import Recipe

RECIPES = resources.files("unisep_train") / "recipes"
CHANGES = json.loads((RECIPES / "ablation-changes.json").read_text(encoding="utf-8"))
TOY: dict[str, Any] = {
    "model": {
        "demucs": {"channels": 8, "dconv_mode": 0, "context_enc": 1, "t_layers": 2, "t_heads": 2, "nfft": 2048,
                   "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1", "samplerate": 8000},
        "output": "mask", "spaces": {"toy-1": 16}, "condition_channels": 16,
    },
    "mix": {"segment_seconds": 0.5, "batch": 2, "example_seconds": 0.5}, "n_steps": 9, "bfloat16": False, "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_makes_a_recipe(name: str) -> None:
    base = json.loads((RECIPES / "ablation.json").read_text(encoding="utf-8"))
    changed = Recipe.model_validate(ablation.merged(base, CHANGES[name]))
    assert (changed != Recipe.model_validate(base)) == bool(CHANGES[name])


def test_the_table_has_a_row_a_change_and_a_column_a_kind() -> None:
    songs = {"all: stems of songs": {"n_windows": 3, "si_sdr_gain_db": 2.0, "sdr_db": 3.04}}
    full = {"absent": {"level_db": -25.2}, "presence_auc": {"value": 0.75}, "parameters": {"value": 3.1e6}}
    lines = ablation.compared({"base": songs | full, "smaller": {"parameters": {"value": 1e6}}}).splitlines()
    assert lines[0] == "| change | parameters | stems of songs: SI-SDRi (SDR) | absent | presence AUC |"
    assert lines[2:] == ["| base | 3.10 M | 2.0 (3.0) | -25 | 0.75 |", "| smaller | 1.00 M | - | - | - |"]


def test_the_command_runs_changes_once_and_prints_their_table(
    store: str, encoder: object, tmp_path: Path, command: Callable[..., str], capsys: Any, monkeypatch: Any
) -> None:
    config, changes = tmp_path / "recipe.json", tmp_path / "changes.json"
    config.write_text(json.dumps(TOY))
    changes.write_text(
        json.dumps({"base": {}, "no loss of level": {"losses": {"l1": 0.0}}, "odd": {"losses": {"l2": 1}}})
    )
    monkeypatch.setattr(ablation, "measured", lambda *args: {})  # the songs are too short for windows
    words = ["ablation", store, tmp_path / "out", "--encoder", "hash_encoder:load", "--config", config,
             "--changes", changes, "--steps", "1"]  # fmt: skip
    assert not command(*words, "--only", "base", "no loss of level")
    printed = capsys.readouterr().out
    assert "| no loss of level | " in printed and "| odd" not in printed
    assert json.loads((tmp_path / "out" / "no-loss-of-level" / "recipe.json").read_text())["losses"]["l1"] == 0
    monkeypatch.setattr(ablation, "train", None)
    assert not command(*words, "--only", "base")
    assert "recipe of its own" in command(*words[:-1], "2", "--only", "base")
    assert "cannot be read as a recipe" in command(*words, "--only", "odd")
    assert "Did you mean 'base'?" in command(*words, "--only", "bass")
