"""What each choice did: runs of equal length that differ from one recipe in one thing each.

    python -m unisep_train.measuring.ablation STORE OUT                     # all variants, a Markdown table at the end
    python -m unisep_train.measuring.ablation STORE OUT --only base "cross-attention" --steps 1000

Every variant sees the same examples in the same order (but for those that change the data). OUT holds a run folder and
a `figures.json` for each; variants that have one are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import torch
from unisep_film.model import FilmHTDemucs

from unisep.errors import OptionError, UnisepError
from unisep_train.data.store import Store
from unisep_train.measuring.conditioning import (
    AdaptiveNorm,
    Concatenation,
    CrossAttention,
    Deaf,
    with_conditioning,
    without_identity_start,
)
from unisep_train.measuring.measure import Figures, measure, presence_auc, windows_for
from unisep_train.measuring.validation import validation_items
from unisep_train.mixing.encoders import add_encoder, asked_encoder
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks.recipe import Recipe
from unisep_train.tasks.run import Run
from unisep_train.tasks.train import train
from unisep_train.trainer.kept import RECIPE_FILE

PLACES = ("tokens", "inputs", "skips")
GROUPS = ("song", "remix", "single", "absent")
N_WINDOWS = 4  # of a class: half of what a release is measured on


@dataclass(frozen=True)
class Variant:
    """One thing changed. patch: of the recipe, merged field by field; parts: of the store, all without."""

    name: str
    patch: dict[str, Any] = field(default_factory=dict)
    change: Callable[[FilmHTDemucs], FilmHTDemucs] | None = None
    parts: tuple[str, ...] = ()


def _layers(kind: type[torch.nn.Module], places: tuple[str, ...] = PLACES) -> Callable[..., FilmHTDemucs]:
    return partial(with_conditioning, kind=kind, places=places)


VARIANTS = (
    Variant("base"),
    Variant("FiLM in the transformer only", change=_layers(Deaf, ("inputs", "skips"))),
    Variant("FiLM in the decoder only", change=_layers(Deaf, ("tokens",))),
    Variant("no FiLM on the skips", change=_layers(Deaf, ("skips",))),
    Variant("FiLM drawn at random", change=without_identity_start),
    Variant("adaptive norm", change=_layers(AdaptiveNorm)),
    Variant("cross-attention", change=_layers(CrossAttention)),
    Variant("concatenation", change=_layers(Concatenation)),
    Variant("presence gates the output", {"model": {"gated": True}}),
    Variant("loss: L1 only", {"losses": {"si_sdr_per_db": 0.0, "sdr_per_db": 0.0, "l1": 1.0}}),
    Variant("loss: log-SNR only", {"losses": {"si_sdr_per_db": 0.0, "sdr_per_db": 0.1, "l1": 0.0}}),
    Variant("loss: SI-SDR and L1, no SDR", {"losses": {"sdr_per_db": 0.0}}),
    Variant("size: 8 channels", {"model": {"demucs": {"channels": 8}}}),
    Variant("size: 24 channels", {"model": {"demucs": {"channels": 24}}}),
    Variant("data: recordings alone", parts=("corpus",)),
)


def merged(recipe: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the patch's fields in place of its own, at every depth.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    out = dict(recipe)
    for key, value in patch.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, dict) else value
    return out


def run_variant(variant: Variant, store: Path, folder: Path, recipe: dict[str, Any], **loop: Any) -> Run:
    """The variant's run after its last step."""
    run = Run(_kept(variant, folder, recipe), folder, change=variant.change)
    return train(str(_parts_of(store, variant.parts, folder)), run, **loop)


def _kept(variant: Variant, folder: Path, recipe: dict[str, Any]) -> Recipe:
    """The variant's recipe, kept in its folder. Raises OptionError when another one began there."""
    own, path = Recipe.model_validate(merged(recipe, variant.patch)), folder / RECIPE_FILE
    if path.exists() and Recipe.model_validate_json(path.read_bytes()) != own:
        raise OptionError(f"{folder} holds a run of another recipe. Give another folder for this series.")
    path.write_text(own.model_dump_json(indent=1), encoding="utf-8")
    return own


def _parts_of(store: Path, parts: tuple[str, ...], folder: Path) -> Path:
    """The store, or a folder beside the run with links to some parts of it."""
    if not parts:
        return store
    some = folder / "store"
    some.mkdir(exist_ok=True)
    for part in parts:
        if not (some / part).exists():
            (some / part).symlink_to((store / part).resolve(), target_is_directory=True)
    return some


def summary(figures: list[Figures], model: FilmHTDemucs) -> dict[str, float | None]:
    """Medians over windows of songs and of single recordings, absent level, presence, and the model's size."""

    def middle(groups: tuple[str, ...], name: str) -> float | None:
        values = [getattr(row, name) for row in figures if row.group in groups]
        return round(median(values), 2) if values else None

    songs, singles = ("song", "remix"), ("single",)
    return {
        "songs_si_sdr_gain_db": middle(songs, "si_sdr_gain_db"),
        "songs_sdr_db": middle(songs, "sdr_db"),
        "singles_si_sdr_gain_db": middle(singles, "si_sdr_gain_db"),
        "singles_sdr_db": middle(singles, "sdr_db"),
        "absent_db": middle(("absent",), "level_db"),
        "presence_auc": presence_auc(figures),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def table(found: dict[str, dict[str, float | None]]) -> str:
    """The figures as a Markdown table, a row a variant."""
    lines = [
        "| variant | parameters | songs: SI-SDRi (SDR) | single sounds: SI-SDRi (SDR) | absent | presence AUC |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in found.items():
        songs, singles = (
            f"{_said(row[f'{kind}_si_sdr_gain_db'], 1)} ({_said(row[f'{kind}_sdr_db'], 1)})"
            for kind in ("songs", "singles")
        )
        absent, auc = _said(row["absent_db"], 0), _said(row["presence_auc"], 2)
        lines.append(f"| {name} | {(row['parameters'] or 0) / 1e6:.2f} M | {songs} | {singles} | {absent} | {auc} |")
    return "\n".join(lines)


def _said(value: float | None, n_digits: int) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"


def figures_of(run: Run, store: Path, encoder: TextAudioEncoder) -> dict[str, float | None]:
    """The summary of a finished run's running average, asked by text."""
    run.model.load_state_dict(run.average)
    opened = Store(store)
    items = validation_items(opened, windows_for(run.model, N_WINDOWS), GROUPS)
    figures = measure(run.model.eval(), items, encoder, opened.sample_rate_hz)
    return summary(figures, run.model)


def main(given: list[str] | None = None) -> None:
    """Run the variants and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, help="the recipe that the variants differ from")
    parser.add_argument("--steps", type=int, help="length of every run, instead of the recipe's")
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS], metavar="NAME")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_encoder(parser)
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    shipped = resources.files("unisep_train") / "recipes" / "ablation.json"
    recipe = json.loads((args.config or shipped).read_text(encoding="utf-8"))
    recipe |= {"n_steps": args.steps} if args.steps else {}
    encoder, found = asked_encoder(args, Recipe.model_validate(recipe).model.spaces), {}
    try:
        for variant in VARIANTS:
            if args.only and variant.name not in args.only:
                continue
            folder = args.out / re.sub(r"\W+", "-", variant.name.lower())
            folder.mkdir(parents=True, exist_ok=True)
            done = folder / "figures.json"
            if done.exists():
                _kept(variant, folder, recipe)
            else:
                loop = {"encoder": encoder, "stop_after_seconds": math.inf}
                run = run_variant(variant, args.store, folder, recipe, **loop)
                done.write_text(json.dumps(figures_of(run, args.store, encoder), indent=1), encoding="utf-8")
            found[variant.name] = json.loads(done.read_text(encoding="utf-8"))
    except UnisepError as error:
        raise SystemExit(str(error)) from error
    print(table(found))


if __name__ == "__main__":
    main()
