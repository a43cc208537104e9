"""Write checkpoints in the form that this plugin and demucs 4.1.0 read: safetensors with the options beside them.

    python -m unisep_htdemucs.saving 955717e8-8726e21a.th smaller.safetensors --bits 8

With 8 bits only this plugin reads them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unisep.errors import OptionError, UnisepError

from .checkpoints import CLASS, read_checkpoint
from .config import HTDemucsConfig
from .eight_bit import FORMAT, KEY, quantised

_DTYPES = {32: torch.float32, 16: torch.float16}


def save_checkpoint(path: Path, config: HTDemucsConfig, state: Mapping[str, Tensor], bits: int = 32) -> Path:
    """Write a `.safetensors` file, complete or not at all, and return its path.

    Numbers get 32 or 16 bits, or 8 as whole numbers with scales (`unisep_htdemucs.eight_bit`).

    Raises:
        OptionError: Another number of bits, or another suffix.
    """
    if bits not in (8, *_DTYPES) or path.suffix != ".safetensors":
        raise OptionError(f"bits={bits}, {path.name}: give 8, 16 or 32 bits and a name that ends in .safetensors.")
    metadata = {"klass": CLASS, "args": "[]", "kwargs": json.dumps(_kwargs(config), default=_fraction)}
    if bits == 8:
        values, metadata[KEY] = quantised(state), FORMAT
    else:
        values = {name: value.detach().to("cpu", _DTYPES[bits]).contiguous() for name, value in state.items()}
    partial = path.with_name(path.name + ".part")
    save_file(values, partial, metadata=metadata)
    return partial.replace(path)


def _kwargs(config: HTDemucsConfig) -> dict[str, object]:
    """Return the options as published checkpoints name them; how a new model is drawn is none of them."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "t_layer_scale_init"}


def _fraction(value: object) -> dict[str, object]:
    if not isinstance(value, Fraction):
        raise TypeError(f"{value!r} has no place in a checkpoint")
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}


def main(words: list[str] | None = None) -> None:
    """Write a checkpoint again, smaller."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".safetensors or .th")
    parser.add_argument("out", type=Path, help="a name that ends in .safetensors")
    parser.add_argument("--bits", type=int, choices=[8, 16, 32], default=8)
    args = parser.parse_args(words)
    try:
        checkpoint = read_checkpoint(args.checkpoint)
        written = save_checkpoint(args.out, checkpoint.config, checkpoint.state, args.bits)
    except UnisepError as error:
        raise SystemExit(str(error)) from error
    print(f"{written}: {written.stat().st_size / args.checkpoint.stat().st_size:.2f} of {args.checkpoint.name}")


if __name__ == "__main__":
    main()
