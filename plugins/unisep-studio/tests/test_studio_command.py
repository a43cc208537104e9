"""The commands, and whole servers: how they start and stop, under load, under abuse, and killed."""

from __future__ import annotations

import runpy
import signal
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from unisep_studio import command
from unisep_studio.settings import IN_TAB_FILES, Settings, default_data

from unisep import plugins
from unisep.cli import main
from unisep.errors import OptionError

BENCH = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "studio.py"))
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for workers in /proc")


@pytest.fixture
def started(monkeypatch):
    """What the server would have been started with, and the pages that were opened."""
    seen = []

    def run(settings, on_start):
        seen.append(settings)
        on_start("http://127.0.0.1:1234")

    monkeypatch.delenv(command.TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr("unisep_studio.app.run", run)
    monkeypatch.setattr("webbrowser.open", seen.append)
    return seen


def test_the_server_is_for_this_machine_alone_by_default(started, capsys):
    assert main(["serve"]) == 0
    (settings,) = started
    assert settings.host == "127.0.0.1" and settings.tokens == () and not settings.has_page
    assert capsys.readouterr().out == "http://127.0.0.1:1234\n"


def test_the_studio_opens_the_browser(started):
    assert main(["studio", "--no-open"]) == 0 and len(started) == 1 and started.pop().has_page
    assert main(["studio"]) == 0 and started[1:] == ["http://127.0.0.1:1234"]


def test_a_token_is_made_and_printed_where_others_reach_the_server(started, capsys):
    assert main(["studio", "--host", "0.0.0.0"]) == 0
    settings, page = started
    (token,) = settings.tokens
    assert len(token) >= 32 and f"the token: {token}" in capsys.readouterr().err
    assert page.endswith(f"#token={token}"), "behind the #, where it is not sent"
    main(["serve", "--host", "::", "--token", "x" * 16, "--token", "y" * 16])
    assert started[2].tokens == ("x" * 16, "y" * 16) and "x" * 16 not in capsys.readouterr().err


def test_a_token_can_come_from_the_environment(started, monkeypatch):
    monkeypatch.setenv(command.TOKEN_VARIABLE, "z" * 20)
    main(["serve"])
    assert started[0].tokens == ("z" * 20,)


@pytest.mark.parametrize(
    "words",
    [
        ["--token", "short"],
        ["--token", "ü" * 20],
        ["--port", "70000"],
        ["--workers", "0"],
        ["--disk", "0"],
        ["--keep", "-1"],
    ],
)
def test_wrong_options_are_refused(words, started):
    assert main(["serve", *words]) == 2 and not started


def test_a_folder_for_the_tab_is_whole(started, tmp_path, capsys):
    for name in IN_TAB_FILES[1:]:
        (tmp_path / name).touch()
    assert main(["studio", "--no-open", "--in-tab", str(tmp_path)]) == 2 and not started
    said = capsys.readouterr().err
    assert f"--in-tab {tmp_path} has no {IN_TAB_FILES[0]}. Build it in examples/browser" in said
    (tmp_path / IN_TAB_FILES[0]).touch()
    assert main(["studio", "--no-open", "--in-tab", str(tmp_path)]) == 0 and started[0].in_tab == tmp_path
    assert main(["serve", "--in-tab", str(tmp_path)]) == 2, "it has no page"


def test_a_server_that_others_reach_needs_a_token(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.0.7", "studio.example"):
        with pytest.raises(OptionError, match="token"):
            Settings(tmp_path, host=host)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert Settings(tmp_path, host=host).is_loopback


def test_data_lie_where_data_of_programs_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data() == tmp_path / "unisep" / "studio"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data() == Path.home() / ".local" / "share" / "unisep" / "studio"


@pytest.mark.parametrize("name", ["serve", "studio"])
def test_without_the_package_it_says_how_to_get_it(name, monkeypatch, capsys):
    monkeypatch.setattr(plugins.registry, "distributions", lambda: [])
    plugins.refresh()
    assert main([name]) == 1
    assert "pip install unisep-studio" in capsys.readouterr().err
    monkeypatch.undo()
    plugins.refresh()


def test_a_stop_is_graceful_and_a_start_goes_on(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    server = BENCH["Running"](tmp_path / "data", STUDIO_TOYS_GATE=str(gate)).start()
    try:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            song = BENCH["song"](tmp_path, 1, 1.0)
            recording = http.post("/v1/recordings", files={"file": (song.name, song.read_bytes())}).json()["id"]
            job = BENCH["post"](http, recording, "drums", query_backend="gated", backend="gated")
            with http.stream("GET", f"/v1/separations/{job}/events") as events:
                lines = events.iter_lines()
                assert any('"separating"' in line for line in lines)
                started = time.monotonic()
                assert server.stop(signal.SIGTERM) == 143
                assert time.monotonic() - started < 15
                assert not any('"done"' in line for line in lines), "who listened is let go"
        gate.unlink()
        server.start()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while (state := http.get(f"/v1/separations/{job}").json())["state"] in ("queued", "running"):
                time.sleep(0.05)
            assert state["state"] == "done"
    finally:
        server.stop(signal.SIGKILL)


def test_under_load_nothing_is_lost(server, tmp_path):
    figures = BENCH["load"](server, tmp_path, n_clients=20, n_uploads=6, seconds=2.0)
    assert figures["lost"] == 0 and figures["states"] == {"done": 6} and figures["polls"] >= 20


def test_under_abuse_nothing_fails_or_leaks(server, tmp_path):
    figures = BENCH["abuse"](server, tmp_path, n_requests=120, seed=1)
    assert figures["strange"] == [] and figures["leaks"] == [] and figures["outside"] == [] and figures["health"] == 200
    assert len(figures["statuses"]) > 5


@on_linux
def test_killed_at_random_every_job_ends_once(tmp_path):
    figures = BENCH["kills"](tmp_path, n_kills=2, n_jobs=9, seed=3, pace_seconds=1.0)
    assert figures["changed_after_their_end"] == [] and figures["left_over"] == []
    assert sum(figures["states"].values()) == figures["jobs"] == 9
    assert figures["states"]["done"] >= 9 - 2
