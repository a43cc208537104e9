"""Several recordings in one call of a backend give what each gives alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_ray import station as stations
from unisep_ray.batching import Batching
from unisep_ray.recordings import Recording
from unisep_ray.station import Job, Station
from unisep_ray.storage import Folder

from unisep import files
from unisep.engine.device import Options
from unisep.plugins.backend import Backend, Output
from unisep.plugins.registry import using
from unisep.testing.toy import N_BANDS, ToyBackend

TOYS = Path(__file__).parents[3] / "benchmarks" / "catalogue_toys.py"
TOY = {"backend": "toy", "query_backend": "toy", "encoder": "toy"}
TOLERANCE = 1e-5  # of the peak, as backends promise of batches


class Held(ToyBackend):
    """The toy, whose first call waits until so many others wait for it."""

    def __init__(self, waits: Callable[[], bool], is_broken: Callable[[Tensor], bool] = lambda mixture: False) -> None:
        super().__init__()
        self._waits, self._is_broken, self.sizes = waits, is_broken, list[int]()

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        self.sizes.append(len(mixture))
        limit = time.monotonic() + 60
        while len(self.sizes) == 1 and self._waits():
            assert time.monotonic() < limit, "waited in vain"
            time.sleep(0.01)
        if self._is_broken(mixture):
            raise RuntimeError("broken")
        return super().separate(mixture, queries, negatives)


def mixtures(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 2, length, generator=generator) - 0.5 for length in lengths]


def computed(calls: list[tuple[Tensor, Any]], n_most: int = 16, **options: Any) -> tuple[list[Any], list[int]]:
    """Return what calls of as many threads give, all of which wait for the first, and the sizes of the batches."""
    backend = Held(lambda: len(batching._waiting) < len(calls), **options)
    batching = Batching(backend, n_most)

    def call(number: int) -> Any:
        while number and not backend.sizes:  # until the first computes
            time.sleep(0.01)
        try:
            with torch.inference_mode():
                return batching.separate(*calls[number])
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        results = list(pool.map(call, range(len(calls))))
    assert not batching._waiting and batching.info == ToyBackend.info
    return results, backend.sizes


def assert_as_alone(results: list[Any], calls: list[tuple[Tensor, Any]]) -> None:
    for result, call in zip(results, calls, strict=True):
        alone = ToyBackend().separate(*call)
        assert (result.sources - alone.sources).abs().max() <= TOLERANCE * call[0].abs().max()
        assert (result.presence is None) == (alone.presence is None)
        if alone.presence is not None:
            assert torch.allclose(result.presence, alone.presence, atol=1e-6)


def test_calls_that_wait_are_computed_together() -> None:
    calls: list[tuple[Tensor, Any]] = [(mixture, None) for mixture in mixtures(*[5000] * 5)]
    results, sizes = computed(calls)
    assert_as_alone(results, calls)
    assert sizes == [1, 4]


def test_only_what_fits_shares_a_batch() -> None:
    guitar, bass = torch.eye(N_BANDS)[:2, None]
    short, *same = mixtures(900, 5000, 5000, 5000, 5000, 5000)
    calls = [(same[0], guitar), (same[1], guitar), (same[2], guitar), (same[3], bass), (same[4], None), (short, guitar)]
    results, sizes = computed(calls)
    assert_as_alone(results, calls)
    assert sorted(sizes) == [1, 1, 1, 1, 2]
    results, sizes = computed([(mixture, None) for mixture in mixtures(*[5000] * 6)], n_most=2)
    assert sorted(sizes) == [1, 1, 2, 2]


def test_one_that_fails_fails_alone() -> None:
    calls: list[tuple[Tensor, Any]] = [(mixture, None) for mixture in mixtures(*[5000] * 4)]
    calls[2][0][:] = 3.0
    results, sizes = computed(calls, is_broken=lambda mixture: bool((mixture == 3.0).any()))
    assert isinstance(results[2], RuntimeError) and sizes == [1, 3, 1, 1, 1]
    assert_as_alone([results[0], results[1], results[3]], [calls[0], calls[1], calls[3]])


@pytest.fixture
def toys() -> Iterator[None]:
    with using(TOYS):
        yield


def test_recordings_of_a_worker_share_batches(
    songs: Path, tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Batching] = []

    def batching(backend: Backend, n_most: int) -> Batching:
        held = Held(lambda: len(made[0]._waiting) < 3)
        made.append(Batching(held, n_most))
        return made[-1]

    monkeypatch.setattr(stations, "Batching", batching)
    monkeypatch.setattr(Options, "n_at_once", 4)  # one on the CPU
    question = {"query": "guitar", "stems": None, "route": "auto"}
    alone = Station(Job(Folder(str(tmp_path / "alone")), TOY, question, {}, {}))
    together = Station(Job(Folder(str(tmp_path / "together")), TOY, question, {}, {}, n_beside=4, batches=True))
    recordings = [Recording(str(songs / f"song {number}.wav")) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        rows = list(pool.map(lambda recording: together.separate(recording, None), recordings))
    assert made[0]._backend.sizes == [1, 2]  # type: ignore[attr-defined]
    for row, recording in zip(rows, recordings, strict=True):
        expected = alone.separate(recording, None)
        assert row["state"] == expected["state"] == "done" and row["request"] == expected["request"]
        for output in row["outputs"]:
            one, other = (files.read(tmp_path / name / output["path"]).samples for name in ("together", "alone"))
            assert np.abs(one - other).max() <= TOLERANCE + 2**-15  # files of 16 bits
