"""Reads LAION's checkpoints without running anything that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unisep.errors import WeightsError
from unisep.weights.checkpoints import check_finite, read_torch_file
from unisep.weights.hashes import known_sha256

TOKENIZER_FILE = "tokenizer.json"
_PREFIX = "module."
# A counter that transformers no longer keeps as a parameter.
_DROPPED = "text_branch.embeddings.position_ids"


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, the tokenizer beside it, and the name of the space that they span."""

    weights: Path
    tokenizer: Path
    space: str


def find(weights: Path | None) -> Checkpoint:
    """The checkpoint at `weights`: a folder with one `.pt` file and a tokenizer, or the file with that beside it.

    Raises WeightsError where something is missing, or more than one would do.
    """
    if weights is None:
        raise WeightsError(
            "laion-clap has no weights here. Run `unisep models pull laion-clap`, or give a folder with one .pt file "
            f"and {TOKENIZER_FILE}."
        )
    found = sorted(weights.glob("*.pt")) if weights.is_dir() else [weights]
    if len(found) != 1 or not found[0].is_file():
        raise WeightsError(f"{weights} should be a .pt file or a folder with one; found {len(found)}.")
    tokenizer = found[0].parent / TOKENIZER_FILE
    if not tokenizer.is_file():
        raise WeightsError(
            f"{TOKENIZER_FILE} is missing beside {found[0]}. Put there that of RoBERTa (roberta-base), which every "
            "LAION CLAP was trained with."
        )
    return Checkpoint(found[0], tokenizer, f"{found[0].stem}@{known_sha256(found[0])}")


def read_state(path: Path) -> dict[str, Tensor]:
    """The parameters in a file, by the names that laion-clap's model gives them.

    Raises WeightsError for a file that is damaged, names anything but tensors, plain values and NumPy numbers,
    or holds no CLAP.
    """
    # Mapped, so that the optimiser's state is never read.
    held = read_torch_file(path, mapped=True)
    stored = held.get("state_dict", held) if isinstance(held, Mapping) else {}
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in stored.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    state.pop(_DROPPED, None)
    if "logit_scale_a" not in state:
        raise WeightsError(f"{path} is no checkpoint of laion-clap: it lacks 'logit_scale_a'.")
    check_finite(path, state)
    return state
