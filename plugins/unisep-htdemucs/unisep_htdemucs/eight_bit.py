"""Parameters in 8 bits: a quarter of the size on disk; on loading they become numbers of the asked type again.

A tensor with two axes or more is kept as whole numbers from -127 to 127 and one scale for each place on its first
axis, the largest magnitude there over 127; the rest, a hundredth of the size, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unisep.errors import WeightsError

KEY, FORMAT = "unisep_quantised", "int8-rows-1"
_SCALE = ".scale8"
_LARGEST = 127


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as whole numbers, with their scales as tensors `NAME.scale8 [rows]` of their own."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.dim() < 2:
            out[name] = value.contiguous()
            continue
        rows = value.detach().float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
        whole = (rows / scale[:, None]).round().clamp(-_LARGEST, _LARGEST)
        out[name], out[name + _SCALE] = whole.to(torch.int8).reshape(value.shape).contiguous(), scale
    return out


def dequantised(path: Path, form: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a file in float32; `form` is what its metadata say of it.

    Raises:
        WeightsError: It has another form, or scales that are missing, superfluous, of another shape, or not finite.
    """
    if form != FORMAT:
        raise WeightsError(
            f"{path} is quantised as {form!r:.80}; only {FORMAT!r} can be read. Upgrade unisep-htdemucs."
        )
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(_SCALE):
            if name.removesuffix(_SCALE) not in state:
                raise WeightsError(f"{path}: {name:.80} is the scale of nothing.")
            continue
        out[name] = _scaled(path, name, value, state.get(name + _SCALE))
    return out


def _scaled(path: Path, name: str, value: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None and value.dtype != torch.int8:
        return value
    if scale is None or value.dtype != torch.int8 or value.dim() < 2:
        raise WeightsError(f"{path}: {name:.80} is not whole numbers with scales. The file is damaged.")
    if scale.dtype != torch.float32 or scale.shape != value.shape[:1] or not bool(scale.isfinite().all()):
        raise WeightsError(f"{path}: the scales of {name:.80} are not {value.shape[0]} finite numbers.")
    return value.float() * scale.reshape(-1, *[1] * (value.dim() - 1))
