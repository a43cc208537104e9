"""A training run: model, its running average, optimiser and step, saved together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from unisep_htdemucs.kernels import computes_bfloat16

from unisep_film.model import FilmHTDemucs

from .distributed import Place
from .losses import separation_loss
from .queries import TrainingBatch
from .recipe import Recipe
from .schedule import learning_rate, set_stage, trains_separator
from .start import begin

CHECKPOINT_FILE = "checkpoint.pt"
ALONE = Place()
Change = Callable[[FilmHTDemucs], FilmHTDemucs]


class Asked(nn.Module):
    """The model with query vectors as its input: what a process computes and differentiates in one step."""

    def __init__(self, model: FilmHTDemucs, space: str) -> None:
        super().__init__()
        self.model, self.space = model, space

    def forward(self, mixture: Tensor, queries: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Targets `[b, c, l]` and presence `[b]` in log-odds, of `mixture [b, c, l]`, `queries` and `negatives [b, d]`."""
        conditions = self.model.conditions(queries[:, None], self.space, negatives[:, None])
        targets, logits = self.model(mixture, conditions)
        return targets[:, 0], logits[:, 0]


class Run:
    """A training run in this process; `place` says which share of it is computed here."""

    def __init__(
        self, recipe: Recipe, folder: Path, place: Place = ALONE, change: Change | None = None
    ) -> None:
        """The run in `folder`; `change` alters the new model, for experiments."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.place = recipe, folder, place
        model = FilmHTDemucs(recipe.model)
        self.model = (change(model) if change else model).to(place.device)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0
        self._asked: nn.Module | None = None
        self._with_separator = True

    def train_step(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """One update; returns the parts of the loss for the log."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        batch = batch.to(self.place.device)
        asked = self._asked_now()
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self._in_bfloat16()):
            estimate, logits = asked(batch.mixture, batch.queries, batch.negatives)
        loss, parts = separation_loss(
            estimate, batch.target, batch.mixture, logits, batch.present, self.recipe.losses
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self._follow()
        self.step += 1
        return {**parts, "loss": loss.detach(), "norm": norm}

    def _in_bfloat16(self) -> bool:
        """Whether the recipe's bfloat16 is used: not on a CPU that would only imitate it, a hundred times slower."""
        return self.recipe.bfloat16 and (self.place.device.type != "cpu" or computes_bfloat16())

    def _asked_now(self) -> nn.Module:
        """The differentiated module; made again when another set of parameters is to be trained."""
        with_separator = trains_separator(self.recipe, self.step)
        if self._asked is None or with_separator != self._with_separator:
            self._with_separator = with_separator
            set_stage(self.model, with_separator)
            self._asked = self.place.averaging(Asked(self.model, self.recipe.space))
        return self._asked

    def save(self) -> None:
        """Replace the checkpoint, whole or not at all. Only the first process writes."""
        if not self.place.is_first:
            return
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / f"{CHECKPOINT_FILE}.part"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT_FILE)

    def restore(self) -> None:
        """Go on from the folder's checkpoint; without one, begin with the weights the recipe names."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            begin(self.model, self.recipe.start)
            self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
            return
        state = torch.load(path, weights_only=True, map_location=self.place.device)
        self.step, self.average = state["step"], state["average"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model, faster at first so that it forgets the start."""
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
