"""Measures a model on the fixed validation windows and writes its weights and card.

    python -m unisep_film.training.measure STORE RUN                     # a table of the run's average
    python -m unisep_film.training.measure STORE RUN --release PACKAGE   # and weights and card in a package folder

Every figure is a median over windows in which target and rest are within 10 dB of each other (but for
absent sounds). SI-SDR is scale-invariant (arXiv:1811.02508); SDR is the plain energy ratio
10 log10(|s|^2 / |s - e|^2), for which silence scores 0 dB.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from unisep.errors import UnisepError
from unisep.evaluation import roc_auc, sdr_db, si_sdr_db
from unisep_film.backend import WEIGHTS_FILE
from unisep_film.checkpoints import load_model, save_model
from unisep_film.model import FilmHTDemucs

from .encoders import add_encoder, asked_encoder
from .queries import TextAudioEncoder
from .release import update_card
from .store import Store
from .train import Recipe
from .validation import ValidationItem, validation_items

CARD = "htdemucs-film.toml"
# What the kinds of a store are to a reader: notes and phrases come from recordings of instruments never trained on.
KINDS = {"song": "stems of songs", "rendered": "rendered scores", "solo": "instruments", "notes": "instruments",
         "voice": "voices", "universal": "everyday sounds"}  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What one window gave. Levels in dB; `level_db` is the output's energy against the mixture's."""

    name: str
    group: str
    kind: str
    si_sdr_gain_db: float
    sdr_db: float
    mixture_sdr_db: float
    level_db: float
    presence: float


@torch.inference_mode()
def measure_item(model: FilmHTDemucs, item: ValidationItem, query: Tensor) -> Figures:
    """The figures of one window asked for by `query [dim]`."""
    (space,) = model.config.spaces
    mixture, target = torch.from_numpy(item.mixture), torch.from_numpy(item.target)
    targets, logits = model(mixture[None], model.conditions(query[None, None], space))
    estimate = targets[0, 0]
    level = 10 * torch.log10(estimate.square().sum() / mixture.square().sum() + 1e-12)
    gain = si_sdr_db(estimate, target) - si_sdr_db(mixture, target)
    return Figures(
        item.name, item.group, item.kind, gain, sdr_db(estimate, target), sdr_db(mixture, target), float(level),
        float(torch.sigmoid(logits[0, 0])),
    )  # fmt: skip


def measure(
    model: FilmHTDemucs,
    items: Iterable[ValidationItem],
    encoder: TextAudioEncoder,
    rate_hz: int,
    ask: str = "text",
) -> list[Figures]:
    """Figures of all windows, asked for by "text" or by an "audio" example (where the window has one)."""
    found = []
    for item in items:
        if ask == "audio" and item.example is None:
            continue
        if ask == "audio" and item.example is not None:
            query = encoder.clips([item.example], rate_hz)[0]
        else:
            query = encoder.texts([item.prompt])[0]
        found.append(measure_item(model, item, query))
    return found


def by_class(figures: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Medians a group and class, in the order met; absent sounds only have a level and a presence."""
    grouped: dict[str, list[Figures]] = defaultdict(list)
    for row in figures:
        grouped["absent" if row.group == "absent" else f"{row.group}: {row.name}"].append(row)
    return {key: _medians(rows, key == "absent") for key, rows in grouped.items()}


def by_kind(figures: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Medians over all windows of a kind of held-out recording in which the target sounds."""
    grouped: dict[str, list[Figures]] = defaultdict(list)
    for row in figures:
        if row.group != "absent":
            grouped[f"all: {KINDS[row.kind]}"].append(row)
    return {key: _medians(rows, absent=False) for key, rows in sorted(grouped.items())}


def _medians(rows: Sequence[Figures], absent: bool) -> dict[str, float]:
    fields = (
        ["level_db", "presence"] if absent else ["si_sdr_gain_db", "sdr_db", "mixture_sdr_db", "presence"]
    )
    out: dict[str, float] = {"n_windows": len(rows)}
    return out | {field: round(median(getattr(row, field) for row in rows), 2) for field in fields}


def presence_auc(figures: Sequence[Figures]) -> float | None:
    """Area under the ROC curve of presence: the chance that a present sound scores above an absent one."""
    present = [row.presence for row in figures if row.group != "absent"]
    auc = roc_auc(present, [row.presence for row in figures if row.group == "absent"])
    return None if auc is None else round(auc, 3)


def averaged_model(run: Path) -> tuple[FilmHTDemucs, Recipe, int]:
    """The run's running average as a model, its recipe, and the steps it took."""
    recipe = Recipe.model_validate_json((run / "recipe.json").read_text())
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    model = FilmHTDemucs(recipe.model)
    model.load_state_dict(state["average"])
    return model.eval(), recipe, int(state["step"])


def main(given: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description="Measure a trained FiLM HT Demucs on held-out material.")
    parser.add_argument("store")
    parser.add_argument("run", type=Path)
    parser.add_argument("--groups", nargs="+", help="validation groups, by default all")
    parser.add_argument("--ask", choices=["text", "audio"], nargs="+", default=["text"])
    parser.add_argument("--release", type=Path, help="folder that holds weights/ and cards/")
    add_encoder(parser)
    args = parser.parse_args(given)
    try:
        _measured(args)
    except UnisepError as error:
        raise SystemExit(str(error)) from error


def _measured(args: argparse.Namespace) -> None:
    model, recipe, n_steps = averaged_model(args.run)
    if args.release:
        file = save_model(args.release / "weights" / WEIGHTS_FILE, model)
        model = load_model(file)  # what is measured is what ships, at half precision
    store, encoder = Store(args.store), asked_encoder(args, model.config.spaces)
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for ask in args.ask:
        items = validation_items(store, groups=args.groups)
        figures = measure(model, items, encoder, store.sample_rate_hz, ask)
        tables[ask] = by_kind(figures) | by_class(figures)
        auc = presence_auc(figures)
        if auc is not None:
            tables[ask]["presence_auc"] = {"value": auc}
        print(json.dumps({"ask": ask, "step": n_steps, "presence_auc": auc}), flush=True)
        for key, row in tables[ask].items():
            print(
                f"{key:40s} " + "  ".join(f"{name} {value:7.2f}" for name, value in row.items()), flush=True
            )
    if args.release:
        update_card(args.release / "cards" / CARD, file, recipe, n_steps, tables)


if __name__ == "__main__":
    main()
