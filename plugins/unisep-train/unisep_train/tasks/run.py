"""A training run of a FiLM HT Demucs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from unisep_film.model import FilmHTDemucs

from unisep_train.mixing.queries import TrainingBatch
from unisep_train.tasks.recipe import Recipe
from unisep_train.tasks.start import begin
from unisep_train.tasks.teacher import answers, load_teacher, taught_loss
from unisep_train.trainer.distributed import Place
from unisep_train.trainer.learner import ALONE, Learner
from unisep_train.trainer.losses import separation_loss

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


class Run(Learner[FilmHTDemucs]):
    """A training run in this process; `place` says which share of it is computed here."""

    def __init__(self, recipe: Recipe, folder: Path, place: Place = ALONE, change: Change | None = None) -> None:
        """The run in `folder`; `change` alters the new model, for experiments."""
        torch.manual_seed(recipe.seed)
        model = FilmHTDemucs(recipe.model)
        super().__init__(change(model) if change else model, recipe, folder, place)
        self.recipe = recipe
        self._asked: nn.Module | None = None
        self._with_separator = True

    def train_step(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """One update; returns the parts of the loss, and which targets were there, for the log."""
        batch = batch.to(self.place.device)
        asked = self._asked_now()
        with self.in_bfloat16:
            estimate, logits = asked(batch.mixture, batch.queries, batch.negatives)
        loss, parts = separation_loss(estimate, batch.target, batch.mixture, logits, batch.present, self.recipe.losses)
        if (teacher := self.recipe.teacher) is not None:
            said = answers(self.taught_by, batch, self.recipe.space)
            taught, figures = taught_loss(estimate, logits, said, batch.mixture, teacher, self.recipe.losses)
            loss, parts = teacher.share * taught + (1 - teacher.share) * loss, {**parts, **figures}
        return {**parts, "norm": self.learn(loss), "loss": loss.detach(), "present": batch.present}

    @cached_property
    def taught_by(self) -> FilmHTDemucs:
        """The recipe's teacher, read when the first step asks it: a finished run does not need it."""
        recipe = self.recipe
        assert recipe.teacher is not None
        return load_teacher(recipe.teacher, recipe.model, recipe.mix.segment_seconds, self.place.device)

    def begin(self) -> None:
        """Give the model the weights that the recipe names."""
        begin(self.model, self.recipe.start)

    def _asked_now(self) -> nn.Module:
        """The differentiated module; made again when the separator under the query is to be trained too."""
        with_separator = self.step >= self.recipe.conditioning_steps
        if self._asked is None or with_separator != self._with_separator:
            self._with_separator = with_separator
            self.model.core.requires_grad_(with_separator)
            self._asked = self.place.averaging(Asked(self.model, self.recipe.space))
        return self._asked
