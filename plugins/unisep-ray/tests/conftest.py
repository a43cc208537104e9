"""A small cluster and an S3 store for all tests that need them, and recordings."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unisep_ray import storage

from unisep import files
from unisep.testing import chirp, mix, noise

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="300")  # read when Ray is imported
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def recording(path: Path, seed: int = 0, seconds: float = 1.0) -> Path:
    return files.write(path, mix(chirp(seconds, 22_050), noise(seconds, 22_050, seed=seed)))


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings and a file that is none."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(3):
        recording(folder / f"song {number}.wav", number, 0.4 + 0.1 * number)
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    with runpy.run_path(str(BENCHMARKS / "catalogue_s3.py"))["store"]() as store:
        yield store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon."""
    monkeypatch.setattr(storage, "DELAYS_SECONDS", (0.01,) * 3)


@pytest.fixture(scope="session")
def cluster(s3: Any) -> Iterator[Any]:
    """A cluster with a node that only the driver uses, and another; workers find the store by the environment."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    yield cluster
    ray.shutdown()
    cluster.shutdown()
