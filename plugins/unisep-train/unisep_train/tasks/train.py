"""Trains a FiLM HT Demucs from a training store: on a CPU, a GPU, or several of them.

    python -m unisep_train.tasks.train STORE RUN --config recipe.json
    python -m unisep_train.tasks.train STORE RUN            # goes on where RUN stopped
    torchrun --nproc-per-node 8 -m unisep_train.tasks.train STORE RUN --config recipe.json --workers 8

A run folder holds `recipe.json` (frozen when the run starts), `checkpoint.pt` (model, average,
optimiser, step; replaced atomically) and `log.jsonl` (a line every `log_every` steps; `unisep_train.measuring.plot`
draws it). The examples of a step depend on the seed and the step alone, so a resumed run sees what an unbroken one
would have seen, and several processes share the batch that one would have had.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unisep.errors import UnisepError
from unisep_train.data.store import Store
from unisep_train.mixing.encoders import add_encoder, asked_encoder
from unisep_train.mixing.queries import QueryStream, TextAudioEncoder
from unisep_train.tasks.recipe import load_recipe
from unisep_train.tasks.run import Run
from unisep_train.trainer.distributed import joined
from unisep_train.trainer.loop import add_run_arguments, keep_learning


def train(store: str, run: Run, encoder: TextAudioEncoder, stop_after_seconds: float, n_workers: int = 1) -> Run:
    """The run after its last step, or after `stop_after_seconds` with its state saved for another call.

    Raises OptionError when store and model have different sample rates.
    """
    recipe, place = run.recipe, run.place
    Store(store).at_rate(recipe.model.separator.samplerate)
    run.restore()
    place.wait()  # no one saves before all have read
    stream = QueryStream(
        store, recipe.mix, recipe.queries, encoder, seed=recipe.seed, first_step=run.step,
        last_step=recipe.n_steps, absent_from=recipe.absent_from, items=place.share(recipe.mix.batch),
    )  # fmt: skip
    loader = DataLoader(stream, batch_size=None, num_workers=n_workers, prefetch_factor=6 if n_workers else None)
    keep_learning(
        run, loader, run.train_step, audio_seconds=recipe.mix.batch * recipe.mix.segment_seconds,
        stop_after_seconds=stop_after_seconds, shown=by_presence,
    )  # fmt: skip
    return run


def by_presence(figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures of a batch, gains of the targets that are there and levels of those that are not."""
    present = figures["present"] > 0.5
    shown = {name: values for name, values in figures.items() if name != "present"}
    return shown | {"si_sdr_gain_db": shown["si_sdr_gain_db"][present], "level_db": shown["level_db"][~present]}


def main(given: list[str] | None = None) -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser)
    add_encoder(parser)
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    try:
        with joined(args.device) as place:
            if place.is_first:
                load_recipe(args.run, args.config)
            place.wait()
            recipe = load_recipe(args.run, args.config)
            encoder = asked_encoder(args, recipe.model.spaces)
            encoder.load()  # a wrong one is refused here, not by the processes that mix
            train(args.store, Run(recipe, args.run, place), encoder, args.stop_after, args.workers)
    except UnisepError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
