"""What each choice did: runs of equal length that differ from one recipe in one thing each.

    python -m unisep_train ablation STORE OUT                     # all variants, a Markdown table at the end
    python -m unisep_train ablation STORE OUT --only base "cross-attention" --steps 1000

Every variant sees the same examples in the same order (but for those that change the data). OUT holds a run folder and
a `figures.json` for each; variants that have one are not run again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from unisep_film.film import FiLM
from unisep_film.model import FilmHTDemucs

from unisep.errors import OptionError, suggest
from unisep_train.data.store import Store
from unisep_train.measuring.measure import Figures, measure, presence_auc, windows_for
from unisep_train.measuring.validation import validation_items
from unisep_train.mixing.queries import EMBEDDED, TextAudioEncoder
from unisep_train.tasks.query_model import QueryModelRun, Recipe, train
from unisep_train.trainer.learner import N_THREADS
from unisep_train.trainer.recipe import RECIPE_FILE

N_TOKENS = 4  # a query is one vector, and attention over one token would not depend on what attends
PLACES = ("tokens", "inputs", "skips")
GROUPS = ("song", "remix", "single", "absent")
N_WINDOWS = 4  # of a class: half of what a release is measured on
Summary = dict[str, float | None]


# Other ways for a query to enter the model; each takes the place of one FiLM layer. All but `AdaptiveNorm` change
# nothing when new, as FiLM does.


class Deaf(nn.Module):
    """Does not hear the query."""

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """Return `x` as it is."""
        return x


class AdaptiveNorm(nn.Module):
    """Normalises each position over the channels, then scales and shifts as the query says (AdaIN, adaLN)."""

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.film = FiLM(condition_channels, channels)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """Normalise `x`, then scale and shift every channel; `condition [batch, condition_channels]`."""
        deviation, mean = torch.std_mean(x, channel_axis, keepdim=True, correction=0)
        out: Tensor = self.film((x - mean) / (deviation + 1e-5), condition, channel_axis)
        return out


class Concatenation(nn.Module):
    """Joins the condition to the channels of each position and maps both to as many channels as before."""

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(channels, channels, bias=False)
        self.of_condition = nn.Linear(condition_channels, channels)
        nn.init.eye_(self.of_input.weight)
        for parameter in self.of_condition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """Map `x` and `condition [batch, condition_channels]` to the shape of `x`."""
        last = x.movedim(channel_axis, -1)
        added = self.of_condition(condition).reshape(x.shape[0], *[1] * (x.dim() - 2), -1)
        out: Tensor = self.of_input(last) + added
        return out.movedim(-1, channel_axis)


class CrossAttention(nn.Module):
    """Each position attends to a few tokens made of the query; what it reads is added.

    Axes: b batch, t tokens, c channels, p positions.
    """

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__()
        self.asks = nn.Linear(channels, channels)
        self.keys = nn.Linear(condition_channels, N_TOKENS * channels)
        self.values = nn.Linear(condition_channels, N_TOKENS * channels)
        self.reads = nn.Linear(channels, channels)
        for parameter in self.reads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor, channel_axis: int = 1) -> Tensor:
        """Add to `x` what each position read of `condition [batch, condition_channels]`."""
        last = x.movedim(channel_axis, -1)
        keys, values = (
            rearrange(layer(condition), "b (t c) -> b t c", t=N_TOKENS) for layer in (self.keys, self.values)
        )
        questions = self.asks(F.layer_norm(last, last.shape[-1:])).flatten(1, -2)
        read = self.reads(F.scaled_dot_product_attention(questions, keys, values))
        return (last + read.reshape(last.shape)).movedim(-1, channel_axis)


def with_conditioning(model: FilmHTDemucs, kind: type[nn.Module], places: tuple[str, ...]) -> FilmHTDemucs:
    """Put layers of `kind` at `places` ("tokens", "inputs", "skips") instead of the model's FiLMs."""
    for place in places:
        films: nn.ModuleList = getattr(model, f"film_{place}")
        for index, film in enumerate(films):
            assert isinstance(film, FiLM)
            films[index] = Deaf() if kind is Deaf else kind(film.scale.in_features, film.scale.out_features)
    return model


def without_identity_start(model: FilmHTDemucs) -> FilmHTDemucs:
    """Draw every FiLM of the model at random, as a linear layer is by default."""
    for module in model.modules():
        if isinstance(module, FiLM):
            module.scale.reset_parameters()
            module.shift.reset_parameters()
    return model


@dataclass(frozen=True)
class Variant:
    """One thing changed. patch: of the recipe, merged field by field; parts: of the store, all without."""

    name: str
    patch: dict[str, Any] = field(default_factory=dict)
    change: Callable[[FilmHTDemucs], FilmHTDemucs] | None = None
    parts: tuple[str, ...] = ()


def _layers(kind: type[nn.Module], places: tuple[str, ...] = PLACES) -> Callable[..., FilmHTDemucs]:
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
    """Put the patch's fields in place of the recipe's, at every depth.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    patched = {
        key: merged(recipe.get(key, {}), value) if isinstance(value, dict) else value for key, value in patch.items()
    }
    return recipe | patched


def figures_of(variant: Variant, store: Path, folder: Path, recipe: Recipe, encoder: TextAudioEncoder) -> Summary:
    """Run a variant, and return the summary of its running average, asked by text."""
    variant_run = QueryModelRun(recipe, folder, change=variant.change)
    model = train(str(_parts_of(store, variant.parts, folder)), variant_run, encoder).averaged()
    opened = Store(store)
    items = validation_items(opened, windows_for(model, N_WINDOWS), GROUPS)
    return summary(measure(model, items, encoder, opened.sample_rate_hz), model)


def _kept(variant: Variant, folder: Path, base: dict[str, Any]) -> Recipe:
    """Return the variant's recipe, kept in its folder. Raises OptionError when another one began there."""
    recipe = Recipe.model_validate(merged(base, variant.patch))
    if (folder / RECIPE_FILE).exists() and Recipe.of_run(folder) != recipe:
        raise OptionError(f"{folder} holds a run of another recipe. Give another folder for this series.")
    return recipe.kept_in(folder)


def _parts_of(store: Path, parts: tuple[str, ...], folder: Path) -> Path:
    """Return the store, or a folder beside the run with links to some parts of it."""
    if not parts:
        return store
    some = folder / "store"
    some.mkdir(exist_ok=True)
    for part in parts:
        if not (some / part).exists():
            (some / part).symlink_to((store / part).resolve(), target_is_directory=True)
    return some


def summary(figures: list[Figures], model: FilmHTDemucs) -> Summary:
    """Return medians over windows of songs and of single recordings, absent level, presence, and the model's size."""

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


def table(summaries: dict[str, Summary]) -> str:
    """Return the figures as a Markdown table, a row a variant."""
    lines = [
        "| variant | parameters | songs: SI-SDRi (SDR) | single sounds: SI-SDRi (SDR) | absent | presence AUC |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in summaries.items():
        songs, singles = (
            f"{_cell(row[f'{kind}_si_sdr_gain_db'], 1)} ({_cell(row[f'{kind}_sdr_db'], 1)})"
            for kind in ("songs", "singles")
        )
        absent, auc = _cell(row["absent_db"], 0), _cell(row["presence_auc"], 2)
        lines.append(f"| {name} | {(row['parameters'] or 0) / 1e6:.2f} M | {songs} | {singles} | {absent} | {auc} |")
    return "\n".join(lines)


def _cell(value: float | None, n_digits: int) -> str:
    return "-" if value is None else f"{value:.{n_digits}f}"


def ablate(
    store: Path, out: Path, *, config: Path | None = None, steps: int | None = None, only: list[str] | None = None,
    threads: int = N_THREADS, encoder: str = EMBEDDED, encoder_weights: Path | None = None,
) -> None:  # fmt: skip
    """Run the variants and print their table.

    Args:
        store: folder made by `corpus`.
        out: folder of all runs.
        config: the recipe that the variants differ from.
        steps: length of every run, instead of the recipe's.
        only: names of the variants to run.
        threads: CPU threads.
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.
    """
    torch.set_num_threads(threads)
    variants = {variant.name: variant for variant in VARIANTS}
    for name in set(only or ()) - variants.keys():
        raise OptionError(f"There is no variant {name!r}. {suggest(name, variants)}")
    shipped = resources.files("unisep_train") / "recipes" / "ablation.json"
    base = json.loads((config or shipped).read_text(encoding="utf-8")) | ({"n_steps": steps} if steps else {})
    queries = TextAudioEncoder.named(encoder, encoder_weights, Recipe.model_validate(base).model.spaces)
    summaries = {}
    for name in [name for name in variants if not only or name in only]:
        folder = out / re.sub(r"\W+", "-", name.lower())
        recipe, done = _kept(variants[name], folder, base), folder / "figures.json"
        if not done.exists():
            figures = figures_of(variants[name], store, folder, recipe, queries)
            done.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        summaries[name] = json.loads(done.read_text(encoding="utf-8"))
    print(table(summaries))
