"""Fourier transforms from matrix products of real numbers, which every runtime has.

A transform of N = A B values is A transforms of B and B of A with a turn between them (Cooley and Tukey 1965), each a product
with a small constant matrix: 64 x 64 for 4096 values, where the matrix of the whole would fill 64 MB of the file.

Axes: t frames, n samples of a frame, k frequencies of one side, a and b the two factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Parts = tuple[Tensor, Tensor]  # real and imaginary


def forward(frames: Tensor) -> Parts:
    """Return real and imaginary parts `[..., n // 2 + 1]` of the transform of real `frames [..., n]`."""
    n = frames.shape[-1]
    a, b = _factors(n)
    kept = n // 2 // a + 1  # values of the second index that reach the last frequency of one side
    grid, first = frames.unflatten(-1, (a, b)), _turns(a, a, a)
    turned = _product((first[0] @ grid, first[1] @ grid), _turns(n, a, b))
    real, imaginary = _product(turned, _turns(b, b, kept), torch.matmul)
    return _flat(real)[..., : n // 2 + 1], _flat(imaginary)[..., : n // 2 + 1]


def inverse(real: Tensor, imaginary: Tensor, n: int) -> Tensor:
    """Return real frames `[..., n]` of their one-sided transform `[..., n // 2 + 1]`."""
    a, b = _factors(n)
    kept = n // 2 // a + 1
    weights = torch.full((n // 2 + 1,), 2.0 / n)  # what one side leaves out is the mirror of the rest
    weights[0] = 1 / n
    if n % 2 == 0:
        weights[-1] = 1 / n
    missing = kept * a - len(weights)
    one, other = (F.pad(part * weights, (0, missing)).unflatten(-1, (kept, a)) for part in (real, imaginary))
    turned = _product(_product(_turns(b, b, kept, 1), (one, other), torch.matmul), _turns(n, b, a, 1))
    last = _turns(a, a, a, 1)
    return _flat(turned[0] @ last[0] - turned[1] @ last[1])


def framed(signal: Tensor, n: int, hop: int) -> Tensor:
    """Cut `signal [..., samples]` into overlapping frames `[..., t, n]`, by shifted copies of whole hops."""
    n_frames, n_hops = 1 + (signal.shape[-1] - n) // hop, -(-n // hop)
    signal = F.pad(signal, (0, n_hops * hop))[..., : (n_frames + n_hops - 1) * hop]
    hops = signal.unflatten(-1, (n_frames + n_hops - 1, hop))
    return torch.cat([hops[..., index : index + n_frames, :] for index in range(n_hops)], dim=-1)[..., :n]


def overlapped(frames: Tensor, hop: int) -> Tensor:
    """Add `frames [..., t, n]` up, each a hop behind the one before: `[..., samples]`, a multiple of the hop."""
    n = frames.shape[-1]
    n_hops = -(-n // hop)
    frames = F.pad(frames, (0, n_hops * hop - n))
    parts = frames.split(hop, dim=-1)
    padded = [F.pad(part, (0, 0, index, n_hops - 1 - index)) for index, part in enumerate(parts)]
    return sum(padded[1:], padded[0]).flatten(-2)


def short_time(
    signal: Tensor, n: int, hop: int, window: Tensor | None, normalised: bool, onesided: bool | None
) -> Parts:
    """Compute what `torch.stft` gives for `signal [rows, samples]`, already padded: parts `[rows, k, t]`."""
    if onesided is False:
        raise NotImplementedError("spectrograms of both sides")
    frames = framed(signal, n, hop) * _window(window, n, signal)
    scale = n**-0.5 if normalised else 1.0
    real, imaginary = forward(frames * scale)
    return real.transpose(-1, -2), imaginary.transpose(-1, -2)


def inverse_short_time(
    real: Tensor, imaginary: Tensor, n: int, hop: int, window: Tensor | None, normalised: bool, length: int | None
) -> Tensor:
    """Compute what `torch.istft` gives, centred, for parts `[rows, k, t]`: `[rows, length]`."""
    window = _window(window, n, real)
    scale = n**0.5 if normalised else 1.0
    frames = inverse(real.transpose(-1, -2), imaginary.transpose(-1, -2), n) * (window * scale)
    n_frames = real.shape[-1]
    envelope = overlapped(window.square().expand(n_frames, n), hop)
    n_samples = n + hop * (n_frames - 1)
    end = n_samples - n // 2 if length is None else n // 2 + length
    signal = overlapped(frames, hop)[..., n // 2 : min(end, n_samples)]
    signal = signal / envelope[n // 2 : min(end, n_samples)].clamp_min(1e-11)
    return F.pad(signal, (0, max(0, end - n_samples)))


def _window(window: Tensor | None, n: int, like: Tensor) -> Tensor:
    if window is None:
        return like.new_ones(n)
    missing = n - window.shape[-1]
    return F.pad(window, (missing // 2, missing - missing // 2)) if missing else window


def _product(one: Parts, other: Parts, multiply: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Parts:
    real = multiply(one[0], other[0]) - multiply(one[1], other[1])
    return real, multiply(one[0], other[1]) + multiply(one[1], other[0])


def _flat(grid: Tensor) -> Tensor:
    return grid.transpose(-1, -2).flatten(-2)


def _turns(n: int, rows: int, columns: int, sign: int = -1) -> Parts:
    """Return cosine and sine `[rows, columns]` of `sign` 2 pi row column / n, exact to float32."""
    steps = torch.outer(torch.arange(rows), torch.arange(columns)) % n
    angles = steps.double() * (sign * 2 * math.pi / n)
    return angles.cos().float(), angles.sin().float()


def _factors(n: int) -> tuple[int, int]:
    """Return the two factors of `n` that lie closest together, the smaller one first.

    >>> _factors(4096), _factors(2048)
    ((64, 64), (32, 64))
    """
    small = next(factor for factor in range(math.isqrt(n), 0, -1) if n % factor == 0)
    return small, n // small
