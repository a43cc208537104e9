"""Leaving a sound out: what is excluded is taken from the target, bin by bin of the spectrogram."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from unisep_htdemucs.spectrogram import spectrogram

from unisep import Output

from .mask import analysis_fade, resynthesised

NFFT = 4096
LEAST_GAIN = 0.1
_FLOOR = 1e-12  # energy below which neither is heard


def with_excluded(queries: Tensor, negatives: Tensor | None) -> tuple[Tensor, list[int]]:
    """Return the queries `[n, dim]` and behind them the negatives that are not zero, and which queries these belong to."""
    if negatives is None:
        return queries, []
    rows: list[int] = negatives.any(dim=1).nonzero()[:, 0].tolist()
    return torch.cat([queries, negatives[rows]]), rows


def answered(answer: Callable[[Tensor], Output], queries: Tensor, negatives: Tensor | None) -> Output:
    """Return what `answer` gives for the queries, less what the negatives claim; both are asked in one call."""
    asked, rows = with_excluded(queries, negatives)
    output, n_queries = answer(asked), len(queries)
    targets, excluded = output.sources[:, :n_queries], output.sources[:, n_queries:]
    if rows:
        targets[:, rows] = without(targets[:, rows], excluded)
    return Output(targets, None if output.presence is None else output.presence[:, :n_queries])


def without(target: Tensor, excluded: Tensor) -> Tensor:
    """`target [..., samples]` less what `excluded`, of the same shape, claims.

    The target holds the excluded sound, so the wanted magnitude in a bin is W = max(0, |T| - |E|), and the bin keeps
    the Wiener gain W^2 / (W^2 + |E|^2): all of it where the excluded sound is silent, 20 dB less where it is all there is. No bin is taken whole, since
    a model that cannot tell the two sounds apart would then leave silence.
    """
    bins = bins_without(spectrogram(target.float(), NFFT), spectrogram(excluded.float(), NFFT))
    return resynthesised(bins, analysis_fade(bins, target.shape[-1]))


def bins_without(target: Tensor, excluded: Tensor) -> Tensor:
    """Return the complex bins of the target less what `excluded`, of the same shape, claims."""
    other = excluded.abs()
    wanted = (target.abs() - other).clamp_min(0).square()
    share = (wanted + _FLOOR) / (wanted + other.square() + _FLOOR)
    return target * share.clamp_min(LEAST_GAIN)
