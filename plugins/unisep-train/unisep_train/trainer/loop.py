"""What every run goes through, whatever it learns: steps, a line in the log, the checkpoint, an early stop."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from unisep_train.trainer.learner import Learner

BatchT = TypeVar("BatchT")
Figures = dict[str, Tensor]


def keep_learning(
    run: Learner[Any],
    batches: Iterable[BatchT],
    train_step: Callable[[BatchT], Figures],
    *,
    audio_seconds: float,
    stop_after_seconds: float = math.inf,
    shown: Callable[[Figures], Figures] = dict,
) -> None:
    """Nothing; the run learns from all `batches`, or stops after some time with its state saved for another call.

    train_step: one update; returns figures, `[items]` or a single one each.
    audio_seconds: in a batch of all processes together, for the speed in the log.
    shown: what becomes of the figures of all processes since the last line before they are written.
    """
    pace, place = run.pace, run.place
    seen: dict[str, list[Tensor]] = defaultdict(list)
    started = logged = time.monotonic()
    if run.step >= pace.n_steps and place.is_first:
        print(f"{run.folder} has done all {pace.n_steps} steps of its recipe.", file=sys.stderr)
    for batch in batches:
        for name, value in train_step(batch).items():
            seen[name].append(value.reshape(-1))
        if run.step % pace.log_every == 0:
            now = time.monotonic()
            figures = shown(place.gathered({name: torch.cat(parts) for name, parts in seen.items()}))
            _log(run, figures, pace.log_every * audio_seconds / max(now - logged, 1e-9))
            logged = now
            seen.clear()
        if run.step % pace.save_every == 0:
            run.save()
        if stop_after_seconds < math.inf and place.agreed(time.monotonic() - started > stop_after_seconds):
            break
    run.save()
    place.wait()


def _log(run: Learner[Any], figures: Figures, speed: float) -> None:
    """Write one line: medians of decibels, means of all else."""
    if not run.place.is_first:
        return
    line: dict[str, Any] = {"step": run.step, "audio_seconds_per_second": round(speed, 1)}
    for name, values in figures.items():
        if values.numel():
            middle = values.median() if name.endswith("_db") else values.mean()
            line[name] = round(float(middle), 4)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every run takes: its store, its folder, and how it is computed."""
    parser.add_argument("store", help="folder made by unisep_train.data.corpus")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--config", type=Path, help="recipe (JSON) for a new run")
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="what trains (%(default)s: a GPU, if there is one)",
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads a process (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="mixing processes for each training process (%(default)s)"
    )
    parser.add_argument(
        "--stop-after",
        type=float,
        default=math.inf,
        metavar="SECONDS",
        help="save and end after so long; another call goes on",
    )
