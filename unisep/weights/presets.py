"""Presets: names for the strongest of the models that are installed, described in presets.toml beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unisep.errors import WeightsError
from unisep.weights.cards import Card, read_card


@dataclass(frozen=True)
class Preset:
    """What presets.toml says of one: which figures of which stems compare, and which difference in dB makes none stronger."""

    summary: str
    stems: list[str]
    metric: str
    test_set: str
    tie_db: float

    def figures_db(self, card: Card) -> dict[str, float]:
        """Return the figures of a card that compare, by stem."""
        return card.figures_db(self.metric, self.test_set)

    def models(self, cards: Mapping[str, Card]) -> dict[str, list[str]]:
        """Return for each model to fetch, of those whose `cards` are given by name, the stems that it is strongest at."""
        figures = {name: self.figures_db(card) for name, card in cards.items() if card.is_fetchable}
        left = [stem for stem in self.stems if any(stem in values for values in figures.values())]
        best = {stem: max(values.get(stem, -999.0) for values in figures.values()) for stem in left}
        chosen: dict[str, list[str]] = {}
        while left:
            strong = {
                name: [stem for stem in left if values.get(stem, -999.0) >= best[stem] - self.tie_db]
                for name, values in figures.items()
            }
            name = max(strong, key=lambda name: (len(strong[name]), sum(figures[name].values())))
            chosen[name] = strong[name]
            left = [stem for stem in left if stem not in strong[name]]
        return chosen


def quality_db(place: str) -> dict[str, float]:
    """Return the figures, by stem, that "best" compares, of the card at `place`; none for no card, or a bad one."""
    try:
        return presets()["best"].figures_db(read_card(place)) if place else {}
    except WeightsError:
        return {}


@cache
def presets() -> dict[str, Preset]:
    """Return the presets by name."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return {name: Preset(**values) for name, values in tomllib.loads(text).items()}
