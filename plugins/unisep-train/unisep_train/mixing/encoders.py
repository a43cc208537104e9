"""The query encoder of a run: any that a plugin offers, by the function that loads it."""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from unisep import QueryEncoder
from unisep.errors import OptionError
from unisep_train.mixing.queries import TextAudioEncoder

EMBEDDED = "unisep_clap.mini:load"


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a query encoder, which `asked_encoder` reads."""
    parser.add_argument(
        "--encoder", default=EMBEDDED, metavar="MODULE:FUNCTION", help="loads the query encoder (%(default)s)"
    )
    parser.add_argument("--encoder-weights", type=Path, help="its weights, if not its own")


def asked_encoder(args: argparse.Namespace, spaces: dict[str, int]) -> TextAudioEncoder:
    """The encoder that the command line asks for, loaded on first use; see `load_encoder`."""
    return TextAudioEncoder(partial(load_encoder, args.encoder, args.encoder_weights, dict(spaces)))


def load_encoder(load: str, weights: Path | None, spaces: dict[str, int]) -> QueryEncoder:
    """The encoder that "package.module:function" loads, as in an `EncoderSpec`, on the CPU.

    Raises OptionError when there is no such function, or its vectors are not of one of `spaces`.
    """
    module, _, name = load.partition(":")
    try:
        encoder: QueryEncoder = getattr(import_module(module), name)(weights=weights, device=torch.device("cpu"))
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"No encoder at {load!r} ({error}). Give package.module:function, such as {EMBEDDED}."
        ) from error
    if spaces.get(encoder.space) != encoder.dim:
        raise OptionError(
            f"{load} gives {encoder.dim} values of the space {encoder.space!r}; the recipe's model listens to "
            f"{spaces}. Set model.spaces to that space, or take its encoder."
        )
    return encoder
