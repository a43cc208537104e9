"""How good models are, on one scale, and presets: names for the strongest of them. presets.toml has both."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unisep.errors import WeightsError
from unisep.weights.cards import Card, read_card


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def presets() -> dict[str, dict[str, Any]]:
    """Return what presets.toml says of each, by name."""
    return {name: preset for name, preset in _table().items() if name != "scale"}


def figures_db(card: Card) -> dict[str, float]:
    """Return the figures of a card, by stem, on the scale of presets.toml, where those of all models compare."""
    figures: dict[str, float] = {}
    for kind in _table()["scale"]:
        for entry in card.quality:
            if (entry.metric, entry.test_set) == (kind["metric"], kind["test_set"]):
                offset_db = kind.get("offset_db", {}).get(entry.stem, 0.0)
                figures.setdefault(entry.stem, round(entry.figure_db + offset_db, 2))
    return figures


def figures_at(place: str) -> dict[str, float]:
    """Return `figures_db` of the card at "package:path/card.toml"; none for no card, or a bad one."""
    try:
        return figures_db(read_card(place)) if place else {}
    except WeightsError:
        return {}


def strongest(name: str, cards: Mapping[str, Card]) -> dict[str, list[str]]:
    """Return for each model that a preset fetches, of those whose `cards` are given, the stems that it is for."""
    figures = {model: figures_db(card) for model, card in cards.items() if card.is_fetchable}
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
