"""Measure a model on the fixed validation windows, and write its weights and card.

    python -m unisep_train measure STORE RUN                                # a table of the run's average
    python -m unisep_train measure STORE RUN --release my.safetensors       # and weights for --query-weights
    python -m unisep_train measure STORE RUN --release PACKAGE              # or weights, card and table of a package

Every figure is a median over windows. SI-SDR is scale-invariant (arXiv:1811.02508); SDR is the plain energy ratio
10 log10(|s|^2 / |s - e|^2), for which silence scores 0 dB.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from unisep_evaluate import roc_auc, sdr_db, si_sdr_db
from unisep_film.backend import WEIGHTS_FILE
from unisep_film.causal import CausalFilm
from unisep_film.causal_backend import CAUSAL_WEIGHTS_FILE
from unisep_film.checkpoints import read_model, save_model
from unisep_film.model import FilmHTDemucs

from unisep.errors import OptionError
from unisep_train.data.store import Store
from unisep_train.measuring.cards import write_card, write_table
from unisep_train.measuring.validation import ValidationConfig, ValidationItem, validation_items
from unisep_train.mixing.queries import EMBEDDED, TextAudioEncoder
from unisep_train.tasks.query_model import QueryModelRun

MIN_WINDOWS = 8  # a median over fewer says little, and is left out of a card
EMBEDDED_AS = {  # by the kind of model, the files of a package
    FilmHTDemucs: (WEIGHTS_FILE, "htdemucs-film.toml"),
    CausalFilm: (CAUSAL_WEIGHTS_FILE, "film-causal.toml"),
}
Group = Literal["song", "remix", "single", "absent", "rendered"]
# What the kinds of a store are to a reader: notes and phrases come from recordings of instruments never trained on.
KINDS = {"song": "stems of songs", "rendered": "rendered scores", "solo": "instruments", "notes": "instruments",
         "voice": "voices", "universal": "everyday sounds"}  # fmt: skip
PRESENT_FIGURES = ("si_sdr_gain_db", "sdr_db", "mixture_sdr_db", "presence")
ABSENT_FIGURES = ("level_db", "presence")
Table = dict[str, dict[str, float]]


class Figures(NamedTuple):
    """The figures of one window. Levels in dB; `level_db` is the output's energy against the mixture's."""

    name: str
    group: str
    kind: str
    si_sdr_gain_db: float
    sdr_db: float
    mixture_sdr_db: float
    level_db: float
    presence: float


@torch.inference_mode()
def measure_item(model: FilmHTDemucs | CausalFilm, item: ValidationItem, query: Tensor) -> Figures:
    """Return the figures of one window asked for by `query [dim]`."""
    (space,) = model.config.spaces
    mixture, target = torch.from_numpy(item.mixture), torch.from_numpy(item.target)
    if model.config.separator.audio_channels == 1:
        mixture, target = mixture.mean(0, keepdim=True), target.mean(0, keepdim=True)
    targets, logits = model(mixture[None], model.conditions(query[None, None], space))
    estimate = targets[0, 0]
    level = 10 * torch.log10(estimate.square().sum() / mixture.square().sum() + 1e-12)
    gain = si_sdr_db(estimate, target) - si_sdr_db(mixture, target)
    return Figures(
        item.name, item.group, item.kind, gain, sdr_db(estimate, target), sdr_db(mixture, target), float(level),
        float(torch.sigmoid(logits[0, 0])),
    )  # fmt: skip


def windows_for(model: FilmHTDemucs | CausalFilm) -> ValidationConfig:
    """Return windows that the model can take at once: of 6 s, or as long as a segment of a spectrogram model is."""
    shape = model.config.separator
    longest = shape.segment_samples / shape.samplerate if model.config.output == "spectrogram" else math.inf
    return ValidationConfig(segment_seconds=min(ValidationConfig.segment_seconds, longest))


def measure(
    model: FilmHTDemucs | CausalFilm,
    items: Iterable[ValidationItem],
    encoder: TextAudioEncoder,
    rate_hz: int,
    ask: str = "text",
) -> list[Figures]:
    """Return the figures of all windows, asked for by "text" or by an "audio" example (where the window has one)."""
    figures = []
    for item in items:
        if ask == "text":
            figures.append(measure_item(model, item, encoder.texts([item.name])[0]))
        elif item.example is not None:
            figures.append(measure_item(model, item, encoder.clips([item.example], rate_hz)[0]))
    return figures


def grouped(figures: Sequence[Figures]) -> Table:
    """Return medians over all windows of a kind of held-out recording in which the target sounds, then a group and class.

    Absent sounds are one class, and only have a level and a presence. The area under the ROC curve of presence is the chance
    that a present sound scores above an absent one.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in figures:
        of_kind, of_class = f"all: {KINDS.get(row.kind, row.kind)}", f"{row.group}: {row.name}"
        for key in ("absent",) if row.group == "absent" else (of_kind, of_class):
            rows[key].append(row._asdict())
    kinds = sorted(key for key in rows if key.startswith("all: "))
    fields = {key: ABSENT_FIGURES if key == "absent" else PRESENT_FIGURES for key in rows}
    table = {key: medians(rows[key], fields[key]) for key in (*kinds, *(key for key in rows if key not in kinds))}
    present, absent = (
        [row.presence for row in figures if (row.group == "absent") is is_absent] for is_absent in (False, True)
    )
    auc = roc_auc(present, absent)
    return table if auc is None else table | {"presence_auc": {"value": round(auc, 3)}}


def medians(rows: Sequence[Mapping[str, Any]], fields: Iterable[str] | None = None) -> dict[str, float]:
    """Return the number of windows, and the median of each field over them; of all fields by default."""
    fields = fields or (rows[0] if rows else ())
    return {"n_windows": len(rows)} | {field: round(median(row[field] for row in rows), 2) for field in fields if rows}


def print_table(table: Mapping[str, Mapping[str, float]], width: int, digits: int) -> None:
    """Print one line for each row."""
    for key, row in table.items():
        print(f"{key:{width}s} " + "  ".join(f"{name} {value:{digits}.2f}" for name, value in row.items()), flush=True)


def measured(
    model: FilmHTDemucs | CausalFilm,
    store: Store,
    queries: TextAudioEncoder,
    ask: str,
    groups: list[Group] | None,
    training: Mapping[str, float],
) -> Table:
    """Return the figures of a model by kind and class for one way of asking; print them."""
    items = validation_items(store, windows_for(model), groups)
    table = grouped(measure(model, items, queries, store.sample_rate_hz, ask))
    print(json.dumps({"ask": ask, **training, "presence_auc": table.get("presence_auc", {}).get("value")}))
    print_table(table, 40, 7)
    return table


def _of_run(folder: Path) -> tuple[FilmHTDemucs | CausalFilm, dict[str, float]]:
    """Return the average of a run, and how long it was trained."""
    run = QueryModelRun.saved(folder)
    hours = run.step * run.recipe.mix.batch_seconds / 3600
    return run.averaged(), {"n_steps": run.step, "hours_of_mixtures": round(hours, 1)}


def measure_command(
    store: str, run: Path, *, groups: list[Group] | None = None, ask: list[Literal["text", "audio"]] | None = None,
    release: Path | None = None, encoder: str = EMBEDDED, encoder_weights: Path | None = None,
) -> None:  # fmt: skip
    """Measure a run or finished weights, and perhaps release them.

    Args:
        store: folder made by `corpus`.
        run: folder of the run, or a file of weights.
        groups: validation groups, by default all.
        ask: by text, as is the default, by audio, or both.
        release: where the weights go: a .safetensors file, or a package with weights/ and cards/, whose README may have
            a place for the table (`<!-- figures of htdemucs-film -->` to `<!-- end -->`).
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.
    """
    model, training = (read_model(run), {}) if run.is_file() else _of_run(run)  # a card keeps what it says of training
    queries = TextAudioEncoder.named(encoder, encoder_weights, model.config.spaces)
    opened = Store(store).at_rate(model.config.separator.samplerate)

    def tables_of(model: FilmHTDemucs | CausalFilm) -> dict[str, Table]:
        return {way: measured(model, opened, queries, way, groups, training) for way in ask or ["text"]}

    if not release:
        tables_of(model)
        return
    if groups:
        raise OptionError("--release states all groups in the card: leave out --groups.")
    is_file = release.suffix == ".safetensors"
    weights_name, card_name = EMBEDDED_AS[type(model)]
    file, card = release if is_file else release / "weights" / weights_name, release / "cards" / card_name
    if not is_file and not card.is_file():
        raise OptionError(
            f"There is no card {card} to put the figures into. For the weights alone give a path that ends in .safetensors."
        )
    candidate = save_model(file.with_name(f"{file.name}.measured"), model)
    try:
        # What is measured is what ships, at half precision; until it is, the old weights stay.
        tables = tables_of(read_model(candidate))
        candidate.replace(file)
        if not is_file:
            stated_before = tomllib.loads(card.read_text(encoding="utf-8")).get("measured", {})
            training = training or stated_before.get("training", {})
            stated: dict[str, Table] = {
                way: {key: row for key, row in table.items() if row.get("n_windows", MIN_WINDOWS) >= MIN_WINDOWS}
                for way, table in tables.items()
            }
            write_card(card, card, [file], {"training": training, **stated})
            if (page := release.parent / "README.md").is_file():
                write_table(page, card.stem, stated)
    finally:
        candidate.unlink(missing_ok=True)
