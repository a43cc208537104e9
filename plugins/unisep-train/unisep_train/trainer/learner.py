"""A model that learns: with its running average, its optimiser and its step, saved and resumed as one."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from unisep_htdemucs.kernels import computes_bfloat16

from unisep_train.trainer.distributed import Place
from unisep_train.trainer.kept import CHECKPOINT_FILE
from unisep_train.trainer.pace import Pace

ALONE = Place()
ModelT = TypeVar("ModelT", bound=nn.Module)


class Learner(Generic[ModelT]):
    """What a run changes in this process; `place` says which share of it is computed here."""

    def __init__(self, model: ModelT, pace: Pace, folder: Path, place: Place = ALONE) -> None:
        self.pace, self.folder, self.place = pace, folder, place
        self.model = model.to(place.device)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=pace.learning_rate,
            weight_decay=pace.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0

    @property
    def in_bfloat16(self) -> torch.autocast:
        """A block whose products are in bfloat16: not on a CPU that would imitate it, a hundred times slower."""
        device = self.place.device.type
        return torch.autocast(
            device, torch.bfloat16, enabled=self.pace.bfloat16 and (device != "cpu" or computes_bfloat16())
        )

    def learn(self, loss: Tensor) -> Tensor:
        """The gradient's norm, after one update against `loss` at the rate of this step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.pace.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.pace.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self._follow()
        self.step += 1
        return norm

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

    def begin(self) -> None:
        """Give a run without a checkpoint what it starts with; nothing, by default."""

    def restore(self) -> None:
        """Go on from the folder's checkpoint; without one, `begin`."""
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            self.begin()
            self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
            return
        state = torch.load(path, weights_only=True, map_location=self.place.device)
        self.step, self.average = state["step"], state["average"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model, faster at first so that it forgets the start."""
        decay = min(self.pace.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
