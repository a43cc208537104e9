"""What a run begins with: the weights of an HT Demucs, those of another FiLM model, or nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, model_validator
from unisep_film.checkpoints import from_htdemucs, load_model
from unisep_film.config import FilmConfig
from unisep_film.model import N_BRANCHES, FilmHTDemucs
from unisep_htdemucs.checkpoints import build_model, read_checkpoint

from unisep.errors import OptionError

# What a recipe may set of a model that starts from HT Demucs, of one that starts from a FiLM model, and of its `demucs`.
OF_HTDEMUCS, OF_FILM = frozenset({"spaces", "condition_channels"}), frozenset({"spaces", "demucs"})
GROWING = frozenset({"demucs.t_layers", "demucs.dconv_mode", "demucs.dconv_comp", "demucs.dconv_depth"})


class Start(BaseModel, frozen=True, extra="forbid"):
    """Where the weights of the first step come from; nowhere by default.

    Attributes:
        htdemucs: a checkpoint of HT Demucs (.safetensors or .th). Encoders, transformer and decoders are kept; until
            trained, the target of every query is the mean of its sources.
        film: weights of a FiLM HT Demucs. A projector of an embedding space they do not know is new, and so are the
            layers of a transformer with more of them and residual branches (`dconv_mode`) where they had none; both
            change next to nothing until they are trained.
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
    if start.film is not None:
        old, changes = load_model(start.film), shape.get("demucs", {})
        _refuse(set(shape) - OF_FILM, OF_FILM)
        _refuse({f"demucs.{name}" for name in changes} - GROWING if isinstance(changes, dict) else {"demucs"}, GROWING)
        config = FilmConfig(**old.config.model_dump() | shape | {"demucs": old.config.demucs | changes})
        _continue(FilmHTDemucs(config), old)
        return config.model_dump()
    if start.htdemucs is not None:
        _refuse(set(shape) - OF_HTDEMUCS, OF_HTDEMUCS)
        if "spaces" not in shape:
            raise OptionError('A start from HT Demucs needs model.spaces: {"<embedding space>": <length of vectors>}.')
        return _around_htdemucs(start.htdemucs, FilmConfig.model_validate(shape)).config.model_dump()
    return shape


def _refuse(fixed: set[str], free: frozenset[str]) -> None:
    if fixed:
        raise OptionError(
            f"The recipe starts from weights, which fix the model's {', '.join(sorted(fixed))}. Leave that out; only "
            f"{', '.join(sorted(free))} can be chosen there."
        )


@torch.no_grad()
def begin(model: FilmHTDemucs, start: Start) -> None:
    """Give the model the weights it starts from; without any it stays as it was made."""
    if start.htdemucs is not None:
        model.load_state_dict(_around_htdemucs(start.htdemucs, model.config).state_dict())
    elif start.film is not None:
        _continue(model, load_model(start.film))


def _around_htdemucs(checkpoint: Path, shape: FilmConfig) -> FilmHTDemucs:
    separator = build_model(read_checkpoint(checkpoint), torch.device("cpu"), torch.float32)
    return from_htdemucs(separator, dict(shape.spaces), shape.condition_channels)


def _continue(model: FilmHTDemucs, donor: FilmHTDemucs) -> None:
    """Copy all of `donor`, but projectors only of the spaces that both know; what it lacks starts as the identity.

    Transformer layers that it lacks come before its last. Raises OptionError where something of it finds no place.
    """
    old, state = donor.config.separator, model.state_dict()
    n_new = model.config.separator.t_layers - old.t_layers
    copied = {
        _moved(name, old.t_layers - 1, n_new): value
        for name, value in donor.state_dict().items()
        if not name.startswith("projectors.")
    }
    has_place = all(name in state and state[name].shape == value.shape for name, value in copied.items())
    if not has_place or (n_new and not old.t_layer_scale):
        raise OptionError(
            "The model in `start.film` cannot become the recipe's: a transformer with LayerScales can get two more layers, "
            "or four, and so on (demucs.t_layers), and a model without residual branches can get some (demucs.dconv_mode: "
            "1 in the encoders, 2 in the decoder, 3 in both). Nothing can be taken away or change its shape."
        )
    new = {name: value for name, value in state.items() if name not in copied}
    new |= {name: torch.zeros_like(value) for name, value in new.items() if name.endswith(".scale")}  # LayerScales
    model.load_state_dict(new | copied)
    for space in set(model.config.spaces) & set(donor.config.spaces):
        model.projectors.of(space).load_state_dict(donor.projectors.of(space).state_dict())


def _moved(name: str, last: int, n_new: int) -> str:
    """Return a parameter's name in a transformer with `n_new` layers before the `last`; FiLMs after a layer go with it."""
    layer = re.fullmatch(r"(.*crosstransformer\.layers(?:_t)?\.)(\d+)(\..*)", name)
    if layer and int(layer[2]) == last:
        return f"{layer[1]}{last + n_new}{layer[3]}"
    film = re.fullmatch(r"film_tokens\.(\d+)(\..*)", name)
    if film and int(film[1]) // N_BRANCHES == last:
        return f"film_tokens.{int(film[1]) + N_BRANCHES * n_new}{film[2]}"
    return name
