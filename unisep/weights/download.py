"""Fetch one file over http, resuming what was cut off, and only ever keep it whole."""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from unisep.errors import DownloadError, WeightsError
from unisep.weights.cards import checked_url
from unisep.weights.hashes import sha256_of

MAX_BYTES = 32 * 2**30
N_ATTEMPTS = 4
TIMEOUT_SECONDS = 30.0
PAUSE_SECONDS = 1.0
_PIECE_BYTES = 2**18

OnBytes = Callable[[int, int | None], None]  # bytes so far, bytes in all or None


@dataclass(frozen=True)
class Request:
    """What to fetch. An empty `sha256` or a zero `n_bytes` means not known; `token` goes to that host only."""

    url: str
    sha256: str = ""
    n_bytes: int = 0
    token: str = ""


def fetch(request: Request, target: Path, on_bytes: OnBytes = lambda n_done, n_all: None) -> tuple[str, str]:
    """Put a file at `target`, whole and in one step; return its sha256 and, from a model hub, its commit.

    A `.part` beside it is resumed, by the server's entity tag or where the sha256 is known. It is kept when the
    connection fails (DownloadError), and removed when its size or sha256 is another than expected (WeightsError).
    """
    part = target.with_name(f".{target.name}.part")
    is_resumed = part.is_file()
    hub = _receive_in_attempts(request, part, on_bytes)
    sha256, expected = sha256_of(part), request.sha256 or hub.sha256
    if expected and sha256 != expected:
        _forget(part)
        if is_resumed:  # what an earlier run left was bad: all of it once more
            return fetch(request, target, on_bytes)
        raise WeightsError(
            f"{request.url} is not the file it should be: its sha256 is {sha256}, and {expected} is expected. "
            "It was removed. Try again; if it stays so, the file was changed at its source: do not use it."
        )
    part.replace(target)
    _forget(part)
    return sha256, hub.commit


@dataclass(eq=False)
class _Hub(urllib.request.HTTPRedirectHandler):
    """Follows redirects to safe addresses only, without the token, and notes what a model hub says."""

    sha256: str = ""
    commit: str = ""

    def note(self, headers: Message) -> None:
        """Keep the commit and the file's own sha256, which a hub sends with its first answer."""
        commit, etag = headers.get("X-Repo-Commit", ""), headers.get("X-Linked-ETag", "").strip('"')
        self.commit = self.commit or (commit if re.fullmatch(r"[0-9a-f]{40}", commit) else "")
        self.sha256 = self.sha256 or (etag if re.fullmatch(r"[0-9a-f]{64}", etag) else "")

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.note(headers)
        try:
            checked_url(newurl)
        except ValueError as error:
            raise DownloadError(f"{req.full_url} sends on to an address that is not safe: {error}.") from error
        onward = super().redirect_request(req, fp, code, msg, headers, newurl)
        if onward is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            onward.remove_header("Authorization")
        return onward


def _receive_in_attempts(request: Request, part: Path, on_bytes: OnBytes) -> _Hub:
    problem: Exception | None = None
    for n_failed in range(N_ATTEMPTS):
        if n_failed:
            time.sleep(PAUSE_SECONDS * 2 ** (n_failed - 1))
        try:
            return _receive(request, part, on_bytes)
        except WeightsError:
            _forget(part)
            raise
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part is longer than the file
                _forget(part)
            elif error.code not in (408, 429) and error.code < 500:
                raise DownloadError(f"{request.url} {_refusal(error.code)}") from error
            problem = error
        except (OSError, http.client.HTTPException) as error:
            problem = error
            if n_failed == 0 and isinstance(getattr(error, "reason", error), socket.gaierror | ConnectionRefusedError):
                break  # nobody is there, so waiting will not help
    reason = str(getattr(problem, "reason", "") or problem) or type(problem).__name__
    raise DownloadError(
        f"{request.url} could not be fetched ({reason}). Check the connection and try again: "
        "what has arrived is kept, and the download goes on from there."
    ) from problem


def _receive(request: Request, part: Path, on_bytes: OnBytes) -> _Hub:
    hub, tag_file = _Hub(), Path(f"{part}.etag")
    tag = tag_file.read_text() if tag_file.is_file() else ""
    n_have = part.stat().st_size if part.is_file() and (tag or request.sha256) else 0
    if n_have and n_have == request.n_bytes:
        return hub
    headers = {"User-Agent": "unisep", "Accept-Encoding": "identity"}
    if request.token:
        headers["Authorization"] = f"Bearer {request.token}"
    if n_have:
        headers |= {"Range": f"bytes={n_have}-"} | ({"If-Range": tag} if tag else {})
    question = urllib.request.Request(checked_url(request.url), headers=headers)
    with urllib.request.build_opener(hub).open(question, timeout=TIMEOUT_SECONDS) as response:
        hub.note(response.headers)
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {n_have}-")
        tag = response.headers.get("ETag", "")
        tag_file.write_text(tag if tag.startswith('"') else "")  # a weak tag does not vouch for every byte
        with part.open("ab" if resumes else "wb") as file:
            _copy(response, file, request, on_bytes)
    return hub


def _copy(response: http.client.HTTPResponse, file: IO[bytes], request: Request, on_bytes: OnBytes) -> None:
    n_have, length = file.tell(), response.headers.get("Content-Length", "")
    n_all = n_have + int(length) if length.isdecimal() else request.n_bytes or None
    if n_all is not None and (n_all > MAX_BYTES or (request.n_bytes and n_all != request.n_bytes)):
        expected = f"{request.n_bytes:,} bytes are expected" if request.n_bytes else f"at most {MAX_BYTES:,} are taken"
        raise WeightsError(f"{request.url} announces {n_all:,} bytes; {expected}. Nothing of it is used.")
    limit = n_all or MAX_BYTES
    while piece := response.read(_PIECE_BYTES):
        n_have += file.write(piece)
        if n_have > limit:
            raise WeightsError(f"{request.url} sends more than the {limit:,} bytes expected. Nothing of it is used.")
        on_bytes(n_have, n_all)
    if n_all is not None and n_have < n_all:
        raise ConnectionError(f"the connection ended after {n_have:,} of {n_all:,} bytes")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    Path(f"{part}.etag").unlink(missing_ok=True)


def _refusal(status: int) -> str:
    if status in (401, 403):
        return (
            f"is not open to everybody (status {status}). Accept the terms on the model's page, if it has any, "
            "and log in with `hf auth login`, or set HF_TOKEN to your access token."
        )
    if status < 400:
        return f"sends on to an address that is not safe, or in circles (status {status})."
    return f"is not there (status {status}). Check for a newer version of its plugin."
