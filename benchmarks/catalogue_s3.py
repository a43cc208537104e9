"""An S3 store on this machine that fails as stores do: moto's server, behind a front that can be told to.

    with store() as s3:                  # AWS_... of the environment lead to it
        s3.fault("503", share=0.3)       # of requests; also "slow", "full" (uploads of more than 1 kB), "ok"
        s3.restart()                     # the front is killed amid requests, and comes back; what was stored stays

The front is this file, run as a process of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "songs"
_SMALL_BYTES = 1000
_SLOW_SECONDS = 0.5
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "server", "date"}


class Store:
    """The two processes."""

    def __init__(self, folder: Path) -> None:
        self._control, self._front_port, self._moto_port = folder / "faults.json", free_port(), free_port()
        self.fault("ok")
        self._log = (folder / "moto.log").open("wb")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)]
        self._moto = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._front = self._start_front()
        self.url = f"http://127.0.0.1:{self._front_port}"
        wait_for(self._moto_port)

    def _start_front(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, str(self._front_port), str(self._moto_port), str(self._control)]
        front = subprocess.Popen(command, stderr=self._log)
        wait_for(self._front_port)
        return front

    def fault(self, kind: str, share: float = 1.0) -> None:
        """Have a share of requests fail from now on."""
        self._control.write_text(json.dumps({"kind": kind, "share": share}))

    def restart(self, away_seconds: float = 2.0) -> None:
        """Kill the front, and start it again after a while."""
        self._front.send_signal(signal.SIGKILL)
        self._front.wait()
        time.sleep(away_seconds)
        self._front = self._start_front()

    def stop(self) -> None:
        """End both."""
        for process in (self._front, self._moto):
            process.kill()
            process.wait()
        self._log.close()


@contextmanager
def store() -> Iterator[Store]:
    """Open a `with` block with a store that has an empty bucket, and to which the environment leads."""
    with tempfile.TemporaryDirectory() as folder:
        s3 = Store(Path(folder))
        variables = {
            "AWS_ENDPOINT_URL": s3.url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            import s3fs

            s3fs.S3FileSystem().mkdir(BUCKET)
            yield s3
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            s3.stop()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 120.0) -> None:
    """Wait until somebody listens at a port."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens at {port}")


class Front(BaseHTTPRequestHandler):
    """Passes requests on, but for those that are to fail."""

    protocol_version = "HTTP/1.1"
    moto_port, control = 0, Path()

    def handle_one(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = json.loads(self.control.read_text() or "{}")
        kind = fault.get("kind", "ok") if random.random() < fault.get("share", 1.0) else "ok"
        if kind == "503":
            return self._answer(503, [], _ERROR.format("SlowDown", "Please reduce your request rate.").encode())
        is_upload = self.command == "PUT" and len(body) > _SMALL_BYTES
        if kind == "full" and is_upload:
            return self._answer(507, [], _ERROR.format("InsufficientStorage", "The bucket is full.").encode())
        if kind == "slow":
            time.sleep(_SLOW_SECONDS)
        moto = http.client.HTTPConnection("127.0.0.1", self.moto_port)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        moto.request(self.command, self.path, body, headers)
        response = moto.getresponse()
        content = response.read()
        self._answer(response.status, response.getheaders(), content)
        moto.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

    def _answer(self, status: int, headers: Any, content: bytes) -> None:
        self.send_response(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
            elif self.command == "HEAD" and name.lower() == "content-length":
                length = value
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Front.moto_port, Front.control = int(sys.argv[2]), Path(sys.argv[3])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front).serve_forever()
