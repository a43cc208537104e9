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

OF_THE_QUERY = frozenset({"spaces", "condition_channels"})  # what a recipe may set of a model it starts from
OF_BRANCHES = frozenset({"dconv_comp", "dconv_depth"})  # free where the old model has no residual branches
GROWING = OF_BRANCHES | {"t_layers", "dconv_mode"}


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
    if start.htdemucs is None and start.film is None:
        return shape
    growing, changes = {}, shape.get("demucs", {})
    if start.film is not None and isinstance(changes, dict) and set(changes) <= GROWING:
        growing = changes
        shape = {name: value for name, value in shape.items() if name != "demucs"}
    fixed = sorted(set(shape) - OF_THE_QUERY)
    if fixed:
        raise OptionError(
            f"The recipe starts from weights, which fix the model's {fixed}. "
            f"Leave these out; only {' and '.join(sorted(OF_THE_QUERY))} can be chosen, and with a start from `film` "
            f"demucs.{', demucs.'.join(sorted(GROWING))}."
        )
    if start.film is not None:
        if "condition_channels" in shape:
            raise OptionError("The weights in `start.film` fix condition_channels. Leave it out.")
        old = load_model(start.film).config
        _check_growth(old, growing)
        return old.model_dump() | {"demucs": old.demucs | growing} | shape
    if "spaces" not in shape:
        raise OptionError('A start from HT Demucs needs model.spaces: {"<embedding space>": <length of vectors>}.')
    return _around_htdemucs(start, FilmConfig.model_validate(shape)).config.model_dump()


@torch.no_grad()
def begin(model: FilmHTDemucs, start: Start) -> None:
    """Give the model the weights it starts from; without any it stays as it was made."""
    if start.htdemucs is not None:
        model.load_state_dict(_around_htdemucs(start, model.config).state_dict())
    elif start.film is not None:
        _continue(model, load_model(start.film))


def _around_htdemucs(start: Start, shape: FilmConfig) -> FilmHTDemucs:
    assert start.htdemucs is not None
    separator = build_model(read_checkpoint(start.htdemucs), torch.device("cpu"), torch.float32)
    return from_htdemucs(separator, dict(shape.spaces), shape.condition_channels)


def _check_growth(config: FilmConfig, growing: dict[str, Any]) -> None:
    """Raise OptionError unless the old parameters fit into a model with the fields of `growing`."""
    old = config.separator
    n_layers, mode = growing.get("t_layers", old.t_layers), growing.get("dconv_mode", old.dconv_mode)
    n_new = n_layers - old.t_layers if isinstance(n_layers, int) else -1
    if n_new < 0 or n_new % 2 or (n_new and not old.t_layer_scale):
        raise OptionError(
            f"demucs.t_layers is {n_layers} and {old.t_layers} in `start.film`: self-attention and "
            "cross-attention take turns, so a transformer with LayerScales can get two more layers, or four, and so on."
        )
    if mode not in (0, 1, 2, 3) or mode & old.dconv_mode != old.dconv_mode:
        raise OptionError(
            f"demucs.dconv_mode is {mode!r} and {old.dconv_mode} in `start.film`: residual branches (1 in the encoders, "
            "2 in the decoder, 3 in both) can be added, and not taken away."
        )
    other = [name for name in sorted(OF_BRANCHES & set(growing)) if growing[name] != getattr(old, name)]
    if old.dconv_mode and other:
        raise OptionError(f"The residual branches of `start.film` fix demucs.{', demucs.'.join(other)}. Leave it out.")


def _continue(model: FilmHTDemucs, donor: FilmHTDemucs) -> None:
    """Copy all of `donor`, but projectors only of the spaces that both know; what it lacks starts as the identity.

    Transformer layers that it lacks come before its last.
    """
    last = donor.config.separator.t_layers - 1
    n_new = model.config.separator.t_layers - donor.config.separator.t_layers
    copied = {
        _moved(name, last, n_new): value
        for name, value in donor.state_dict().items()
        if not name.startswith("projectors.")
    }
    new = {
        name: torch.zeros_like(value) if name.endswith(".scale") else value  # LayerScales
        for name, value in model.state_dict().items()
        if name not in copied
    }
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
