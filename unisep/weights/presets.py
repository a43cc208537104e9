"""Presets: names for the strongest of the models that are installed, as presets.toml beside this module describes them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unisep.errors import WeightsError
from unisep.weights.cards import Card, read_card


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Return what presets.toml says of each, by name."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def figures_db(card: Card, name: str = "best") -> dict[str, float]:
    """Return the figures of a card that a preset compares, by stem."""
    kind = (presets()[name]["metric"], presets()[name]["test_set"])
    return {entry.stem: entry.figure_db for entry in card.quality if (entry.metric, entry.test_set) == kind}


def figures_at(place: str) -> dict[str, float]:
    """Return `figures_db` of the card at "package:path/card.toml"; none for no card, or a bad one."""
    try:
        return figures_db(read_card(place)) if place else {}
    except WeightsError:
        return {}


def strongest(name: str, cards: Mapping[str, Card]) -> dict[str, list[str]]:
    """Return for each model that a preset fetches, of those whose `cards` are given, the stems that it is for."""
    figures = {model: figures_db(card, name) for model, card in cards.items() if card.is_fetchable}
    near: dict[str, list[str]] = {}
    for stem in presets()[name]["stems"]:
        by_model = {model: values[stem] for model, values in figures.items() if stem in values}
        least_db = max(by_model.values(), default=0.0) - presets()[name]["tie_db"]
        near[stem] = [model for model, figure_db in by_model.items() if figure_db >= least_db]
    chosen: dict[str, list[str]] = {}
    for stem, models in near.items():
        counts = {model: sum(model in others for others in near.values()) for model in models}
        for model in sorted(models, key=lambda model: (counts[model], sum(figures[model].values())))[-1:]:
            chosen.setdefault(model, []).append(stem)
    return chosen
