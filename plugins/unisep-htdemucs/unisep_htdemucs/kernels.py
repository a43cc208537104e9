"""The same arithmetic by the routes that a CPU takes fastest; elsewhere, and mostly while training, torch's own.

Two facts are behind all of it. Torch gives float32 matrix products to MKL, which on other makers' processors uses
half the width of AVX-512, while oneDNN, which torch carries too, uses all of it (with AVX2 MKL is the faster one). And
a buffer above 32 MiB is fetched from the system anew each time, page by page, where smaller ones are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisep.engine.device import cpu_computes_bfloat16

_LARGEST_KEPT = 1 << 23  # numbers in a float32 buffer of 32 MiB, the most that the C library keeps for reuse
_TILE = 1 << 20  # numbers in a buffer of 4 MiB: a few of these fit in a processor's cache
_N_ROWS = 448  # queries whose attention scores are computed at once
_MOST_SCORES = 1 << 20  # of one head, that training keeps for the way back


def _fast_dtypes() -> tuple[torch.dtype, ...]:
    """List the dtypes in which oneDNN's product is there, and faster than torch's own choice.

    The operator is not part of torch's public interface: it is tried, and done without where it is gone.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return ()
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return ()
    ones = torch.ones(2, 2)
    try:
        works = torch.equal(_product(ones, ones, None), 2 * ones)
    except (AttributeError, RuntimeError, TypeError):
        return ()
    return (torch.float32, torch.bfloat16)[: works * (1 + cpu_computes_bfloat16())]


def computes_bfloat16() -> bool:
    """Tell whether this processor computes in bfloat16; others imitate it, many times slower."""
    return torch.bfloat16 in _DTYPES


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply `x [..., in]` by `weight [out, in]` and add `bias`, in the dtype of the weight."""
    x = x.to(weight.dtype)
    return _product(x, weight, bias) if _is_open(x) and x.dtype in _DTYPES else F.linear(x, weight, bias)


def strided(convolution: nn.Module, x: Tensor) -> Tensor:
    """Convolve `x [b, c, ...]` along its third axis; few channels in float32, where they were to be in bfloat16.

    By AMX the oneDNN in torch 2.13 gives numbers that have nothing to do with the input for 4 to 14 channels and kernels of 8
    and more.
    """
    in_bfloat16 = (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype) == torch.bfloat16
    if isinstance(convolution, nn.Conv1d | nn.Conv2d) and 2 < convolution.in_channels < 16 and in_bfloat16 and x.is_cpu:
        convolve = F.conv1d if isinstance(convolution, nn.Conv1d) else F.conv2d
        bias = None if convolution.bias is None else convolution.bias.float()
        with torch.autocast("cpu", enabled=False):
            y = convolve(x.float(), convolution.weight.float(), bias, convolution.stride, convolution.padding)  # type: ignore[arg-type]
        return y.to(torch.bfloat16)
    out: Tensor = convolution(x)
    return out


def pointwise(convolution: nn.Module, x: Tensor) -> Tensor:
    """Convolve `x [b, c, ...]`; for a single item and a kernel 1 wide this is a matrix product."""
    if (
        isinstance(convolution, nn.Conv1d | nn.Conv2d)
        and convolution.bias is not None
        and max(convolution.kernel_size) == 1
        and x.shape[0] == 1
        and _is_open(x)
    ):
        flat = linear(convolution.weight.flatten(1), x[0].flatten(1).t())
        return flat.add_(convolution.bias[:, None]).unflatten(1, x.shape[2:])[None]
    out: Tensor = convolution(x)
    return out


def transposed(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a transposed convolution to `x [b, c, f, t]` or `[b, c, t]`; oneDNN takes channels last."""
    if isinstance(convolution, nn.ConvTranspose1d) and _is_open(x):
        weight, stride = convolution.weight[:, :, None], (1, *convolution.stride)
        return _channels_last(x[:, :, None], weight, convolution.bias, stride)[:, :, 0]
    if isinstance(convolution, nn.ConvTranspose2d) and _is_open(x):
        return _channels_last(x, convolution.weight, convolution.bias, convolution.stride)
    out: Tensor = convolution(x)
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Attend with queries `q [b, h, n, c]` to `v` by keys `k [b, h, m, c]`, one block of scores at a time."""
    if _learns_in_bfloat16(q) and not dropout and q.shape[-2] * k.shape[-2] <= _MOST_SCORES:
        return _by_head(q, k, v)
    if dropout or not (_is_open(q) and q.dtype in _DTYPES):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    shape = q.shape
    q = (q * shape[-1] ** -0.5).contiguous().flatten(0, 1)
    k, v = k.contiguous().flatten(0, 1), v.transpose(-1, -2).contiguous().flatten(0, 1)
    out = torch.empty_like(q)
    for queries, keys, values, attended in zip(q, k, v, out, strict=True):
        for some, place in zip(queries.split(_N_ROWS), attended.split(_N_ROWS), strict=True):
            scores = _product(some, keys, None)
            place.copy_(_product(torch.softmax(scores, dim=-1, out=scores), values, None))
    return out.view(shape)


def _by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in plain products: in bfloat16, back and forth, three times faster than torch's fused one."""
    shape = q.shape
    q, k, v = (q * shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    heads = [torch.softmax(queries @ keys.t(), dim=-1) @ values for queries, keys, values in zip(q, k, v, strict=True)]
    return torch.stack(heads).view(shape)


def by_frequency(layer: Callable[[Tensor], Tensor], x: Tensor, n_widest: int, context: int) -> Tensor:
    """Apply `layer` to `x [b, c, f, t]`, some frequencies at a time where its buffers would be too large to keep.

    Args:
        layer: Maps each frequency to one, from itself and its neighbours.
        x: What it is applied to.
        n_widest: The most channels inside the layer.
        context: How many neighbours on either side the layer looks at.
    """
    n_numbers = x.shape[0] * n_widest * x.shape[2] * x.shape[3]
    if n_numbers <= _LARGEST_KEPT or not _is_open(x):
        return layer(x)
    n_freqs = x.shape[2]
    size = max(4 * context, 1, _TILE * n_freqs // n_numbers)
    out = torch.empty_like(x)
    for start in range(0, n_freqs, size):
        first = max(0, start - context)
        part = layer(x[:, :, first : start + size + context])
        out[:, :, start : start + size] = part[:, :, start - first : start - first + size]
    return out


def _is_open(x: Tensor) -> bool:
    """Tell whether `x` may take the short cuts: on the CPU, with no gradient to be kept."""
    is_fast = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and computes_bfloat16())
    return x.device.type == "cpu" and is_fast and not torch.is_grad_enabled()


def _learns_in_bfloat16(x: Tensor) -> bool:
    """Tell whether `x` is on a CPU that computes in bfloat16, with a gradient to be kept."""
    of_cpu = x.device.type == "cpu" and x.dtype == torch.bfloat16
    return of_cpu and x.requires_grad and torch.is_grad_enabled() and computes_bfloat16()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear` by oneDNN."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv_transpose2d(x, weight, bias, stride).contiguous()


_DTYPES = _fast_dtypes()
