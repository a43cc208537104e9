"""One server for all tests that need a real one, and helpers to talk to it."""

from __future__ import annotations

import re
import runpy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from unisep import files
from unisep.testing import chirp, mix, noise

BENCH = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "studio.py"))
TOY = {"backend": "paced", "query_backend": "paced", "encoder": "toy"}


class Api(httpx.Client):
    """Talks to the server, and expects what should come."""

    def upload(self, path: Path, name: str = "") -> dict[str, Any]:
        response = self.post("/v1/recordings", files={"file": (name or path.name, path.read_bytes())})
        assert response.status_code == 201, response.text
        return response.json()

    def ask(self, recording: str, query: Any = None, *, status: int = 202, **more: Any) -> dict[str, Any]:
        body = {"recording": recording, "query": query, "options": TOY, **more}
        response = self.post("/v1/separations", json=body)
        assert response.status_code == status, response.text
        return response.json()

    def state(self, id: str) -> dict[str, Any]:
        response = self.request("GET", f"/v1/separations/{id}")
        assert response.status_code == 200, response.text
        return response.json()

    def ended(self, id: str) -> dict[str, Any]:
        """Wait until a job has ended, and return how."""
        self.until(lambda: self.state(id)["state"] in ("done", "failed", "cancelled"))
        return self.state(id)

    def until(self, holds: Callable[[], Any], seconds: float = 60.0) -> None:
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, "waited in vain"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="session")
def server(place: Path) -> Iterator[Any]:
    variables = {"STUDIO_TOYS_LOG": str(place / "calls"), "STUDIO_TOYS_GATE": str(place / "gate")}
    with BENCH["running"](place / "data", "--max-minutes", "1", "--max-upload", "5", **variables) as running:
        yield running


@pytest.fixture
def http(server: Any) -> Iterator[Api]:
    with Api(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def song(place: Path) -> Path:
    """Three seconds in stereo that peak beyond full scale."""
    audio = mix(chirp(3.0, 22_050), noise(3.0, 22_050, deviation=0.3))
    assert abs(audio.samples).max() > 1
    return files.write(place / "a song.wav", audio)


@pytest.fixture
def recording(http: Api, song: Path) -> str:
    return http.upload(song)["id"]


@pytest.fixture
def gate(place: Path, http: Api) -> Iterator[Path]:
    """What holds up the backend "gated" as long as it is there."""
    path = place / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)
    http.until(lambda: not re.search('state="(queued|running)"', http.get("/metrics").text))
