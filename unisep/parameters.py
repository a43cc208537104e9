"""Whether the parameters in a weights file are those of a model, said before any is given to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unisep.errors import WeightsError

_N_NAMED = 3


def check_parameters(
    path: Path,
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    described_by: str = "its own options",
    advice: str = "It is damaged or for another version.",
) -> None:
    """Nothing; compares the parameters `found` in a file with those `wanted` by a model, such as its state on "meta".

    described_by: what says how the model is made. advice: ends the message.
    Raises WeightsError that counts and names what is missing, unknown, of another shape, or whole numbers instead of real ones.

    >>> import torch
    >>> check_parameters(Path("model.pt"), {"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)})
    Traceback (most recent call last):
    unisep.errors.WeightsError: model.pt does not fit its own options: 1 parameters missing (b), 1 of another shape (a ...
    """
    both = sorted(found.keys() & wanted.keys())
    shapes = [
        f"{name:.80} has shape {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in both
        if found[name].shape != wanted[name].shape
    ]
    kinds = [name for name in both if found[name].is_floating_point() != wanted[name].is_floating_point()]
    counted = {
        "parameters missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": shapes,
        "of another kind of number": kinds,
    }
    said = [f"{len(names)} {what} ({_some(names)})" for what, names in counted.items() if names]
    if said:
        raise WeightsError(f"{path} does not fit {described_by}: {', '.join(said)}. {advice}")


def check_finite(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Nothing; best asked of parameters in the dtype they will have, since a large float32 is infinite in float16.

    Raises WeightsError that names the first one in which a number is NaN or infinite.
    """
    for name, value in parameters.items():
        if not bool(value.isfinite().all()):
            raise WeightsError(
                f"{path}: {name:.200} holds numbers that are not finite in {value.dtype}. Fetch the file again."
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name:.200}" for name in names[:_N_NAMED])
    return shown + (", ..." if len(names) > _N_NAMED else "")
