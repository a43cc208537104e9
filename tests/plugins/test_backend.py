"""What a backend is helped with: its calls are checked, and its segments counted, in one way for all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from unisep import Backend, BackendInfo, Output
from unisep.errors import AudioError, BackendError, EmbeddingError, UnisepError


class Halves(Backend):
    info = BackendInfo(sources=("low", "high"), sample_rate_hz=10_000, channels=2, segment_seconds=0.01)

    def separate(self, mixture, queries=None, negatives=None):
        return Output(torch.stack([mixture / 2, mixture / 2], dim=1))


FIXED: dict[str, tuple[tuple[Sequence[int] | None, ...], type[UnisepError], str]] = {
    "no batch": (((2, 100),), AudioError, r"shape \(2, 100\); Halves takes \[batch, 2, samples\]"),
    "mono": (((1, 1, 100),), AudioError, r"\[batch, 2, samples\]"),
    "no samples": (((1, 2, 0),), AudioError, "at least one sample"),
    "too long": (((1, 2, 101),), AudioError, "101 samples at once; Halves takes at most 100"),
    "queries": (((1, 2, 100), (1, 4)), BackendError, "Halves gives fixed sources"),
    "negatives": (((1, 2, 100), None, (1, 4)), BackendError, "Halves gives fixed sources"),
}
ASKED: dict[str, tuple[tuple[Sequence[int] | None, ...], type[UnisepError], str]] = {
    "no queries": (((1, 2, 100),), BackendError, r"Halves answers queries only.*\[queries, 4\]"),
    "other size": (((1, 2, 100), (3, 5)), EmbeddingError, r"Got queries of shape \(3, 5\)"),
    "one vector": (((1, 2, 100), (4,)), EmbeddingError, r"Got queries of shape \(4,\)"),
    "negatives of other size": (((1, 2, 100), (3, 4), (3, 5)), EmbeddingError, "Got negatives of shape"),
    "too few negatives": (((1, 2, 100), (3, 4), (2, 4)), EmbeddingError, "3 queries need as many negatives, not 2"),
    "mono": (((1, 1, 100), (3, 4)), AudioError, r"\[batch, 2, samples\]"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", FIXED)
def test_wrong_calls_of_fixed_sources(wrong: str) -> None:
    shapes, error, message = FIXED[wrong]
    with pytest.raises(error, match=message):
        Halves().check_input(*(None if shape is None else torch.zeros(*shape) for shape in shapes))


@pytest.mark.parametrize("wrong", ASKED)
def test_wrong_calls_with_queries(wrong: str) -> None:
    shapes, error, message = ASKED[wrong]
    tensors = [None if shape is None else torch.zeros(*shape) for shape in shapes]
    with pytest.raises(error, match=message):
        Halves().check_input(*tensors, query_dim=4)


def test_right_calls_pass() -> None:
    backend, mixture = Halves(), torch.zeros(3, 2, 100)
    backend.check_input(mixture)
    backend.check_input(mixture, torch.ones(2, 4), query_dim=4)
    backend.check_input(mixture, torch.ones(0, 4), torch.ones(0, 4), query_dim=4)


@pytest.mark.parametrize(("seconds", "n_samples"), [(None, None), (0.01, 100), (1e-9, 1), (0.12345, 1234)])
def test_a_segment_counts_whole_samples(seconds: float | None, n_samples: int | None) -> None:
    info = BackendInfo(sources=("all",), sample_rate_hz=10_000, channels=1, segment_seconds=seconds)
    assert info.segment_samples == n_samples
