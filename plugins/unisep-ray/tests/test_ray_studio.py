"""`unisep serve --ray`: the studio's jobs on actors."""

from __future__ import annotations

import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from unisep import Separator, files
from unisep.testing import chirp, mix, noise

pytest.importorskip("unisep_studio")
BENCH = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "studio.py"))
TOY = {"backend": "paced", "query_backend": "paced", "encoder": "toy"}


@pytest.fixture
def http(cluster: Any, tmp_path: Path) -> Iterator[httpx.Client]:
    options = ["--ray", cluster.address, "--threads", "1"]
    with (
        BENCH["running"](tmp_path / "data", *options, UNISEP_PLUGINS="unisep-studio") as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        yield client


def ended(http: httpx.Client, recording: str, **question: Any) -> dict[str, Any]:
    response = http.post("/v1/separations", json={"recording": recording, **question})
    assert response.status_code == 202, response.text
    limit = time.monotonic() + 180
    while (job := http.get(f"/v1/separations/{response.json()['id']}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)
    return job


def test_jobs_go_to_actors_and_one_that_ends_its_actor_fails_alone(http: httpx.Client, tmp_path: Path) -> None:
    song = files.write(tmp_path / "song.wav", mix(chirp(2.0, 22_050), noise(2.0, 22_050)), subtype="FLOAT")
    uploaded = http.post("/v1/recordings", files={"file": ("song.wav", song.read_bytes())}).json()["id"]
    crashed = ended(http, uploaded, query="guitar", options={**TOY, "query_backend": "crashing"})
    assert crashed["state"] == "failed" and crashed["error"]["type"] == "WorkerCrashed"
    refused = ended(http, uploaded, query="guitar", options={**TOY, "query_backend": "nothing"})
    assert refused["state"] == "failed" and refused["error"]["type"] == "PluginError"
    done = ended(http, uploaded, query="guitar", options=TOY)
    assert done["state"] == "done" and done["progress"] == 1.0
    (tmp_path / "guitar.wav").write_bytes(http.get(f"/v1/separations/{done['id']}/files/guitar").content)
    with Separator(**TOY, threads=1, plugins=BENCH["TOYS"]) as separator:
        expected = separator.separate(song, query="guitar").target
    assert np.array_equal(files.read(tmp_path / "guitar.wav").samples, expected.samples)
    vector = http.post("/v1/embeddings", json={"query": "guitar", "options": TOY}).json()
    assert vector["space"] == "toy-bands-1" and http.get("/healthz").json() == {"ok": True, "workers": 1}
