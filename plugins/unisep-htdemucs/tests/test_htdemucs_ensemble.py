"""`htdemucs_ft` written as an ensemble equals the bag of four that is built in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.states import get_state
from unisep_htdemucs.bags import RELEASED

from unisep import Audio, Separator
from unisep.ensemble.definition import read_ensemble
from unisep.weights.cards import Card
from unisep.weights.store import WeightsStore

EXAMPLE = Path(__file__).parents[3] / "examples" / "ensembles" / "htdemucs_ft.toml"


@pytest.fixture
def folder(tmp_path: Path, reference: Callable[..., Any]) -> Path:
    """Four small specialists with random parameters, under the released names."""
    for seed, signature in enumerate(RELEASED["htdemucs_ft"].signatures):
        model = reference(seed, t_layers=1)
        args, kwargs = model._init_args_kwargs
        package = {"klass": type(model), "args": args, "kwargs": kwargs, "state": get_state(model, None)}
        torch.save(package, tmp_path / f"{signature}.th")
    return tmp_path


@pytest.fixture
def song(music: Callable[..., torch.Tensor]) -> Audio:
    return Audio(music(30_000)[0].numpy(), 44_100)


def test_the_example_has_the_members_of_the_bag() -> None:
    members = read_ensemble(EXAMPLE).members
    stems = ("drums", "bass", "other", "vocals")
    rows = tuple(tuple(float(dict(m.weights).get(stem, 0)) for stem in stems) for m in members)  # type: ignore[arg-type]
    assert tuple(member.file.removesuffix(".safetensors") for member in members) == RELEASED["htdemucs_ft"].signatures
    assert rows == RELEASED["htdemucs_ft"].weights


def test_it_equals_the_bag(folder: Path, song: Audio) -> None:
    text = re.sub(r'card = .*\nfile = "(\w+)\.safetensors"', r'path = "\1.th"', EXAMPLE.read_text("utf-8"))
    assert text.count("path = ") == 4
    (folder / "ft.toml").write_text(text)
    ensemble = Separator(f"ensemble@{folder / 'ft.toml'}")
    bag = Separator("htdemucs_ft", weights=folder)
    found, expected = ensemble.separate(song), bag.separate(song)
    assert list(found) == list(expected) == ["drums", "bass", "other", "vocals"]
    for stem in found:
        assert np.array_equal(found[stem].samples, expected[stem].samples)
    alone = ensemble.separate(song, stems="vocals")["vocals"].samples
    assert np.array_equal(alone, expected["vocals"].samples)


def test_one_stem_fetches_one_file_of_the_card(folder: Path, song: Audio, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def ensure(store: WeightsStore, card: Card, on_progress: object = None) -> Path:
        fetched.extend(file.name for file in card.files)
        for file in card.files:
            (folder / file.name.replace(".safetensors", ".th")).replace(folder / file.name)
        return folder

    monkeypatch.setattr(WeightsStore, "ensure", ensure)
    monkeypatch.setattr("unisep_htdemucs.backend.read_checkpoint", _read_renamed)
    Separator(f"ensemble@{EXAMPLE}").separate(song, stems="vocals")
    assert fetched == [tomllib.loads(EXAMPLE.read_text("utf-8"))["members"][3]["file"]]


def _read_renamed(path: Path) -> object:
    """The checkpoint in a `.th` package that lies under the card's name."""
    from unisep_htdemucs.checkpoints import read_checkpoint

    return read_checkpoint(path.replace(path.with_suffix(".th")))
