"""Programs with complex numbers, written anew with real ones: no exchange format has operators for the former.

A program of `torch.export` is run step by step while it is traced a second time. A complex tensor on the way is a `Pair` of
real ones. Operators that treat both parts alike run on each; those in `_RULES` are arithmetic; any other is an error that
names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from unisep.errors import BackendError

from . import transforms

aten = torch.ops.aten


@dataclass(frozen=True)
class Pair:
    """A complex tensor as two real ones."""

    real: Tensor
    imaginary: Tensor


class InverseByProducts(TorchFunctionMode):
    """Has `torch.istft` computed by `transforms` while a module is traced: torch itself would trace it frame by frame."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return (_istft if func is torch.istft else func)(*args, **(kwargs or {}))


def _istft(
    x: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    center: bool = True, normalized: bool = False, onesided: bool | None = None, length: int | None = None, *_: Any,
) -> Tensor:  # fmt: skip
    if not center or onesided is False:
        raise BackendError(
            "This model inverts spectrograms without centre or of both sides, which this export has no rule for."
        )
    hop = hop_length or n_fft // 4
    return transforms.inverse_short_time(x.real, x.imag, n_fft, hop, window, normalized, length)


class RealProgram(nn.Module):
    """Runs the program of a module, without complex tensors inside."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__()
        self.program = program

    def forward(self, *tensors: Tensor) -> Any:
        """Return what the program returns."""
        return _RealInterpreter(self.program).run(*tensors)


class _RealInterpreter(fx.Interpreter):
    """Runs each step of a program, those on complex tensors by rules for pairs."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        has_pairs = any(isinstance(leaf, Pair) for leaf in leaves)
        if target in _MAKERS or (has_pairs and target in _RULES):
            return (_MAKERS | _RULES)[target](*args, **kwargs)
        if not has_pairs:
            return super().call_function(target, args, kwargs)
        if target not in _ON_EACH_PART:
            raise BackendError(
                f"This model computes {target} of complex numbers, for which this export has no rule. Offer a module that "
                "does without, by real and imaginary parts."
            )
        halves = []
        for name in ("real", "imaginary"):
            picked = pytree.tree_map(lambda leaf, n=name: getattr(leaf, n) if isinstance(leaf, Pair) else leaf, args)
            halves.append(super().call_function(target, picked, kwargs))
        if isinstance(halves[0], list | tuple):
            return [Pair(*parts) for parts in zip(*halves, strict=True)]
        return Pair(*halves)


def _product(one: Any, other: Any) -> Pair:
    if not isinstance(other, Pair):
        return Pair(one.real * other, one.imaginary * other)
    if not isinstance(one, Pair):
        return _product(other, one)
    return Pair(
        one.real * other.real - one.imaginary * other.imaginary, one.real * other.imaginary + one.imaginary * other.real
    )


def _quotient(one: Pair, other: Any) -> Pair:
    if isinstance(other, Pair):
        raise BackendError("This model divides by complex numbers, for which this export has no rule.")
    return Pair(one.real / other, one.imaginary / other)


def _magnitude(x: Pair) -> Tensor:
    return torch.sqrt(x.real.square() + x.imaginary.square())


def _stft(
    x: Tensor, n_fft: int, hop_length: int | None = None, win_length: int | None = None, window: Tensor | None = None,
    normalized: bool = False, onesided: bool | None = None, *_: Any, **__: Any,
) -> Pair:  # fmt: skip
    return Pair(*transforms.short_time(x, n_fft, hop_length or n_fft // 4, window, normalized, onesided))


def _irfft(x: Pair, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    size = n or 2 * (x.real.shape[dim] - 1)
    scale = {None: 1.0, "backward": 1.0, "ortho": size**0.5, "forward": float(size)}[norm]
    parts = [part.movedim(dim, -1) for part in (x.real, x.imaginary)]
    missing = size // 2 + 1 - parts[0].shape[-1]
    parts = [nn.functional.pad(part, (0, missing)) if missing else part for part in parts]
    return (transforms.inverse(parts[0], parts[1], size) * scale).movedim(-1, dim)


def _rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    size = n or x.shape[dim]
    scale = {None: 1.0, "backward": 1.0, "ortho": size**-0.5, "forward": 1 / size}[norm]
    moved = x.movedim(dim, -1)
    moved = nn.functional.pad(moved, (0, size - moved.shape[-1]))
    return Pair(*(part.movedim(-1, dim) for part in transforms.forward(moved * scale)))


# What makes complex tensors of real ones, and what turns them back or mixes their parts.
_MAKERS: dict[Any, Callable[..., Any]] = {
    aten.stft.default: _stft,
    aten.fft_rfft.default: _rfft,
    aten.view_as_complex.default: lambda x: Pair(x[..., 0], x[..., 1]),
    aten.complex.default: Pair,
    aten.polar.default: lambda size, angle: Pair(size * angle.cos(), size * angle.sin()),
}
_RULES: dict[Any, Callable[..., Any]] = {
    aten.fft_irfft.default: _irfft,
    aten.view_as_real.default: lambda x: torch.stack([x.real, x.imaginary], dim=-1),
    aten.abs.default: _magnitude,
    aten.real.default: lambda x: x.real,
    aten.imag.default: lambda x: x.imaginary,
    aten.conj.default: lambda x: Pair(x.real, -x.imaginary),
    aten.mul.Tensor: _product,
    aten.div.Tensor: _quotient,
    aten._assert_tensor_metadata.default: lambda *_, **__: None,
}
_ON_EACH_PART = {
    aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int, aten.slice.Tensor,
    aten.select.int, aten.unsqueeze.default, aten.squeeze.dim, aten.expand.default, aten.pad.default,
    aten.constant_pad_nd.default, aten.cat.default, aten.stack.default, aten.index.Tensor, aten.index_select.default,
    aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.chunk.default, aten.narrow.default,
    aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default, aten.flatten.using_ints,
    aten.unflatten.int, aten.repeat.default, aten.neg.default, aten.add.Tensor, aten.sub.Tensor, aten.movedim.int,
}  # fmt: skip
