"""What every run goes through, whatever it learns: steps, a line in the log, the checkpoint, an early stop.

A run is a folder with a recipe (`recipe.json`), a log (`log.jsonl`, which `plot` draws) and a checkpoint (`checkpoint.pt`).
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from unisep_htdemucs.kernels import computes_bfloat16

from unisep_train.data.store import Store
from unisep_train.mixing.queries import StepStream
from unisep_train.trainer.distributed import Place, joined
from unisep_train.trainer.muon import Muon
from unisep_train.trainer.recipe import CHECKPOINT_FILE, BaseRecipe

ALONE = Place()
ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT")
RecipeT = TypeVar("RecipeT", bound=BaseRecipe)
Figures = dict[str, Tensor]
Device = Literal["auto", "cpu", "cuda"]
LOG_FILE = "log.jsonl"
N_THREADS = torch.get_num_threads()


class Learner(ABC, Generic[ModelT, BatchT]):
    """A model that learns, with its running average, its optimiser and its step; saved and resumed as one.

    `place` says which share of the run is computed in this process.
    """

    adamw: ClassVar[dict[str, Any]] = {"betas": (0.9, 0.98), "fused": True}

    def __init__(self, model: ModelT, recipe: BaseRecipe, folder: Path, place: Place = ALONE) -> None:
        self.recipe, self.folder, self.place = recipe, folder, place
        self.model = model.to(place.device)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, **self.adamw}
        is_muon = recipe.optimizer == "muon"
        self.optimizer: torch.optim.AdamW = (
            Muon(self.model, **settings) if is_muon else torch.optim.AdamW(self.model.parameters(), **settings)
        )
        self.step = 0

    @abstractmethod
    def train_step(self, batch: BatchT) -> Figures:
        """Make one update with `learn`; return figures for the log, `[items]` or a single one each."""

    def shown(self, figures: Figures) -> Figures:
        """Choose what the log says of the figures of all processes since its last line."""
        return figures

    @property
    def in_bfloat16(self) -> torch.autocast:
        """A block whose products are in bfloat16: not on a CPU that would imitate it, a hundred times slower."""
        device = self.place.device.type
        is_fast = device != "cpu" or computes_bfloat16()
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.bfloat16 and is_fast)

    def learn(self, loss: Tensor) -> Tensor:
        """Update the model against `loss`, and its average; return the gradient's norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        decay = self.recipe.average_decay_at(self.step)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:  # a counter
                    self.average[name].copy_(value)
        self.step += 1
        return norm

    def save(self) -> None:
        """Replace the checkpoint, whole or not at all. Only the first process writes."""
        if not self.place.is_first:
            return
        state = {
            "step": self.step, "model": self.model.state_dict(), "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        partial = self.folder / f"{CHECKPOINT_FILE}.part"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT_FILE)

    def begin(self) -> None:
        """Give a run without a checkpoint the weights it starts from: by default those it was made with."""

    def restore(self) -> None:
        """Go on from the folder's checkpoint; without one, `begin`. All processes have read it when this returns."""
        path = self.folder / CHECKPOINT_FILE
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.place.device)
            self.step, self.average = state["step"], state["average"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            self.begin()
            self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.place.wait()

    def averaged(self) -> ModelT:
        """Return a copy of the model with its running average, in evaluation mode."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average)
        return model.eval()

    def learn_all(
        self, batches: Iterator[BatchT], audio_seconds: float = 0, stop_after_seconds: float = math.inf
    ) -> ModelT:
        """Learn until the last step of the recipe from batches that each call draws alike; return the running average.

        What an earlier call has learnt from is drawn again, and left out.
        """
        self.restore()
        keep_learning(self, islice(batches, self.step, self.recipe.n_steps), audio_seconds, stop_after_seconds)
        return self.averaged()


def keep_learning(
    run: Learner[Any, BatchT], batches: Iterable[BatchT], audio_seconds: float = 0, stop_after_seconds: float = math.inf
) -> None:
    """Learn from all batches, or stop after some time with the state saved for another call.

    `batches` begin at the run's step; `audio_seconds` are in one of all processes together, for the speed in the log.
    """
    recipe, place = run.recipe, run.place
    seen: dict[str, list[Tensor]] = defaultdict(list)
    started = logged = time.monotonic()
    if run.step >= recipe.n_steps and place.is_first:
        print(f"{run.folder} has done all {recipe.n_steps} steps of its recipe.", file=sys.stderr)
    for batch in batches:
        for name, value in run.train_step(batch).items():
            seen[name].append(value.reshape(-1))
        if run.step % recipe.log_every == 0:
            figures = place.gathered({name: torch.cat(parts) for name, parts in seen.items()})
            now = time.monotonic()
            if place.is_first:
                _log(run, figures, recipe.log_every * audio_seconds / max(now - logged, 1e-9))
            logged = now
            seen.clear()
        if run.step % recipe.save_every == 0:
            run.save()
        if stop_after_seconds < math.inf and place.agreed(time.monotonic() - started > stop_after_seconds):
            break
    run.save()
    place.wait()


def _log(run: Learner[Any, Any], figures: Figures, speed: float) -> None:
    """Write one line: medians of decibels, means of all else."""
    line: dict[str, Any] = {"step": run.step} | ({"audio_seconds_per_second": round(speed, 1)} if speed else {})
    for name, values in run.shown(figures).items():
        if values.numel():
            middle = values.median() if name.endswith("_db") else values.mean()
            line[name] = round(float(middle), 4)
    with (run.folder / LOG_FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def learn_from(
    run: Learner[Any, BatchT], stream: StepStream[BatchT], rate_hz: int, stop_after_seconds: float, n_workers: int
) -> None:
    """Learn the steps that are left from a stream that so many processes mix; with 0 it is mixed in this one.

    Raises:
        OptionError: the store is not at the model's rate, or the processes cannot share a batch evenly.
    """
    Store(stream.store).at_rate(rate_hz)
    run.restore()
    steps, items = range(run.step, run.recipe.n_steps), run.place.share(stream.mix.batch)
    left = replace(stream, steps=steps, items=items)
    loader = DataLoader(left, batch_size=None, num_workers=n_workers, prefetch_factor=6 if n_workers else None)
    keep_learning(run, loader, stream.mix.batch_seconds, stop_after_seconds)


@contextmanager
def begun(
    kind: type[RecipeT], folder: Path, config: Path | None, device: Device, threads: int
) -> Iterator[tuple[RecipeT, Place]]:
    """Join the other processes of the run in `folder`; give its recipe, which may be a new one, and this one's place."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # gradients of what changes next to nothing fall below 1e-38, where a CPU is slow
    try:
        with joined(device) as place:
            if place.is_first:
                kind.of_run(folder, config)
            place.wait()
            yield kind.of_run(folder, config), place
    finally:
        torch.set_flush_denormal(False)
