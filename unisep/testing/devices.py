"""A device that is not there: what a model would do on it, with shapes and kinds of numbers but no numbers.

with pretended() as device:
    model = device.copied(backend)
    model.separate(torch.zeros(16, 2, 343_980, device=device.device))
print(device.n_steps, device.peak_bytes, device.waits, device.doubles)
"""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import GeneratorType, ModuleType
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_DOUBLES = (torch.float64, torch.complex128)
_SHARED = (
    type(threading.Lock()), type(threading.RLock()), ModuleType, GeneratorType, torch.Generator,
    io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO,
)  # fmt: skip
_TENSOR = torch.tensor  # as it is outside of `pretended`
CopyT = TypeVar("CopyT")


class Pretended(TorchDispatchMode):
    """A device, and what ran on it.

    Inside `torch.inference_mode` an operator that consists of others, `torch.stft` say, counts as one.

    Attributes:
        n_steps: Operators that made something there that is no view, each at least one kernel of a GPU.
        peak_bytes: The most that the tensors there held at once, without what libraries and allocators take for themselves.
        doubles: Operators that made numbers of 64 bits there, which mps does not have.
        waits: Operators that brought something from there to the host, which would have to wait for it.
    """

    device = torch.device("meta")

    def __init__(self) -> None:
        super().__init__()
        self.n_steps = self.peak_bytes = 0
        self.doubles: list[str] = []
        self.waits: list[str] = []
        self._alive: dict[int, tuple[Any, int]] = {}

    def copied(self, value: CopyT, dtype: torch.dtype | None = None) -> CopyT:
        """Return a copy of an object, a backend say, on this device; with `dtype`, its real numbers are of that type.

        What cannot be copied is shared: locks, open files, generators, modules.
        """

        def copy_tensor(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
            kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=kind, device=self.device)
            memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
            return memo[id(tensor)]  # type: ignore[no-any-return]

        n_steps = self.n_steps
        copiers: dict[type, Any] = {kind: lambda shared, memo: shared for kind in _SHARED}
        copiers[torch.device] = lambda other, memo: self.device
        with (
            mock.patch.dict(copy._deepcopy_dispatch, copiers),  # type: ignore[attr-defined]
            mock.patch.object(Tensor, "__deepcopy__", copy_tensor),
            mock.patch.object(nn.Parameter, "__deepcopy__", copy_tensor),
        ):
            copied = copy.deepcopy(value)
        self.n_steps = n_steps  # making room for parameters is none
        return copied

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = _tensors(out)
        here = [tensor for tensor in tensors if tensor.device == self.device]
        if any(tensor.dtype in _DOUBLES for tensor in here):
            self.doubles.append(str(func))
        if len(here) < len(tensors) and any(tensor.device == self.device for tensor in _tensors(args)):
            self.waits.append(str(func))
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if here and not is_view:
            self.n_steps += 1
            for tensor in here:
                self._hold(tensor)
        return out

    def _hold(self, tensor: Tensor) -> None:
        """Count a tensor among those that take room, for as long as it is used."""
        from torch.multiprocessing.reductions import StorageWeakRef

        storage = tensor.untyped_storage()
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, sum(n_bytes for _, n_bytes in self._alive.values()))


@contextmanager
def pretended() -> Iterator[Pretended]:
    """Open a block in which tensors can be on a device that is not there, `Pretended.device`.

    Operators check shapes and devices as they would on a real one (kinds of numbers only some of them do): what mixes devices
    raises torch's error. Attention holds no scores, like the fused one of GPUs. What looks at a number cannot go on, and
    raises an AssertionError; `.numpy()` raises torch's error. Built on torch's fake tensors, which hold nothing: what a
    function keeps for later calls (`functools.cache`) is fake ever after.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

    device = Pretended()
    try:
        with (
            torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), device,
            # what fake tensors cannot do, or do in another way than a GPU
            mock.patch.object(nn.functional, "scaled_dot_product_attention", _fused_attention),
            mock.patch.object(torch, "tensor", _tensor),
            mock.patch.object(Tensor, "new_tensor", _new_tensor),
        ):  # fmt: skip
            yield device
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise AssertionError(f"{error.func} looks at a number, and there is none on a pretended device") from error


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    return _TENSOR(data, **options).to(device)


def _new_tensor(like: Tensor, data: Any, *, device: Any = None, **options: Any) -> Tensor:
    return _tensor(data, device=device or like.device, **{"dtype": like.dtype, **options})


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Return attention `[..., queries, c]` without its scores."""
    if enable_gqa:
        key, value = (heads.repeat_interleave(query.shape[-3] // heads.shape[-3], -3) for heads in (key, value))
    if attn_mask is not None:
        attn_mask.expand(*query.shape[:-1], key.shape[-2])
        query.new_zeros(1) + attn_mask.flatten()[:1]  # fails where the mask is elsewhere
    flat = [heads.expand(*query.shape[:-2], *heads.shape[-2:]).flatten(0, -3)[None] for heads in (query, key, value)]
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(*flat, None, False)[0]
    return out.reshape(*query.shape[:-1], value.shape[-1])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
