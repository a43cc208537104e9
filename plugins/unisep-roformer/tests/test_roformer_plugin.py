"""What the plugin tells before any model is loaded, and that its cards say the same."""

from __future__ import annotations

from importlib import import_module

import pytest
from unisep_roformer import plugin

from unisep.weights.cards import read_card

SPECS = {spec.name: spec for spec in plugin.unisep_backends()}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_cards_agree_with_specs(name: str) -> None:
    spec = SPECS[name]
    card = read_card(spec.card)
    assert card.name == name and card.sources == spec.stems and card.licence == spec.licence == "not stated"
    assert card.sample_rate_hz == 44_100 and "icence" in card.notes
    suffixes = sorted(file.name.rpartition(".")[2] for file in card.files)
    assert suffixes == ["ckpt", "yaml"]
    assert all(len(file.sha256) == 64 and file.n_bytes for file in card.files)


def test_every_name_loads_by_the_same_function() -> None:
    loads = {spec.load for spec in SPECS.values()}
    assert len(loads) == 1
    module, function = loads.pop().split(":")
    assert callable(getattr(import_module(module), function))
