"""The multichannel Wiener filter behind Open-Unmix: Nugraha, Liutkus, Vincent 2016, doi:10.1109/TASLP.2016.2580946.

Every source is taken to be Gaussian, with a power that changes over time and frequency and, in each bin, one
spatial covariance for a whole stretch of time. One step of expectation maximisation finds both from the first
estimates, and gives back the mean of each source given the mixture.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor

_EPS = 1e-10
# Where the mixture is louder than this it is turned down, so that _EPS keeps its meaning.
_LOUDEST = 10.0


def wiener(magnitudes: Tensor, mixture: Tensor, *, iterations: int = 1, stretch_frames: int | None = 300) -> Tensor:
    """Filter the mixture: return the sources' complex spectrograms `[n, c, f, t]`.

    Computed in double precision: sources of one channel's worth leave the covariances nearly singular.

    Args:
        magnitudes: First estimates `[n, c, f, t]`, which get the mixture's phase.
        mixture: Complex spectrogram `[c, f, t]` of one or two channels.
        iterations: Steps of expectation maximisation; 0 keeps the first estimates.
        stretch_frames: For how long positions in space are taken to stay; None for all the time.
    """
    # mps has no doubles, not even to copy from
    place = torch.device("cpu") if mixture.device.type == "mps" else mixture.device
    n_frames = mixture.shape[-1]
    length = stretch_frames or max(n_frames, 1)
    pieces = [
        _filtered(
            magnitudes[..., start : start + length].to(place).to(torch.float64),
            mixture[..., start : start + length].to(place).to(torch.complex128),
            iterations,
        )
        for start in range(0, n_frames, length)
    ]
    return torch.cat(pieces, dim=-1).to(mixture.dtype).to(mixture.device)


def _filtered(magnitudes: Tensor, mixture: Tensor, iterations: int) -> Tensor:
    """Filter one stretch."""
    sources = torch.polar(magnitudes, mixture.angle().expand_as(magnitudes))
    if not iterations:
        return sources
    scale = (mixture.abs().max() / _LOUDEST).clamp(min=1)
    sources, mixture = sources / scale, mixture / scale
    for _ in range(iterations):
        sources = _step(sources, mixture)
    return sources * scale


def _step(sources: Tensor, mixture: Tensor) -> Tensor:
    """Take one step of expectation maximisation: better estimates from `sources [n, c, f, t]`.

    Legend: n sources, c and d channels, f bins, t frames.
    """
    powers = sources.abs().square().mean(dim=1)
    together = einsum(sources, sources.conj(), "n c f t, n d f t -> n f c d")
    positions = together / (_EPS + powers.sum(dim=-1))[..., None, None]
    covariance = einsum(powers.to(positions), positions, "n f t, n f c d -> f t c d")
    noise = _EPS**0.5 * torch.eye(mixture.shape[0]).to(covariance)
    whitened = _solve(covariance + noise, rearrange(mixture, "c f t -> f t c"))
    moved = einsum(positions, whitened, "n f c d, f t d -> n c f t")
    return powers[:, None] * moved


def _solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Solve matrices `[..., c, c]` for vectors `[..., c]`, in closed form for c of 1 or 2.

    There are as many matrices as spectrogram bins: a general solver takes many times as long.
    """
    if matrices.shape[-1] == 1:
        return vectors / matrices[..., 0]
    (a, b), (c, d) = (row.unbind(-1) for row in matrices.unbind(-2))
    first, second = vectors.unbind(-1)
    solved = torch.stack([d * first - b * second, a * second - c * first], dim=-1)
    return solved / (a * d - b * c)[..., None]
