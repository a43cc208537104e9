"""Writes weights of FiLM HT Demucs again, smaller.

python -m unisep_film.saving query.safetensors smaller.safetensors --bits 8
unisep separate song.flac -q "drums" --query-weights smaller.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from unisep.errors import UnisepError

from .checkpoints import load_model, save_model

_DTYPES = {8: torch.float16, 16: torch.float16, 32: torch.float32}


def main(given: list[str] | None = None) -> None:
    """Write weights again, with numbers of so many bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="a file of FiLM HT Demucs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=[8, 16, 32], default=8)
    args = parser.parse_args(given)
    try:
        model = load_model(args.weights)
        written = save_model(args.out, model, _DTYPES[args.bits], in_8_bits=args.bits == 8)
    except UnisepError as error:
        raise SystemExit(str(error)) from error
    print(f"{written}: {written.stat().st_size / args.weights.stat().st_size:.2f} of {args.weights.name}")


if __name__ == "__main__":
    main()
