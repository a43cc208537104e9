"""The query encoder of a run: any that a plugin offers, by the function that loads it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisep import Audio, QueryEncoder
from unisep.errors import OptionError

from .queries import TextAudioEncoder

EMBEDDED = "unisep_clap.mini:load"


@final
class ClipEncoder:
    """A query encoder that takes clips as training has them: arrays with their rates."""

    def __init__(self, encoder: QueryEncoder) -> None:
        self.encoder = encoder

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit vectors `[n, dim]` of texts."""
        return self.encoder.encode_text(texts)

    def encode_audio_arrays(self, clips: Sequence[tuple[NDArray[np.float32], int]]) -> Tensor:
        """Unit vectors `[n, dim]` of (mono samples `[samples]`, rate in hertz) pairs."""
        return self.encoder.encode_audio([Audio(samples, rate_hz) for samples, rate_hz in clips])


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a query encoder, which `asked_encoder` reads."""
    parser.add_argument(
        "--encoder", default=EMBEDDED, metavar="MODULE:FUNCTION", help="loads the query encoder (%(default)s)"
    )
    parser.add_argument("--encoder-weights", type=Path, help="its weights, if not its own")


def asked_encoder(args: argparse.Namespace, spaces: dict[str, int]) -> TextAudioEncoder:
    """The encoder that the command line asks for, loaded on first use; see `load_encoder`."""
    return TextAudioEncoder(partial(load_encoder, args.encoder, args.encoder_weights, dict(spaces)))


def load_encoder(load: str, weights: Path | None, spaces: dict[str, int]) -> ClipEncoder:
    """The encoder that "package.module:function" loads, as in an `EncoderSpec`, on the CPU.

    Raises OptionError when there is no such function, or its vectors are not of one of `spaces`.
    """
    module, _, name = load.partition(":")
    try:
        encoder = getattr(import_module(module), name)(weights=weights, device=torch.device("cpu"))
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"No encoder at {load!r} ({error}). Give package.module:function, such as {EMBEDDED}."
        ) from error
    if spaces.get(encoder.space) != encoder.dim:
        raise OptionError(
            f"{load} gives {encoder.dim} values of the space {encoder.space!r}; the recipe's model listens to "
            f"{spaces}. Set model.spaces to that space, or take its encoder."
        )
    return ClipEncoder(encoder)
