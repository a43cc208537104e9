"""What a run begins with: the weights of an HT Demucs, those of another query model, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, model_validator
from unisep_film.causal import CausalFilm
from unisep_film.checkpoints import from_htdemucs, read_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.checkpoints import build_model, read_checkpoint

from unisep.errors import OptionError


class Start(BaseModel, frozen=True, extra="forbid"):
    """Where the weights of the first step come from; nowhere by default.

    Attributes:
        htdemucs: a checkpoint of HT Demucs (.safetensors or .th). Encoders, transformer and decoders are kept; until
            trained, the target of every query is the mean of its sources.
        film: weights of a FiLM HT Demucs, or of a causal model. A projector of an embedding space they do not know is new.
    """

    htdemucs: Path | None = None
    film: Path | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.htdemucs and self.film:
            raise ValueError("start from `htdemucs` or from `film`, not from both")
        return self


def model_at_start(start: Start, shape: dict[str, Any]) -> dict[str, Any]:
    """Complete the fields of the model's config that a recipe names with those of the weights it starts from.

    Raises:
        OptionError: the recipe asks for another shape.
        WeightsError: the weights cannot be read.
    """
    if (path := start.film or start.htdemucs) is None:
        return shape
    free = {"spaces"} if start.film else {"spaces", "condition_channels"}
    if fixed := set(shape) - free:
        raise OptionError(
            f"The recipe starts from weights, which fix the model's {', '.join(sorted(fixed))}. Leave that out; only "
            f"{', '.join(sorted(free))} can be chosen there."
        )
    if start.film:
        return read_model(path).config.model_dump() | shape
    if "spaces" not in shape:
        raise OptionError('A start from HT Demucs needs model.spaces: {"<embedding space>": <length of vectors>}.')
    return _around_htdemucs(path, FilmConfig.model_validate(shape)).config.model_dump()


@torch.no_grad()
def begin(model: FilmHTDemucs | CausalFilm, start: Start) -> None:
    """Give the model the weights it starts from; without any it stays as it was made."""
    if start.htdemucs is not None:
        assert isinstance(model, FilmHTDemucs)
        model.load_state_dict(_around_htdemucs(start.htdemucs, model.config).state_dict())
    elif start.film is not None:
        _continue(model, read_model(start.film))


def _around_htdemucs(checkpoint: Path, shape: FilmConfig) -> FilmHTDemucs:
    separator = build_model(read_checkpoint(checkpoint), torch.device("cpu"), torch.float32)
    return from_htdemucs(separator, dict(shape.spaces), shape.condition_channels)


def _continue(model: FilmHTDemucs | CausalFilm, donor: FilmHTDemucs | CausalFilm) -> None:
    """Copy all of `donor`, but projectors only of the spaces that both know. Raises OptionError for another shape."""
    if donor.config.model_copy(update={"spaces": model.config.spaces}) != model.config:
        raise OptionError(
            "The model in `start.film` has another shape than the recipe's. Bring the file it was read from."
        )
    own, given = (each.state_dict().items() for each in (model, donor))
    projectors = {name: value for name, value in own if name.startswith("projectors.")}
    model.load_state_dict(projectors | {name: value for name, value in given if not name.startswith("projectors.")})
    for space in set(model.config.spaces) & set(donor.config.spaces):
        model.projectors.of(space).load_state_dict(donor.projectors.of(space).state_dict())
