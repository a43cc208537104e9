"""A server under load, under abuse, and killed at random: nothing may be lost, done twice, or fail with a 500.

    python benchmarks/studio.py                      # all three, with 200 clients, 1,000 requests and 30 kills
    python benchmarks/studio.py kills --kills 5

Needs unisep-studio and Linux, whose /proc tells a server's workers. Everything runs in a temporary folder, with toy backends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx

from unisep import files
from unisep.testing import noise

TOYS = Path(__file__).with_name("studio_toys.py")
OPTIONS = {"backend": "paced", "query_backend": "paced", "encoder": "toy", "route": "conditioned"}
ENDED = ("done", "failed", "cancelled")
SECRET = "what lies beside the folder of the server"


class Running:
    """A server in a process of its own, which can be killed and started again on the same folder."""

    def __init__(self, data: Path, *options: str, command: str = "serve", **variables: str) -> None:
        self.data, self._command = data, command
        self._options = ["--plugin", str(TOYS), "--data", str(data), *options]
        kept = {"UNISEP_PLUGINS": "unisep-studio", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._environment = {**os.environ, **kept, **variables}
        self.url = ""
        self.tokens: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Running:
        """Start the server and wait until it listens."""
        command = [sys.executable, "-m", "unisep", self._command, "--json", "--port", "0", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
        assert self._process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended with {self._process.wait()}")
            text += line
        said = json.loads(text)
        self.url, self.tokens = said["url"], said["tokens"]
        return self

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Return the processes that separate."""
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in pids if b'"separate"' in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        with self._process:
            return self._process.wait(timeout=60)


@contextmanager
def running(data: Path, *options: str, **variables: str) -> Iterator[Running]:
    """Open a `with` block with a server, which is killed at the end if it is still there."""
    server = Running(data, *options, **variables)
    try:
        yield server.start()
    finally:
        if server._process is not None and server._process.poll() is None:
            server.stop(signal.SIGKILL)


def song(folder: Path, number: int, seconds: float = 3.0) -> Path:
    """Write a recording of its own for each number."""
    return files.write(folder / f"song {number}.wav", noise(seconds, 22_050, seed=number))


def post(http: httpx.Client, recording: str, query: Any, **options: Any) -> str:
    """Ask for a separation, and return its id."""
    body = {"recording": recording, "query": query, "options": {**OPTIONS, **options}}
    response = http.post("/v1/separations", json=body)
    response.raise_for_status()
    return str(response.json()["id"])


def load(
    server: Running, folder: Path, n_clients: int = 200, n_uploads: int = 50, seconds: float = 20.0
) -> dict[str, Any]:
    """Let clients poll once a second while uploads come in at once and are separated; return latencies, and what was lost."""
    songs = [song(folder, 100 + number) for number in range(n_uploads)]
    return asyncio.run(_load(server.url, songs, n_clients, seconds))


async def _load(url: str, songs: list[Path], n_clients: int, seconds: float) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=n_clients + len(songs))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        first = (await http.post("/v1/recordings", files={"file": ("first.wav", songs[0].read_bytes())})).json()
        body = {"recording": first["id"], "query": "drums", "options": OPTIONS}
        watched = (await http.post("/v1/separations", json=body)).json()["id"]
        latencies: list[float] = []
        until = time.monotonic() + seconds

        async def poll(number: int) -> None:
            """Ask once a second, over a connection of its own; by hand, so that the asking itself takes little."""
            await asyncio.sleep(number / n_clients)
            reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
            while time.monotonic() < until:
                started = time.monotonic()
                writer.write(f"GET /v1/separations/{watched} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head.split(b"\r\n")[0], head
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                latencies.append(time.monotonic() - started)
                await asyncio.sleep(max(0.0, 1.0 - latencies[-1]))
            writer.close()

        async def upload(path: Path) -> str:
            answer = await http.post("/v1/recordings", files={"file": (path.name, path.read_bytes())})
            answer.raise_for_status()
            asked = await http.post("/v1/separations", json={**body, "recording": answer.json()["id"]})
            asked.raise_for_status()
            return str(asked.json()["id"])

        started = time.monotonic()
        polling = asyncio.gather(*(poll(number) for number in range(n_clients)))
        ids = await asyncio.gather(*map(upload, songs))
        uploaded = time.monotonic() - started
        await polling
        while True:
            states = Counter([(await http.get(f"/v1/separations/{id}")).json()["state"] for id in ids])
            if set(states) <= set(ENDED):
                break
            await asyncio.sleep(0.5)
    return {
        "polls": len(latencies), "p50_ms": 1e3 * statistics.median(latencies), "p95_ms": 1e3 * _quantile(latencies, 0.95),
        "max_ms": 1e3 * max(latencies), "seconds_of_uploads": uploaded, "states": dict(states),
        "lost": len(songs) - states["done"],
    }  # fmt: skip


def _quantile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, round(fraction * len(values)))]


def abuse(server: Running, folder: Path, n_requests: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Send malformed requests; return the statuses, those that no server should give, and what was seen outside its folder."""
    (server.data.parent / "secret.txt").write_text(SECRET)
    before = {path.name for path in server.data.parent.iterdir()}
    headers = {"Authorization": f"Bearer {server.tokens[0]}"} if server.tokens else {}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
        made = Abuse(http, random.Random(seed), folder)
        for _ in range(n_requests):
            made.once()
        health = http.get("/healthz").status_code
    statuses = Counter(status for status, _ in made.answers)
    strange = [(status, what) for status, what in made.answers if status >= 500]
    outside = sorted({path.name for path in server.data.parent.iterdir()} - before)
    return {"statuses": dict(statuses), "strange": strange, "leaks": made.leaks, "outside": outside, "health": health}


class Abuse:
    """Makes requests that nobody should send, of each kind in turn, and notes the answers."""

    def __init__(self, http: httpx.Client, draw: random.Random, folder: Path) -> None:
        self._http, self._draw = http, draw
        self.answers: list[tuple[int, str]] = []
        self.leaks: list[str] = []
        clip = song(folder, 0, 1.0).read_bytes()
        self._clip = clip
        recording = http.post("/v1/recordings", files={"file": ("../../a.wav", clip)}).json()["id"]
        self._recording = recording
        job = post(http, recording, ["drums", {"text": "voice", "name": "../../../secret.txt"}])
        while (state := http.get(f"/v1/separations/{job}").json()["state"]) not in ENDED:
            time.sleep(0.1)
        assert state == "done", http.get(f"/v1/separations/{job}").json()
        self._job = job
        self._kinds = [
            self._path, self._upload, self._body, self._query, self._range, self._token, self._raw, self._parameter,
        ]  # fmt: skip

    def once(self) -> None:
        """Send one request of the next kind."""
        self._kinds[len(self.answers) % len(self._kinds)]()

    def _send(self, method: str, path: str, **content: Any) -> None:
        try:
            response = self._http.request(method, path, **content)
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, httpx.RemoteProtocolError) as error:
            self.answers.append((0, f"{method} {path!r}: {error}"))
            return
        self._note(response.status_code, f"{method} {path!r} {content!r:.200}", response.content)

    def _note(self, status: int, what: str, content: bytes) -> None:
        self.answers.append((status, what))
        if SECRET.encode() in content or b"root:" in content:
            self.leaks.append(what)

    def _words(self) -> str:
        return self._draw.choice([
            "../" * self._draw.randint(1, 9) + "secret.txt", "..%2f..%2fsecret.txt", "%2e%2e/%2e%2e/secret.txt", "/etc/passwd",
            "....//secret.txt", "..\\..\\secret.txt", "%00", "a\u202eb", "\U0001f3b8", "x" * self._draw.choice([1, 300, 9000]),
            "drums", "rest", "0.wav", "result.json", "%", "%ff%fe", "'; DROP TABLE jobs; --", "NaN", "-1", "0" * 32, "",
            self._job, self._recording, "f" * 31, "f" * 33, "F" * 32, "\n", "nul", "~", "*",
        ])  # fmt: skip

    def _path(self) -> None:
        kind = self._draw.choice(["recordings", "separations", "models", "nothing", self._words()])
        tail = self._draw.choice(["", "/audio", "/peaks", "/events", "/archive", "/files/", "/peaks/"])
        name = self._draw.choice(["", self._words(), f"{self._words()}/{self._words()}"])
        id = self._draw.choice([self._words(), "0" * 32, self._job, self._recording])
        method = self._draw.choice(["GET", "GET", "HEAD", "PUT", "PATCH", "TRACE", "POST", "OPTIONS"])
        self._send(method, f"/v1/{kind}/{id}{tail}{name}")

    def _upload(self) -> None:
        content = self._draw.choice([
            b"", b"RIFF", self._clip[:100], self._clip[: self._draw.randint(1, len(self._clip))], b"\0" * 5000,
            self._draw.randbytes(3000), b"ID3" + self._draw.randbytes(500), b"fLaC" + bytes(100), bytes(2_000_000),
        ])  # fmt: skip
        name = self._words().replace("\n", " ")
        boundary = self._draw.choice(["x", "", "x" * 500, "y"])
        head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        raw = self._draw.choice([
            head + content + b"\r\n--x--\r\n", head + content, head * 3, content, b"--x--", head[:-2] + b"A: " + b"b" * 9000,
        ])  # fmt: skip
        kind = self._draw.choice(
            ["multipart/form-data; boundary=" + boundary, "multipart/form-data", "text/plain", "", "\xff"]
        )
        headers = {"Content-Type": kind.encode("latin-1")}
        if self._draw.random() < 0.3:
            self._send("POST", "/v1/recordings", files={self._draw.choice(["file", "x"]): (name or "a", content)})
        else:
            self._send("POST", "/v1/recordings", content=raw, headers=headers)

    def _value(self, depth: int = 0) -> Any:
        draw = self._draw
        plain = [
            None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", self._words(), "\ud800", "\0", [], {},
            self._recording, "0" * 32, [[0, 1]], "drums", [1, 2], [None, 5], [5, 1],
        ]  # fmt: skip
        if depth > 3 or draw.random() < 0.5:
            return draw.choice(plain)
        names = [
            "text",
            "audio",
            "embedding",
            "weights",
            "exclude",
            "time_range",
            "example_range",
            "name",
            "vector",
            "space",
        ]
        if draw.random() < 0.5:
            return [self._value(depth + 1) for _ in range(draw.randint(0, 4))]
        return {draw.choice([*names, self._words()]): self._value(depth + 1) for _ in range(draw.randint(0, 4))}

    def _body(self) -> None:
        path = self._draw.choice(["/v1/separations", "/v1/embeddings", "/v1/session"])
        text = json.dumps(self._value())
        raw = self._draw.choice([
            text.encode(), text.encode()[:-1], b"\xff\xfe" + text.encode(), b"[" * 100_000, b"", b'{"a":' * 3000, bytes(2**21),
        ])  # fmt: skip
        kind = self._draw.choice(["application/json", "text/plain", "application/xml", ""])
        self._send("POST", path, content=raw, headers={"Content-Type": kind})

    def _query(self) -> None:
        body = {"recording": self._recording, "query": self._value(), "options": OPTIONS}
        if self._draw.random() < 0.5:
            key = self._draw.choice(["recording", "stems", "options", "query", self._words()])
            body[key] = self._draw.choice([self._value(), {self._words(): self._value()}, {"backend": self._words()}])
        text = json.dumps(body).encode()
        self._send("POST", "/v1/separations", content=text, headers={"Content-Type": "application/json"})

    def _range(self) -> None:
        spans = [
            "0-",
            "-0",
            "-",
            "5-1",
            "0-0",
            "999999999999-",
            f"{10**40}-",
            "-99999999999",
            "0-1,2-3",
            "a-b",
            " 1 - 2 ",
        ]
        asked = f"{self._draw.choice(['bytes', 'BYTES', 'items', ''])}={self._draw.choice(spans)}"
        paths = [f"/v1/recordings/{self._recording}/audio", f"/v1/separations/{self._job}/files/drums"]
        headers = {
            "Range": asked,
            "If-Range": self._draw.choice(["", "x"]),
            "Last-Event-ID": self._words().encode()[:20].hex(),
        }
        self._send("GET", self._draw.choice(paths), headers=headers)

    def _token(self) -> None:
        value = self._draw.choice(
            ["Bearer", "Bearer ", "Basic abc", "Bearer \xff\xfe", f"Bearer {'x' * 5000}", "bearer a b"]
        )
        headers = {
            "Authorization": value.encode("latin-1"),
            "Cookie": f"unisep_studio={self._words().encode().hex()}; =;;a",
        }
        path = self._draw.choice(
            [f"/v1/separations/{self._job}", "/metrics", "/v1/models", f"/v1/recordings/{self._recording}"]
        )
        self._send("GET", path, headers=headers)

    def _parameter(self) -> None:
        paths = ["recordings/{}/peaks", "separations/{}/peaks/drums", "separations/{}/archive", "recordings/{}/audio"]
        path = self._draw.choice(paths)
        id = self._job if path.startswith("separations") else self._recording
        names = {name: self._words() for name in ("level", "start", "stop", "format") if self._draw.random() < 0.5}
        self._send("GET", f"/v1/{path.format(id)}", params=names)

    def _raw(self) -> None:
        """Send bytes that are hardly HTTP."""
        host, port = self._http.base_url.host, self._http.base_url.port or 80
        line = self._draw.choice([
            b"GET /v1/../../secret.txt HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET //etc/passwd HTTP/1.1\r\nHost: a:b:c\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n", b"\0\1\2\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"POST /v1/recordings HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"GET " + b"a" * 70_000,
            b"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
            b"POST /v1/session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\nCookie: \xff\xfe\r\n\r\n",
            b"DELETE /v1/separations/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n",
        ])  # fmt: skip
        answer = b""
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            try:
                while piece := connection.recv(65_536):
                    answer += piece
            except OSError:
                pass
        parts = answer.split(b" ", 2)
        self._note(int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else 0, repr(line[:80]), answer)


def kills(
    folder: Path, n_kills: int = 30, n_jobs: int = 120, seed: int = 0, pace_seconds: float = 10.0
) -> dict[str, Any]:
    """Kill the server or its worker at random moments while jobs come in; return how these ended, and what changed after."""
    draw, ids, changed = random.Random(seed), list[str](), list[str]()
    ends: dict[str, tuple[str, int]] = {}
    server = Running(folder / "data")

    def look(http: httpx.Client) -> None:
        for id in ids:
            now = http.get(f"/v1/separations/{id}").json()
            if id in ends and ends[id] != (now["state"], len(now["files"])):
                changed.append(id)
            elif now["state"] in ENDED:
                ends[id] = now["state"], len(now["files"])

    for round_number in range(n_kills + 1):
        server.start()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            look(http)
            if round_number == 0:
                paths = [song(folder, number, 4 * pace_seconds) for number in range(4)]
                recordings = [
                    http.post("/v1/recordings", files={"file": (p.name, p.read_bytes())}).json()["id"] for p in paths
                ]
            for number in range(len(ids), n_jobs * (round_number + 1) // (n_kills + 1)):
                query = [f"sound {number} {part}" for part in range(draw.randint(1, 2))]
                ids.append(post(http, draw.choice(recordings), query, seed=number % 3))
            if round_number == n_kills:
                while len(ends) < len(ids):
                    look(http)
                    time.sleep(0.2)
                look(http)
                break
            time.sleep(draw.uniform(0.0, pace_seconds))
            is_worker = draw.random() < 0.3
            for pid in server.workers() if is_worker else ():
                os.kill(pid, signal.SIGKILL)
            if is_worker:
                time.sleep(draw.uniform(0.0, pace_seconds))
                look(http)
        server.stop(signal.SIGKILL)
    scratch = [
        path.name for name in ("scratch", "incoming") for path in (server.data / name).iterdir() if path.is_dir()
    ]
    server.stop()
    with closing(sqlite3.connect(server.data / "studio.sqlite")) as database:
        (n_again,) = database.execute("SELECT sum(attempts) FROM jobs").fetchone()
    states = Counter(state for state, _ in ends.values())
    return {
        "jobs": len(ids),
        "states": dict(states),
        "run_again": n_again,
        "changed_after_their_end": changed,
        "left_over": scratch,
    }


NAMES = ("load", "abuse", "kills")


def main() -> None:
    """Run what is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="*", metavar="|".join(NAMES), default=NAMES)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=30)
    arguments = parser.parse_args()
    for name in arguments.runs:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            if name == "kills":
                figures = kills(folder, arguments.kills)
            elif name == "load":
                with running(folder / "home" / "data") as server:
                    figures = load(server, folder, arguments.clients, arguments.uploads)
            else:
                limits = ("--token", "a token of the benchmark", "--max-upload", "1", "--max-minutes", "0.1")
                with running(folder / "home" / "data", *limits) as server:
                    figures = abuse(server, folder, arguments.requests)
            print(name, json.dumps(figures, indent=1, default=str), flush=True)


if __name__ == "__main__":
    main()
