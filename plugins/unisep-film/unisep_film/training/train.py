"""Trains a FiLM HT Demucs from a training store.

    python -m unisep_film.training.train STORE RUN --config recipe.json
    python -m unisep_film.training.train STORE RUN            # goes on where RUN stopped

A run folder holds `recipe.json` (frozen when the run starts), `checkpoint.pt` (model, average,
optimiser, step; replaced atomically) and `log.jsonl` (a line every `log_every` steps). The examples of a
step depend on the seed and the step alone, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader

from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs

from .losses import LossWeights, separation_loss
from .mixing import MixConfig
from .queries import QueryMix, QueryStream, TextAudioEncoder, TrainingBatch


class Recipe(BaseModel):
    """All that decides what a run learns; saved beside its checkpoint and never changed after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: FilmConfig
    mix: MixConfig = MixConfig()
    queries: QueryMix = QueryMix()
    losses: LossWeights = LossWeights()
    n_steps: PositiveInt
    warmup_steps: PositiveInt = 100
    learning_rate: PositiveFloat = 1.5e-3
    weight_decay: float = 0.01
    clip_norm: PositiveFloat = 5.0
    average_decay: float = 0.999
    decay_share: float = 0.3  # share of the run, at its end, in which the learning rate falls to zero
    absent_from: int = (
        1500  # step from which a queried sound may be absent: a model that knows nothing falls silent
    )
    bfloat16: bool = True
    seed: int = 0
    log_every: PositiveInt = 25
    save_every: PositiveInt = 250


class Run:
    """A training run: model, its running average, optimiser and step, saved together."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder = recipe, folder
        self.model = FilmHTDemucs(recipe.model)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
        )
        self.step = 0

    def train_step(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """One update; returns the parts of the loss for the log."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        (space,) = self.recipe.model.spaces
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            conditions = self.model.conditions(batch.queries[:, None], space)
            estimate, logits = self.model(batch.mixture, conditions)
        loss, parts = separation_loss(
            estimate[:, 0], batch.target, batch.mixture, logits[:, 0], batch.present, self.recipe.losses
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self._follow()
        self.step += 1
        return {**parts, "loss": loss.detach(), "norm": norm}

    def save(self) -> None:
        """Replace the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / "checkpoint.pt.part"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step, self.average = state["step"], state["average"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model, faster at first so that it forgets the start."""
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero; what precedes the fall is the same for any `n_steps`."""
    rise = (step + 1) / recipe.warmup_steps
    fall = (recipe.n_steps - step) / max(1.0, recipe.decay_share * recipe.n_steps)
    return recipe.learning_rate * min(1.0, rise, fall)


def train(
    store: str, folder: Path, recipe: Recipe, encoder: TextAudioEncoder, stop_after_seconds: float
) -> Run:
    """The run after its last step, or after `stop_after_seconds` with its state saved for another call."""
    run = Run(recipe, folder)
    run.restore()
    stream = QueryStream(
        store, recipe.mix, recipe.queries, encoder, seed=recipe.seed, first_step=run.step,
        last_step=recipe.n_steps, absent_from=recipe.absent_from,
    )  # fmt: skip
    loader = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6)
    seen: dict[str, list[Tensor]] = defaultdict(list)
    started = logged = time.monotonic()
    for batch in loader:
        for name, value in run.train_step(batch).items():
            shown = value[batch.present > 0.5] if name == "si_sdr_gain_db" else value
            seen[name].append(shown[batch.present < 0.5] if name == "level_db" else shown)
        if run.step % recipe.log_every == 0:
            now = time.monotonic()
            _log(folder, run, seen, audio_seconds_per_second(recipe, now - logged))
            logged = now
            seen.clear()
        if run.step % recipe.save_every == 0:
            run.save()
        if time.monotonic() - started > stop_after_seconds:
            break
    run.save()
    return run


def audio_seconds_per_second(recipe: Recipe, seconds: float) -> float:
    """Mixtures seen in `log_every` steps, in seconds of audio, for each second of wall time."""
    return recipe.log_every * recipe.mix.batch * recipe.mix.segment_seconds / max(seconds, 1e-9)


def _log(folder: Path, run: Run, seen: dict[str, list[Tensor]], speed: float) -> None:
    line: dict[str, Any] = {"step": run.step, "audio_seconds_per_second": round(speed, 1)}
    for name, values in seen.items():
        joined = torch.cat([v.reshape(-1).float() for v in values])
        if joined.numel():
            line[name] = round(float(joined.median() if name.endswith("_db") else joined.mean()), 3)
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def load_recipe(folder: Path, given: Path | None) -> Recipe:
    """The run's own recipe if it has one, else the given one, which is then the run's."""
    own = folder / "recipe.json"
    if not own.exists():
        if given is None:
            raise SystemExit(f"{folder} holds no run yet: give --config with a recipe to start one.")
        folder.mkdir(parents=True, exist_ok=True)
        own.write_text(Recipe.model_validate_json(given.read_text()).model_dump_json(indent=1))
    return Recipe.model_validate_json(own.read_text())


def mini_encoder() -> object:
    """The embedded query encoder."""
    from unisep_clap.mini import load_mini

    return load_mini()


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train a FiLM HT Demucs from a training store.")
    parser.add_argument("store", help="folder made by unisep_film.training.corpus")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--config", type=Path, help="recipe (JSON) for a new run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="SECONDS")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = load_recipe(args.run, args.config)
    train(args.store, args.run, recipe, TextAudioEncoder(mini_encoder), args.stop_after)


if __name__ == "__main__":
    main()
