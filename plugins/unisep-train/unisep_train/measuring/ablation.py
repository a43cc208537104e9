"""What each choice does: runs of equal length that differ from one recipe in one thing each.

    python -m unisep_train ablation STORE OUT                            # all changes, a Markdown table at the end
    python -m unisep_train ablation STORE OUT --only base "size: 8 channels" --steps 1000
    python -m unisep_train ablation STORE OUT --config recipe.json --changes changes.json

The changes are a JSON object: a name, and the fields of the recipe that are other. Every run sees the same examples in the
same order. OUT holds a run folder and a `figures.json` for each; a change that has one is not run again.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from unisep.errors import OptionError, suggest
from unisep_train.data.store import Store
from unisep_train.measuring.measure import Table, measured
from unisep_train.mixing.queries import EMBEDDED, TextAudioEncoder
from unisep_train.tasks.query_model import QueryModelRun, Recipe, train
from unisep_train.trainer.learner import N_THREADS


def merged(recipe: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Put the patch's fields in place of the recipe's, at every depth.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    patched = {
        key: merged(recipe.get(key, {}), value) if isinstance(value, dict) else value for key, value in patch.items()
    }
    return recipe | patched


def figures_of(recipe: dict[str, Any], store: Path, folder: Path, encoder: TextAudioEncoder) -> Table:
    """Run a recipe in a folder, if that has no figures yet, and return those of its running average, asked by text."""
    folder.mkdir(parents=True, exist_ok=True)
    written, done = folder / "changed.json", folder / "figures.json"
    written.write_text(json.dumps(recipe), encoding="utf-8")
    run = QueryModelRun(Recipe.of_run(folder, written), folder)
    if not done.exists():
        model = train(str(store), run, encoder).averaged()
        table = measured(model, Store(store), encoder, "text", None, run.step)
        size = {"parameters": {"value": sum(parameter.numel() for parameter in model.parameters())}}
        done.write_text(json.dumps(table | size, indent=1), encoding="utf-8")
    figures: Table = json.loads(done.read_text(encoding="utf-8"))
    return figures


def compared(tables: dict[str, Table]) -> str:
    """Return the figures as a Markdown table, a row a change, a column for each kind of held-out recording."""
    kinds = sorted({key for table in tables.values() for key in table if key.startswith("all: ")})
    names = [f"{kind.removeprefix('all: ')}: SI-SDRi (SDR)" for kind in kinds]
    rows = [["change", "parameters", *names, "absent", "presence AUC"], ["---", *["---:"] * (len(kinds) + 3)]]
    for name, table in tables.items():
        levels = [f"{table[k]['si_sdr_gain_db']:.1f} ({table[k]['sdr_db']:.1f})" if k in table else "-" for k in kinds]
        absent = f"{table['absent']['level_db']:.0f}" if "absent" in table else "-"
        auc = f"{table['presence_auc']['value']:.2f}" if "presence_auc" in table else "-"
        rows.append([name, f"{table['parameters']['value'] / 1e6:.2f} M", *levels, absent, auc])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ablate(
    store: Path, out: Path, *, config: Path | None = None, changes: Path | None = None, steps: int | None = None,
    only: list[str] | None = None, threads: int = N_THREADS, encoder: str = EMBEDDED, encoder_weights: Path | None = None,
) -> None:  # fmt: skip
    """Run a recipe with each of some changes, and print their table.

    Args:
        store: folder made by `corpus`.
        out: folder of all runs.
        config: the recipe that is changed.
        changes: JSON object of named changes, instead of the package's.
        steps: length of every run, instead of the recipe's.
        only: names of the changes to run.
        threads: CPU threads.
        encoder: package.module:function that loads the query encoder.
        encoder_weights: its weights, if not its own.

    Raises:
        OptionError: there is no change of a name, or a change makes no recipe.
    """
    torch.set_num_threads(threads)
    recipes = resources.files("unisep_train") / "recipes"
    base = json.loads((config or recipes / "ablation.json").read_text(encoding="utf-8"))
    base |= {"n_steps": steps} if steps else {}
    patches = json.loads((changes or recipes / "ablation-changes.json").read_text(encoding="utf-8"))
    for name in set(only or ()) - patches.keys():
        raise OptionError(f"There is no change named {name!r}. {suggest(name, patches)}")
    queries = TextAudioEncoder.named(encoder, encoder_weights, Recipe.model_validate(base).model.spaces)
    tables = {
        name: figures_of(merged(base, patch), store, out / re.sub(r"\W+", "-", name.lower()), queries)
        for name, patch in patches.items()
        if not only or name in only
    }
    print(compared(tables))
