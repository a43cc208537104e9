"""Measures a model on the fixed validation windows and writes its weights and card.

    python -m unisep_train.measuring.measure STORE RUN                     # a table of the run's average
    python -m unisep_train.measuring.measure STORE RUN --release my.safetensors   # and weights for --query-weights
    python -m unisep_train.measuring.measure STORE RUN --release PACKAGE   # or weights and card in a package folder

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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from unisep_evaluate import roc_auc, sdr_db, si_sdr_db
from unisep_film.backend import WEIGHTS_FILE
from unisep_film.checkpoints import load_model, save_model
from unisep_film.model import FilmHTDemucs

from unisep.errors import OptionError, UnisepError
from unisep_train.data.store import Store
from unisep_train.measuring.cards import update_card
from unisep_train.measuring.validation import ValidationConfig, ValidationItem, validation_items
from unisep_train.mixing.encoders import add_encoder, asked_encoder
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks.recipe import Recipe, load_recipe
from unisep_train.trainer.kept import CHECKPOINT_FILE

CARD = "htdemucs-film.toml"
GROUPS = ("song", "remix", "single", "absent", "rendered")
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
    mixture, target = (_heard(model, sound) for sound in (item.mixture, item.target))
    targets, logits = model(mixture[None], model.conditions(query[None, None], space))
    estimate = targets[0, 0]
    level = 10 * torch.log10(estimate.square().sum() / mixture.square().sum() + 1e-12)
    gain = si_sdr_db(estimate, target) - si_sdr_db(mixture, target)
    return Figures(
        item.name, item.group, item.kind, gain, sdr_db(estimate, target), sdr_db(mixture, target), float(level),
        float(torch.sigmoid(logits[0, 0])),
    )  # fmt: skip


def _heard(model: FilmHTDemucs, sound: NDArray[np.float32]) -> Tensor:
    """`[1 or 2, samples]` of `sound [2, samples]`: one channel where the model hears one."""
    stereo = torch.from_numpy(sound)
    return stereo.mean(0, keepdim=True) if model.config.separator.audio_channels == 1 else stereo


def windows_for(model: FilmHTDemucs, n_per_name: int = ValidationConfig.n_per_name) -> ValidationConfig:
    """Windows that the model can take at once: of 6 s, or as long as a segment of a spectrogram model is."""
    shape, longest = model.config.separator, ValidationConfig.segment_seconds
    if model.config.output == "spectrogram":
        longest = min(longest, shape.segment_samples / shape.samplerate)
    return ValidationConfig(segment_seconds=longest, n_per_name=n_per_name)


def measure(
    model: FilmHTDemucs, items: Iterable[ValidationItem], encoder: TextAudioEncoder, rate_hz: int, ask: str = "text"
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
            grouped[f"all: {KINDS.get(row.kind, row.kind)}"].append(row)
    return {key: _medians(rows, absent=False) for key, rows in sorted(grouped.items())}


def _medians(rows: Sequence[Figures], absent: bool) -> dict[str, float]:
    fields = ["level_db", "presence"] if absent else ["si_sdr_gain_db", "sdr_db", "mixture_sdr_db", "presence"]
    out: dict[str, float] = {"n_windows": len(rows)}
    return out | {field: round(median(getattr(row, field) for row in rows), 2) for field in fields}


def presence_auc(figures: Sequence[Figures]) -> float | None:
    """Area under the ROC curve of presence: the chance that a present sound scores above an absent one."""
    present = [row.presence for row in figures if row.group != "absent"]
    auc = roc_auc(present, [row.presence for row in figures if row.group == "absent"])
    return None if auc is None else round(auc, 3)


def averaged_model(run: Path) -> tuple[FilmHTDemucs, Recipe, int]:
    """The run's running average as a model, its recipe, and the steps it took.

    Raises OptionError when there is no such run, or it has saved nothing yet.
    """
    recipe = load_recipe(run, None)
    if not (run / CHECKPOINT_FILE).exists():
        raise OptionError(f"{run} has saved no step yet. Let `unisep_train.tasks.train` go on with it.")
    state = torch.load(run / CHECKPOINT_FILE, weights_only=True, map_location="cpu")
    model = FilmHTDemucs(recipe.model)
    model.load_state_dict(state["average"])
    return model.eval(), recipe, int(state["step"])


def main(given: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description="Measure a trained FiLM HT Demucs on held-out material.")
    parser.add_argument("store")
    parser.add_argument("run", type=Path)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, help="validation groups, by default all")
    parser.add_argument("--ask", choices=["text", "audio"], nargs="+", default=["text"])
    parser.add_argument(
        "--release", type=Path, help="where the weights go: a .safetensors file, or a package with weights/ and cards/"
    )
    add_encoder(parser)
    args = parser.parse_args(given)
    try:
        _measured(args)
    except UnisepError as error:
        raise SystemExit(str(error)) from error


def _measured(args: argparse.Namespace) -> None:
    model, recipe, n_steps = averaged_model(args.run)
    store = Store(args.store).at_rate(model.config.separator.samplerate)
    if not args.release:
        _tables(args, model, store, n_steps)
        return
    if args.groups:
        raise OptionError("--release states all groups in the card: leave out --groups.")
    is_file = args.release.suffix == ".safetensors"
    file = args.release if is_file else args.release / "weights" / WEIGHTS_FILE
    card = args.release / "cards" / CARD
    if not is_file and not card.is_file():
        raise OptionError(
            f"There is no card {card} to put the figures into. For the weights alone give a path that ends in .safetensors."
        )
    measured = save_model(file.with_name(f"{file.name}.measured"), model)
    try:
        # What is measured is what ships, at half precision; until it is, the old weights stay.
        tables = _tables(args, load_model(measured), store, n_steps)
        measured.replace(file)
        if not is_file:
            update_card(card, file, recipe, n_steps, tables)
    finally:
        measured.unlink(missing_ok=True)


def _tables(
    args: argparse.Namespace, model: FilmHTDemucs, store: Store, n_steps: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The figures by kind and class for each way of asking; printed as they come."""
    encoder = asked_encoder(args, model.config.spaces)
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for ask in args.ask:
        items = validation_items(store, windows_for(model), args.groups)
        figures = measure(model, items, encoder, store.sample_rate_hz, ask)
        tables[ask] = by_kind(figures) | by_class(figures)
        auc = presence_auc(figures)
        if auc is not None:
            tables[ask]["presence_auc"] = {"value": auc}
        print(json.dumps({"ask": ask, "step": n_steps, "presence_auc": auc}), flush=True)
        for key, row in tables[ask].items():
            print(f"{key:40s} " + "  ".join(f"{name} {value:7.2f}" for name, value in row.items()), flush=True)
    return tables


if __name__ == "__main__":
    main()
