"""Limits of a server: jobs that wait, room on the disk, several workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from unisep_studio.app import create_app
from unisep_studio.settings import Settings

from unisep import files
from unisep.testing import noise

TOYS = Path(__file__).parents[3] / "benchmarks" / "studio_toys.py"
GATED = {"backend": "gated", "query_backend": "gated", "encoder": "toy", "route": "conditioned"}


@pytest.fixture
def gate(tmp_path, monkeypatch):
    path = tmp_path / "gate"
    path.touch()
    monkeypatch.setenv("STUDIO_TOYS_GATE", str(path))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def serving(tmp_path, gate):
    """Return a function that starts a server with limits, in this process but for its workers."""
    clients = []

    def start(**limits):
        settings = Settings(tmp_path / "data", plugins=(str(TOYS),), offline=True, **limits)
        clients.append(TestClient(create_app(settings), base_url="http://127.0.0.1:8765"))
        return clients[-1].__enter__()

    yield start
    gate.unlink(missing_ok=True)
    for client in clients:
        client.__exit__(None, None, None)


def upload(client, tmp_path, seconds=0.5, seed=0):
    path = files.write(tmp_path / f"song-{seed}.wav", noise(seconds, 22_050, seed=seed))
    return client.post("/v1/recordings", files={"file": (path.name, path.read_bytes())})


def ask(client, recording, query):
    return client.post("/v1/separations", json={"recording": recording, "query": query, "options": GATED})


def until(client, job, *states):
    limit = time.monotonic() + 120
    while (state := client.get(f"/v1/separations/{job}").json())["state"] not in states:
        assert time.monotonic() < limit, f"waited in vain: {state}"
        time.sleep(0.02)
    return state


def test_so_many_jobs_wait_at_most(serving, tmp_path, gate):
    client = serving(max_waiting=2)
    recording = upload(client, tmp_path).json()["id"]
    running = ask(client, recording, "running").json()["id"]
    until(client, running, "running")
    waiting = [ask(client, recording, f"waiting {number}").json()["id"] for number in range(2)]
    refused = ask(client, recording, "too many")
    assert refused.status_code == 429 and refused.json()["error"]["type"] == "QueueFull"
    assert int(refused.headers["Retry-After"]) > 0
    gate.unlink()
    assert [until(client, job, "done", "failed")["state"] for job in (running, *waiting)] == ["done"] * 3
    assert ask(client, recording, "too many").status_code == 202


def test_a_full_disk_refuses_uploads_and_keeps_what_jobs_need(serving, tmp_path, gate):
    client = serving(quota_bytes=500_000)
    first = upload(client, tmp_path, seed=1)
    assert first.status_code == 201
    job = ask(client, first.json()["id"], "needs it").json()["id"]
    until(client, job, "running")
    refused = upload(client, tmp_path, seconds=2.5, seed=2)
    assert refused.status_code == 507 and refused.json()["error"]["type"] == "DiskSpaceError"
    gate.unlink()
    assert until(client, job, "done", "failed")["state"] == "done"
    assert upload(client, tmp_path, seconds=2.5, seed=2).status_code == 201, "the least recently used makes room"
    assert client.get(f"/v1/recordings/{first.json()['id']}").status_code == 404


def test_workers_separate_side_by_side(serving, tmp_path, gate):
    client = serving(n_workers=2)
    recordings = [upload(client, tmp_path, seed=seed).json()["id"] for seed in (3, 4)]
    jobs = [ask(client, recording, "side by side").json()["id"] for recording in recordings]
    for job in jobs:
        until(client, job, "running")
    assert client.get("/healthz").json() == {"ok": True, "workers": 2}
    gate.unlink()
    assert [until(client, job, "done", "failed")["state"] for job in jobs] == ["done", "done"]
