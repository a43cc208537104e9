"""Trains a FiLM HT Demucs from a training store: on a CPU, a GPU, or several of them.

    python -m unisep_film.training.train STORE RUN --config recipe.json
    python -m unisep_film.training.train STORE RUN            # goes on where RUN stopped
    torchrun --nproc-per-node 8 -m unisep_film.training.train STORE RUN --config recipe.json --workers 8

A run folder holds `recipe.json` (frozen when the run starts), `checkpoint.pt` (model, average,
optimiser, step; replaced atomically) and `log.jsonl` (a line every `log_every` steps; `unisep_film.training.plot`
draws it). The examples of a step depend on the seed and the step alone, so a resumed run sees what an unbroken one
would have seen, and several processes share the batch that one would have had.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unisep.errors import UnisepError

from .distributed import joined
from .encoders import EMBEDDED, load_encoder
from .queries import QueryStream, TextAudioEncoder
from .recipe import Recipe, load_recipe
from .run import Run
from .schedule import learning_rate

__all__ = ["Recipe", "Run", "learning_rate", "load_recipe", "mini_encoder", "train"]


def train(
    store: str, run: Run, encoder: TextAudioEncoder, stop_after_seconds: float, n_workers: int = 1
) -> Run:
    """The run after its last step, or after `stop_after_seconds` with its state saved for another call."""
    recipe, place = run.recipe, run.place
    run.restore()
    place.wait()  # no one saves before all have read
    stream = QueryStream(
        store, recipe.mix, recipe.queries, encoder, seed=recipe.seed, first_step=run.step,
        last_step=recipe.n_steps, absent_from=recipe.absent_from, items=place.share(recipe.mix.batch),
    )  # fmt: skip
    loader = DataLoader(stream, batch_size=None, num_workers=n_workers, prefetch_factor=6)
    seen: dict[str, list[Tensor]] = defaultdict(list)
    started = logged = time.monotonic()
    for batch in loader:
        for name, value in run.train_step(batch).items():
            seen[name].append(value.reshape(-1))
        seen["present"].append(batch.present)
        if run.step % recipe.log_every == 0:
            now = time.monotonic()
            _log(run, seen, audio_seconds_per_second(recipe, now - logged))
            logged = now
            seen.clear()
        if run.step % recipe.save_every == 0:
            run.save()
        if stop_after_seconds < math.inf and place.agreed(time.monotonic() - started > stop_after_seconds):
            break
    run.save()
    place.wait()
    return run


def audio_seconds_per_second(recipe: Recipe, seconds: float) -> float:
    """Mixtures seen in `log_every` steps, in seconds of audio, for each second of wall time."""
    return recipe.log_every * recipe.mix.batch * recipe.mix.segment_seconds / max(seconds, 1e-9)


def _log(run: Run, seen: dict[str, list[Tensor]], speed: float) -> None:
    """Write one line of what all processes have seen: medians of decibels, means of all else."""
    values = run.place.gathered({name: torch.cat(parts) for name, parts in seen.items()})
    present = values.pop("present") > 0.5
    values["si_sdr_gain_db"], values["level_db"] = (
        values["si_sdr_gain_db"][present],
        values["level_db"][~present],
    )
    line: dict[str, Any] = {"step": run.step, "audio_seconds_per_second": round(speed, 1)}
    for name, joined_values in values.items():
        if joined_values.numel():
            middle = joined_values.median() if name.endswith("_db") else joined_values.mean()
            line[name] = round(float(middle), 3)
    if run.place.is_first:
        with (run.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def mini_encoder() -> object:
    """The embedded query encoder."""
    from unisep_clap.mini import load_mini

    return load_mini()


def arguments_of_main(given: list[str] | None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="folder made by unisep_film.training.corpus")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--config", type=Path, help="recipe (JSON) for a new run")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads a process")
    parser.add_argument("--workers", type=int, default=1, help="mixing processes for each training process")
    parser.add_argument(
        "--encoder", default=EMBEDDED, metavar="MODULE:FUNCTION", help="loads the query encoder"
    )
    parser.add_argument("--encoder-weights", type=Path, help="its weights, if not its own")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="SECONDS")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Train from the command line."""
    args = arguments_of_main(given)
    torch.set_num_threads(args.threads)
    try:
        with joined(args.device) as place:
            if place.is_first:
                load_recipe(args.run, args.config)
            place.wait()
            recipe = load_recipe(args.run, args.config)
            load = partial(load_encoder, args.encoder, args.encoder_weights, dict(recipe.model.spaces))
            run = Run(recipe, args.run, place)
            train(args.store, run, TextAudioEncoder(load), args.stop_after, args.workers)
    except UnisepError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
