"""The recipe of a run: read from a file when the run begins, then kept beside its checkpoint and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from unisep.errors import OptionError, UnisepError, reasons
from unisep.files.paths import write_whole

RECIPE_FILE = "recipe.json"
CHECKPOINT_FILE = "checkpoint.pt"


class BaseRecipe(BaseModel):
    """What every task decides: length and learning rate of a run, and what its optimiser does.

    Attributes:
        decay_share: share of the run, at its end, in which the learning rate falls to zero.
        optimizer: muon orthogonalises the updates of matrices, and leaves the rest to AdamW.
        average_decay: of the running average of the parameters, which is what a run is for.
        bfloat16: compute products in it, where the device does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: PositiveInt
    warmup_steps: PositiveInt = 100
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 1.5e-3
    weight_decay: float = 0.01
    clip_norm: PositiveFloat = 5.0
    average_decay: float = 0.999
    decay_share: float = 0.3
    bfloat16: bool = True
    seed: int = 0
    log_every: PositiveInt = 25
    save_every: PositiveInt = 250

    def learning_rate_at(self, step: int) -> float:
        """Rise linearly, stay, fall linearly to zero; what precedes the fall is the same for any `n_steps`."""
        rise = (step + 1) / self.warmup_steps
        fall = (self.n_steps - step) / max(1.0, self.decay_share * self.n_steps)
        return self.learning_rate * min(1.0, rise, fall)

    def average_decay_at(self, step: int) -> float:
        """Return how much of the running average stays: less at first, so that it forgets the start."""
        return min(self.average_decay, (1 + step) / (10 + step))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe as a person writes it. Tasks complete here what a file may leave out."""
        return cls.model_validate_json(path.read_bytes())

    @classmethod
    def of_run(cls, folder: Path, path: Path | None = None) -> Self:
        """Return the recipe of the run in `folder`: the one at `path`, if any, else the run's own.

        Raises:
            OptionError: there is none, it cannot be understood, or the run has begun with another.
        """
        kept = folder / RECIPE_FILE
        if path is None and not kept.exists():
            raise OptionError(f"{folder} holds no run yet: give --config with a recipe to start one.")
        try:
            return cls.model_validate_json(kept.read_bytes()) if path is None else cls.read(path).kept_in(folder)
        except UnisepError:
            raise
        except ValidationError as error:
            raise OptionError(f"{path or kept} cannot be read as a recipe: {reasons(error)}.") from error
        except (OSError, ValueError) as error:
            raise OptionError(f"{path or kept} cannot be read as a recipe: {error}") from error

    def kept_in(self, folder: Path) -> Self:
        """Keep the recipe as that of the run in `folder`, and return it.

        Raises:
            OptionError: the run has saved a step with another one, or its own cannot be understood.
        """
        begun = self.of_run(folder) if (folder / RECIPE_FILE).exists() else None
        if self == begun:
            return self
        if begun is not None and (folder / CHECKPOINT_FILE).exists():
            fields = [name for name in type(self).model_fields if getattr(self, name) != getattr(begun, name)]
            raise OptionError(
                f"{folder} has begun with a recipe of its own, and this one differs in {', '.join(fields)}. Leave out "
                "--config, or give what it began with, to go on; or take another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE_FILE, self.model_dump_json(indent=1).encode())
        return self
