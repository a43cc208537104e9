from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from unisep.errors import DownloadError, WeightsError
from unisep.weights import download, hashes, hub
from unisep.weights.cards import Card, CardFile, parse_card, read_card
from unisep.weights.store import FileProgress, WeightsStore

CONTENT = bytes(range(256)) * 2_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAG = '"tag-1"'


@dataclass
class Server:
    """What the server does, and what it saw. `cut_after` ends only the first answer early."""

    content: bytes = CONTENT
    status: int = 200
    cut_after: int | None = None
    cuts: list[int] = field(default_factory=list)  # after that
    ignores_range: bool = False
    tag: str = TAG
    announces: int | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    state: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        state.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if self.path in state.redirects:
            self._head(302, {"Location": state.redirects[self.path], **state.headers})
        elif state.status != 200:
            self._head(state.status, {"Content-Length": "0"})
        else:
            self._send()

    def _send(self) -> None:
        state, first = self.state, 0
        wanted = self.headers.get("Range", "")
        if wanted and not state.ignores_range and self.headers.get("If-Range", state.tag) == state.tag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if first >= len(state.content):
            self._head(416, {"Content-Length": "0"})
            return
        body = state.content[first:]
        length = len(body) if state.announces is None else state.announces
        sent = {"Content-Length": str(length), "ETag": state.tag, **({} if state.redirects else state.headers)}
        if first:
            sent["Content-Range"] = f"bytes {first}-{len(state.content) - 1}/{len(state.content)}"
        self._head(206 if first else 200, sent)
        cut, state.cut_after = state.cut_after, state.cuts.pop(0) if state.cuts else None
        self.wfile.write(body if cut is None else body[:cut])

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up early are part of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("HF_TOKEN", "UNISEP_HOME"):
        monkeypatch.delenv(name, raising=False)
    # huggingface_hub reads its environment once, when it is imported.
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.HUB)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    state = Server()
    web = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{web.server_address[1]}"
    yield state
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    return WeightsStore(offline=False, folder=tmp_path / "weights")


def card_of(url: str, sha256: str = SHA256, **values: Any) -> Card:
    file = CardFile(name="a.safetensors", url=url, sha256=sha256, **values)
    return Card(name="toy", summary="a toy", licence="MIT", files=(file,))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# downloading


def test_a_download_is_verified_recorded_and_reported(server: Server, store: WeightsStore) -> None:
    card, seen = card_of(f"{server.url}/a", n_bytes=len(CONTENT)), list[FileProgress]()
    assert store.state(card) == "missing"
    assert [check.state for check in store.verify(card)] == ["missing"]
    folder = store.ensure(card, seen.append)
    assert (folder / "a.safetensors").read_bytes() == CONTENT
    assert names_in(folder) == {"a.safetensors", ".record.json", ".lock"}
    assert store.state(card) == "present"
    assert seen[-1] == FileProgress("toy", "a.safetensors", len(CONTENT), len(CONTENT))
    assert [check.state for check in store.verify(card)] == ["ok"]
    assert store.ensure(card) == folder
    assert len(server.seen) == 1


def test_a_cut_connection_is_resumed_where_it_broke(server: Server, store: WeightsStore) -> None:
    server.cut_after = 100_000
    folder = store.ensure(card_of(f"{server.url}/a"))
    assert (folder / "a.safetensors").read_bytes() == CONTENT
    assert server.seen[1][1]["range"] == "bytes=100000-"
    assert server.seen[1][1]["if-range"] == TAG


def test_a_bad_part_of_an_earlier_time_costs_no_attempt(server: Server, tmp_path: Path) -> None:
    target, n_attempts = tmp_path / "a.safetensors", download.N_ATTEMPTS
    target.with_name(f".{target.name}.part").write_bytes(b"x" * 1000)
    server.cut_after, server.cuts = 1000, [1000] * (n_attempts - 2)
    request = download.Request(f"{server.url}/a", SHA256, len(CONTENT))
    assert download.fetch(request, target)[0] == SHA256
    assert len(server.seen) == n_attempts + 1


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, store: WeightsStore) -> None:
    def stop(progress: FileProgress) -> None:
        if progress.n_bytes_done > 200_000:
            raise KeyboardInterrupt

    card = card_of(f"{server.url}/a", sha256="")
    with pytest.raises(KeyboardInterrupt):
        store.ensure(card, stop)
    assert store.state(card) == "missing"
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT
    assert int(server.seen[1][1]["range"].removeprefix("bytes=").removesuffix("-")) > 200_000


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, store: WeightsStore) -> None:
    def stop(progress: FileProgress) -> None:
        raise KeyboardInterrupt

    card = card_of(f"{server.url}/a", sha256="")
    with pytest.raises(KeyboardInterrupt):
        store.ensure(card, stop)
    server.content, server.tag = CONTENT[::-1], '"tag-2"'
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("tag", [TAG, 'W/"weak"', ""])
def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, store: WeightsStore, tag: str) -> None:
    server.cut_after, server.ignores_range, server.tag = 1000, True, tag
    assert (store.ensure(card_of(f"{server.url}/a")) / "a.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("left_over", [b"not the start of this file" * 10, CONTENT + b"too long"])
@pytest.mark.parametrize("n_bytes", [0, len(CONTENT)])
def test_a_wrong_left_over_part_is_thrown_away(
    server: Server, store: WeightsStore, left_over: bytes, n_bytes: int
) -> None:
    card = card_of(f"{server.url}/a", n_bytes=n_bytes)
    store.path(card).mkdir(parents=True)
    (store.path(card) / ".a.safetensors.part").write_bytes(left_over)
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT
    assert names_in(store.path(card)) == {"a.safetensors", ".record.json", ".lock"}


def test_a_whole_left_over_part_is_only_verified(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a", n_bytes=len(CONTENT))
    store.path(card).mkdir(parents=True)
    (store.path(card) / ".a.safetensors.part").write_bytes(CONTENT)
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT
    assert server.seen == []


def test_what_cannot_be_verified_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    target.with_name(".a.safetensors.part").write_bytes(bytes(len(CONTENT)))
    target.with_name(".a.safetensors.part.etag").write_text(TAG)
    assert download.fetch(download.Request(f"{server.url}/a"), target)[0] == SHA256
    assert target.read_bytes() == CONTENT and names_in(tmp_path) == {"a.safetensors"}


def test_a_wrong_hash_is_refused_and_nothing_is_left(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a", sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"its sha256 is {SHA256}.*do not use it"):
        store.ensure(card)
    assert names_in(store.path(card)) == {".lock"}


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_size_that_is_not_the_cards_is_refused(server: Server, store: WeightsStore, difference: int) -> None:
    card = card_of(f"{server.url}/a", n_bytes=len(CONTENT) + difference)
    with pytest.raises(WeightsError, match="bytes are expected"):
        store.ensure(card)
    assert names_in(store.path(card)) == {".lock"}


def test_a_length_that_is_too_long_is_a_broken_download(server: Server, store: WeightsStore) -> None:
    server.announces = len(CONTENT) + 100
    with pytest.raises(DownloadError, match="try again"):
        store.ensure(card_of(f"{server.url}/a"))
    assert not (store.path(card_of(f"{server.url}/a")) / "a.safetensors").exists()


def test_a_length_that_is_too_short_never_gives_half_a_file(server: Server, store: WeightsStore) -> None:
    server.announces = 1000
    card = card_of(f"{server.url}/a")
    with pytest.raises(WeightsError):
        store.ensure(card)
    assert "a.safetensors" not in names_in(store.path(card))


@pytest.mark.parametrize(("announces", "message"), [(None, "at most 5,000"), (-1, "more than the 5,000")])
def test_an_endless_answer_is_stopped(
    server: Server, store: WeightsStore, monkeypatch: pytest.MonkeyPatch, announces: int | None, message: str
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 5000)
    server.announces = announces  # -1 is no length
    with pytest.raises(WeightsError, match=message):
        store.ensure(card_of(f"{server.url}/a"))
    assert names_in(store.folder / "toy") == {".lock"}


@pytest.mark.parametrize(("status", "message"), [(404, "status 404"), (401, "HF_TOKEN"), (500, "try again")])
def test_what_the_server_refuses_is_a_typed_error(
    server: Server, store: WeightsStore, status: int, message: str
) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=message):
        store.ensure(card_of(f"{server.url}/a"))
    assert len(server.seen) == (download.N_ATTEMPTS if status == 500 else 1)


def test_no_server_at_all_is_a_typed_error(server: Server, store: WeightsStore) -> None:
    with pytest.raises(DownloadError, match="Check the connection"):
        store.ensure(card_of("http://127.0.0.1:1/a"))


def test_a_folder_that_cannot_be_made_is_a_typed_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="UNISEP_HOME"):
        WeightsStore(False, tmp_path / "file").ensure(card_of(f"{server.url}/a"))


def test_redirects_are_followed_to_safe_addresses_only(server: Server, store: WeightsStore) -> None:
    server.redirects = {"/a": f"{server.url}/b", "/c": "http://example.org/a", "/d": "file:///etc/hostname"}
    assert (store.ensure(card_of(f"{server.url}/a")) / "a.safetensors").read_bytes() == CONTENT
    for path in ("/c", "/d"):
        card = card_of(f"{server.url}{path}").model_copy(update={"name": path[1:]})
        with pytest.raises(WeightsError, match="not safe"):
            store.ensure(card)


def test_several_threads_pull_once(server: Server, store: WeightsStore) -> None:
    card, folders = card_of(f"{server.url}/a"), list[Path]()
    threads = [threading.Thread(target=lambda: folders.append(store.ensure(card))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [store.path(card)] * 6
    assert len(server.seen) == 1


def test_several_processes_pull_once(server: Server, store: WeightsStore) -> None:
    code = (
        "import sys; from pathlib import Path; from unisep.weights.cards import *; from unisep.weights.store import *;"
        "card = Card(name='toy', summary='', files=(CardFile(name='a.safetensors', url=sys.argv[1], sha256=sys.argv[2]),));"
        "WeightsStore(False, Path(sys.argv[3])).ensure(card)"
    )
    command = [sys.executable, "-c", code, f"{server.url}/a", SHA256, str(store.folder)]
    processes = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) for _ in range(2)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(server.seen) == 1
    assert (store.folder / "toy" / "a.safetensors").read_bytes() == CONTENT


# what is there already


def test_offline_names_the_command_and_asks_nobody(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    store = WeightsStore(folder=tmp_path / "weights")
    assert store.offline
    with pytest.raises(DownloadError, match="unisep models pull toy"):
        store.ensure(card_of(f"{server.url}/a"))
    assert server.seen == []
    assert not (tmp_path / "weights").exists()


def test_a_damaged_file_is_fetched_again_online_and_refused_offline(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a")
    path = store.ensure(card) / "a.safetensors"
    path.write_bytes(b"x" + CONTENT[1:])
    assert [check.state for check in store.verify(card)] == ["damaged"]
    with pytest.raises(WeightsError, match="is damaged"):
        WeightsStore(True, store.folder).ensure(card)
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT


def test_a_file_of_another_size_than_the_cards_is_not_here(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a", n_bytes=len(CONTENT))
    path = store.ensure(card) / "a.safetensors"
    path.write_bytes(CONTENT[1:])
    assert store.state(card) == "missing"
    assert (store.ensure(card) / "a.safetensors").read_bytes() == CONTENT


def test_without_a_hash_the_first_download_is_recorded_and_enforced(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a", sha256="")
    path = store.ensure(card) / "a.safetensors"
    assert json.loads((path.parent / ".record.json").read_text())["a.safetensors"]["sha256"] == SHA256
    server.content = CONTENT[::-1]
    path.unlink()
    with pytest.raises(WeightsError, match=f"{SHA256} is expected"):
        store.ensure(card)
    assert not path.exists()


def test_a_card_with_a_new_hash_is_fetched_anew(server: Server, store: WeightsStore) -> None:
    store.ensure(card_of(f"{server.url}/a"))
    server.content = CONTENT[::-1]
    card = card_of(f"{server.url}/a", sha256=hashlib.sha256(server.content).hexdigest())
    assert store.state(card) == "missing"
    with pytest.raises(DownloadError, match="offline"):
        WeightsStore(True, store.folder).ensure(card)
    assert (store.ensure(card) / "a.safetensors").read_bytes() == server.content


@pytest.mark.parametrize("sha256", [SHA256, ""])
def test_a_file_put_there_by_hand_is_verified_and_used(server: Server, store: WeightsStore, sha256: str) -> None:
    card = card_of(f"{server.url}/a", sha256)
    store.path(card).mkdir(parents=True)
    (store.path(card) / "a.safetensors").write_bytes(CONTENT)
    assert WeightsStore(True, store.folder).ensure(card) == store.path(card)
    assert server.seen == []
    assert store.verify(card)[0].expected == SHA256


def test_a_hash_is_computed_once_and_again_when_the_file_changes(
    server: Server, store: WeightsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of(f"{server.url}/a")
    path = store.ensure(card) / "a.safetensors"
    hashed: list[Path] = []
    real: Callable[[Path], str] = hashes.sha256_of

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr("unisep.weights.hashes.sha256_of", counted)
    store.ensure(card)
    assert hashed == []
    os.utime(path, ns=(1, 1))
    store.ensure(card)
    store.ensure(card)
    assert hashed == [path]


def test_removing_frees_the_bytes(server: Server, store: WeightsStore) -> None:
    card = card_of(f"{server.url}/a")
    store.ensure(card)
    assert store.remove(card) >= len(CONTENT)
    assert store.state(card) == "missing"
    assert store.remove(card) == 0


# the hub


@pytest.fixture
def hub_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address on the hub, which HF_ENDPOINT sends to the server; the file itself is on another host."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.redirects = {
        f"/owner/repo/resolve/{revision}/a.safetensors": f"{server.url.replace('127.0.0.1', 'localhost')}/store/a"
        for revision in ("main", COMMIT)
    }
    server.headers = {"X-Repo-Commit": COMMIT, "X-Linked-ETag": f'"{SHA256}"'}
    return f"{hub.HUB}/owner/repo/resolve/main/a.safetensors"


def test_the_token_goes_to_the_hub_only_and_the_commit_is_recorded(
    server: Server, store: WeightsStore, hub_url: str
) -> None:
    card = card_of(hub_url, sha256="", revision="main")
    path = store.ensure(card) / "a.safetensors"
    assert [(seen, headers.get("authorization")) for seen, headers in server.seen] == [
        ("/owner/repo/resolve/main/a.safetensors", "Bearer secret"),
        ("/store/a", None),
    ]
    assert json.loads((path.parent / ".record.json").read_text())["a.safetensors"]["commit"] == COMMIT
    path.unlink()
    store.ensure(card)
    assert server.seen[2][0] == f"/owner/repo/resolve/{COMMIT}/a.safetensors"


def test_what_the_hub_says_of_the_file_is_enforced(server: Server, store: WeightsStore, hub_url: str) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(WeightsError, match=f"{SHA256} is expected"):
        store.ensure(card_of(hub_url, sha256=""))


def test_the_token_is_not_sent_elsewhere(server: Server, store: WeightsStore, hub_url: str) -> None:
    server.redirects = {}
    store.ensure(card_of(f"{server.url}/a"))
    assert "authorization" not in server.seen[0][1]


def test_a_login_counts_like_the_token_in_the_environment(
    server: Server, store: WeightsStore, hub_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("from hf auth login\n")
    store.ensure(card_of(hub_url))
    assert [headers.get("authorization") for _, headers in server.seen] == ["Bearer from hf auth login", None]


def test_a_login_that_cannot_be_read_is_a_typed_error(
    server: Server, store: WeightsStore, hub_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf" / "token").mkdir(parents=True)
    with pytest.raises(DownloadError, match="login token"):
        store.ensure(card_of(hub_url))
    assert server.seen == []


def refused(*_: object) -> None:
    raise OSError("Operation not permitted")


def into_hub_cache(home: Path, content: bytes) -> None:
    repo = home / "hub" / "models--owner--repo"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / SHA256).write_bytes(content)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "a.safetensors").symlink_to(repo / "blobs" / SHA256)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_in_the_hubs_own_cache_is_used_even_offline(
    server: Server, store: WeightsStore, tmp_path: Path, revision: str, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", refused)
    into_hub_cache(tmp_path / "hf", CONTENT)
    card = card_of(f"{hub.HUB}/owner/repo/resolve/{revision}/a.safetensors")
    offline = WeightsStore(True, store.folder)
    assert offline.state(card) == "present"
    assert [check.state for check in offline.verify(card)] == ["ok"]
    path = offline.ensure(card) / "a.safetensors"
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert json.loads((path.parent / ".record.json").read_text())["a.safetensors"]["commit"] == COMMIT
    assert server.seen == []


def test_a_wrong_file_in_the_hubs_cache_is_not_used(
    server: Server, store: WeightsStore, tmp_path: Path, hub_url: str
) -> None:
    into_hub_cache(tmp_path / "hf", b"something else")
    assert (store.ensure(card_of(hub_url)) / "a.safetensors").read_bytes() == CONTENT


SETTINGS: list[tuple[dict[str, str], str]] = [
    ({}, "~/.cache/huggingface/unisep/weights False https://huggingface.co/a"),
    ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/unisep/weights False https://huggingface.co/a"),
    ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/unisep/weights False https://huggingface.co/a"),
    ({"HF_HOME": "/h", "UNISEP_HOME": "/u"}, "/u/weights False https://huggingface.co/a"),
    ({"UNISEP_HOME": "~/u", "HF_HUB_OFFLINE": "1"}, "~/u/weights True https://huggingface.co/a"),
    ({"UNISEP_HOME": "/u", "HF_ENDPOINT": "https://hub.my/"}, "/u/weights False https://hub.my/a"),
]


@pytest.mark.parametrize(("settings", "expected"), SETTINGS)
def test_places_follow_the_environment(settings: dict[str, str], expected: str) -> None:
    code = (
        "from unisep.weights import hub, store; s = store.WeightsStore();"
        "print(s.folder, s.offline, hub.address(hub.HUB + '/a'))"
    )
    names = ("UNISEP_HOME", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in names and not name.startswith("HF_")}
    environment = {**kept, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected.replace("~", os.path.expanduser("~")).split()


def test_nothing_of_the_hub_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys, unisep; from unisep.weights import checkpoints, store;"
        "print('huggingface_hub' in sys.modules, 'filelock' in sys.modules);"
        "store.WeightsStore().folder; print('httpx2' in sys.modules, 'huggingface_hub.hf_api' in sys.modules)"
    )
    environment = {**os.environ, "UNISEP_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 4


# cards

CARD = """
name = "toy"
summary = "a toy"
licence = "MIT"
sources = ["drums"]
sample_rate_hz = 44100

[[files]]
name = "a.safetensors"
url = "https://example.org/a.safetensors"

[measured]
drums = { sdr_db = 5.5, windows = 8 }
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import fails, with a card and embedded weights."""
    folder = tmp_path / "site" / "toy_weights_package"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "weights" / "a.safetensors").write_bytes(CONTENT)
    card = CARD.replace(
        'url = "https://example.org/a.safetensors"', f'resource = "weights/a.safetensors"\nsha256 = "{SHA256}"'
    )
    (folder / "card.toml").write_text(card)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_embedded_weights_are_found_without_importing_their_package(package: Path, tmp_path: Path) -> None:
    store, card = WeightsStore(True, tmp_path / "weights"), read_card("toy_weights_package:card.toml")
    assert store.state(card) == "embedded"
    assert store.ensure(card) == package / "weights"
    assert [check.state for check in store.verify(card)] == ["ok"]
    assert not (tmp_path / "weights").exists()
    with pytest.raises(WeightsError, match="uninstall"):
        store.remove(card)
    (package / "weights" / "a.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"Reinstall the package: pip install .* toy-weights-package"):
        store.ensure(card)


INSTALLED = """
[[installed]]
name = "a.safetensors"
resource = "weights/a.safetensors"
[measured]
"""


def test_weights_in_another_installed_package_make_a_download_needless(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "there" / "toy_other_package"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("")
    for package_name, name in (("toy_weights_package", "here"), ("no_such_package_here", "away")):
        text = CARD.replace("[[files]]", f'installed_in = "{package_name}"\n[[files]]').replace("[measured]", INSTALLED)
        (other / f"{name}.toml").write_text(text)
    monkeypatch.syspath_prepend(str(other.parent))
    store = WeightsStore(True, tmp_path / "weights")
    here, away = read_card("toy_other_package:here.toml"), read_card("toy_other_package:away.toml")
    assert (store.state(here), store.ensure(here)) == ("embedded", package / "weights")
    assert (store.state(away), away.package, away.embedded) == ("missing", "toy_other_package", False)
    with pytest.raises(WeightsError, match="uninstall"):
        store.remove(here)
    with pytest.raises(DownloadError, match="offline"):
        store.ensure(away)


def test_a_card_is_read() -> None:
    card = parse_card(CARD, "toy")
    assert (card.name, card.licence, card.sources, card.embedded) == ("toy", "MIT", ("drums",), False)
    assert card.measured["drums"]["sdr_db"] == 5.5
    assert card.n_bytes == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "toy"', 'nam = "toy"', "nam"),
        ('name = "toy"', 'name = "../toy"', "name"),
        ('name = "toy"', 'name = "toy"\nextra = 1', "extra"),
        ('name = "toy"', 'name = "toy"\npackage = "os"', "package"),
        ('name = "toy"', "name = ", "TOML"),
        ('name = "a.safetensors"', 'name = "sub/a.safetensors"', "name"),
        ('name = "a.safetensors"', 'name = ".lock"', "name"),
        ("https://example.org", "http://example.org", "https"),
        ("https://example.org", "https://user:word@example.org", "without a user name"),
        ("https://example.org", "file:///etc", "https"),
        ('url = "https://example.org/a.safetensors"', "", "either url"),
        ('url = "https://example.org/a.safetensors"', 'resource = "../a.safetensors"', "leaves the package"),
        ('url = "https://example.org/a.safetensors"', 'resource = "/a.safetensors"', "leaves the package"),
        ('url = "https://example.org/a.safetensors"', 'resource = "b.safetensors"', "must end in"),
        ("[measured]", 'sha256 = "abc"\n[measured]', "sha256"),
        ("[measured]", "n_bytes = -1\n[measured]", "n_bytes"),
        ("[measured]", '[[files]]\nname = "A.safetensors"\nurl = "https://b.org/a"\n[measured]', "same name"),
        ("[measured]", '[[files]]\nname = "b"\nresource = "b"\n[measured]', "all be embedded"),
        ("windows = 8", "windows = [8]", "windows"),
        ('name = "toy"', 'name = "toy"\ninstalled_in = "numpy"', "give installed_in"),
        ("[measured]", '[[installed]]\nname = "b"\nresource = "b"\n[measured]', "give installed_in"),
        ("[measured]", '[[installed]]\nname = "b"\nurl = "https://b.org/b"\n[measured]', "give installed_in"),
    ],
)
def test_a_card_that_is_not_valid_says_where(old: str, new: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        parse_card(CARD.replace(old, new), "toy")


@pytest.mark.parametrize("spec", ["no_colon", "no_such_package_here:card.toml", "unisep:no_such.toml", ":x", "..:x"])
def test_a_card_that_is_not_there_is_a_typed_error(spec: str) -> None:
    with pytest.raises(WeightsError):
        read_card(spec)
