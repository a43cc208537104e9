"""Puts measured figures and the hash of new weights into their card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unisep.weights.hashes import sha256_of
from unisep_train.tasks.recipe import Recipe

MIN_WINDOWS = 8  # a median over fewer says little, and is left out of the card
Tables = Mapping[str, Mapping[str, Mapping[str, float]]]


def update_card(card: Path, weights: Path, recipe: Recipe, n_steps: int, tables: Tables) -> None:
    """Rewrite the card below its prose, which ends where `[[files]]` begins: file, hash, steps, figures.

    The prose (data, licence, weaknesses) is the releaser's; what is written here is measured.
    """
    prose, _, _ = card.read_text(encoding="utf-8").partition("[[files]]")
    hours = n_steps * recipe.mix.batch * recipe.mix.segment_seconds / 3600
    lines = [
        "[[files]]",
        f'name = "{weights.name}"',
        f'resource = "{weights.parent.name}/{weights.name}"',
        f'sha256 = "{sha256_of(weights)}"',
        f"n_bytes = {weights.stat().st_size}",
        "",
        "[measured.training]",
        f"n_steps = {n_steps}",
        f"hours_of_mixtures = {hours:.1f}",
    ]
    for ask, rows in tables.items():
        lines += ["", f"[measured.{ask}]"]
        stated = {name: row for name, row in rows.items() if row.get("n_windows", MIN_WINDOWS) >= MIN_WINDOWS}
        lines += [f'"{name}" = {{ {_inline(row)} }}' for name, row in stated.items()]
    partial = card.with_name(card.name + ".part")
    partial.write_text(prose + "\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(card)


def _inline(row: Mapping[str, float]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in row.items())
