"""Fetch one file over http, resuming what was cut off, and only ever keep it whole."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


_SHA256 = re.compile(r"[0-9a-f]{64}")


OnBytes = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """What arrived: the sha256 of the whole file and, from a model hub, the commit it belongs to."""

    sha256: str
    commit: str


@dataclass(frozen=True)
class Request:
    """What to fetch. An empty `sha256` or a zero `n_bytes` means not known; `token` goes to that host only."""

    url: str
    sha256: str = ""
    n_bytes: int = 0
    token: str = ""


class _Broken(Exception):
    """The connection ended early; what arrived stays for the next attempt."""


def fetch(request: Request, target: Path, on_bytes: OnBytes | None = None) -> Fetched:
    """What was fetched; `target` is then the whole file, put there in one step, and nothing else is.

    A `.part` beside it is resumed, by the server's entity tag or where the sha256 is known, and is
    kept when the connection fails. on_bytes: called with (bytes so far, bytes in all or None).

    Raises:
        DownloadError: not found, refused, or the connection failed repeatedly.
        WeightsError: what arrived has another size or sha256; it is removed.
    """
    part = target.with_name(f".{target.name}.part")
    problem: Exception | None = None
    n_failed, was_bad = 0, False
    while n_failed < N_ATTEMPTS:
        if n_failed:
            time.sleep(PAUSE_SECONDS * 2 ** (n_failed - 1))
        try:
            resumed = part.is_file()
            hub = _receive(request, part, on_bytes)
            fetched = Fetched(sha256_of(part), hub.commit)
            if not _is_expected(fetched.sha256, request, hub):
                _forget(part)
                if resumed and not was_bad:  # what was left of an earlier time was bad: once more, all of it
                    was_bad = True
                    continue
                raise _unexpected(request, hub, fetched.sha256)
            part.replace(target)
            _forget(part)
            return fetched
        except WeightsError:
            _forget(part)
            raise
        except urllib.error.HTTPError as error:
            error.close()
            if not _is_passing(error.code):
                raise _refused(request.url, error.code) from error
            if error.code == 416:
                _forget(part)
            problem = error
        except (OSError, http.client.HTTPException, _Broken) as error:
            problem = error
        n_failed += 1
    raise DownloadError(
        f"{request.url} could not be fetched ({_reason(problem)}). Check the connection and try again: "
        "what has arrived is kept, and the download goes on from there."
    ) from problem


@dataclass(eq=False)
class _Hub(urllib.request.HTTPRedirectHandler):
    """Follows redirects to safe addresses only, without the token, and notes what a model hub says."""

    sha256: str = ""
    commit: str = ""

    def note(self, headers: Message) -> None:
        """Keep the commit and the file's own sha256, which a hub sends with its first answer."""
        commit, etag = headers.get("X-Repo-Commit", ""), headers.get("X-Linked-ETag", "").strip('"')
        self.commit = self.commit or (commit if re.fullmatch(r"[0-9a-f]{40}", commit) else "")
        self.sha256 = self.sha256 or (etag if _SHA256.fullmatch(etag) else "")

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


def _receive(request: Request, part: Path, on_bytes: OnBytes | None) -> _Hub:
    tag_file = part.with_name(f"{part.name}.etag")
    tag = tag_file.read_text() if tag_file.is_file() else ""
    n_have = part.stat().st_size if part.is_file() and (tag or request.sha256) else 0
    if request.n_bytes and n_have > request.n_bytes:
        n_have = 0
    hub = _Hub()
    if n_have and n_have == request.n_bytes:
        return hub
    with _response(request, hub, n_have, tag) as response:
        resumes = response.status == 206 and _starts_at(response, n_have)
        n_have = n_have if resumes else 0
        n_all = _announced(response, n_have, request)
        tag_file.write_text(_strong_tag(response))
        with part.open("ab" if resumes else "wb") as file:
            _copy(response, file, n_have, n_all, on_bytes)
    return hub


@contextmanager
def _response(request: Request, hub: _Hub, n_have: int, tag: str) -> Iterator[http.client.HTTPResponse]:
    headers = {"User-Agent": "unisep", "Accept-Encoding": "identity"}
    if request.token:
        headers["Authorization"] = f"Bearer {request.token}"
    if n_have:
        headers |= {"Range": f"bytes={n_have}-"} | ({"If-Range": tag} if tag else {})
    opener = urllib.request.build_opener(hub)
    asked = urllib.request.Request(checked_url(request.url), headers=headers)
    with opener.open(asked, timeout=TIMEOUT_SECONDS) as response:
        hub.note(response.headers)
        yield response


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], n_have: int, n_all: int | None, on_bytes: OnBytes | None
) -> None:
    limit = MAX_BYTES if n_all is None else n_all
    while piece := response.read(_PIECE_BYTES):
        file.write(piece)
        n_have += len(piece)
        if n_have > limit:
            raise WeightsError(f"{response.url} sends more than the {limit:,} bytes expected. Nothing of it is used.")
        if on_bytes is not None:
            on_bytes(n_have, n_all)
    if n_all is not None and n_have < n_all:
        raise _Broken(f"the connection ended after {n_have:,} of {n_all:,} bytes")


def _announced(response: http.client.HTTPResponse, n_have: int, request: Request) -> int | None:
    """How long the whole file is to be, or None where nobody says. Raises WeightsError if it is another size."""
    length = response.headers.get("Content-Length", "")
    n_all = n_have + int(length) if length.isdecimal() else None
    if n_all is not None and (n_all > MAX_BYTES or (request.n_bytes and n_all != request.n_bytes)):
        expected = f"{request.n_bytes:,} bytes are expected" if request.n_bytes else f"at most {MAX_BYTES:,} are taken"
        raise WeightsError(f"{request.url} announces {n_all:,} bytes; {expected}. Nothing of it is used.")
    return n_all or request.n_bytes or None


def _starts_at(response: http.client.HTTPResponse, n_have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {n_have}-")


def _strong_tag(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else ""


def _is_expected(sha256: str, request: Request, hub: _Hub) -> bool:
    expected = request.sha256 or hub.sha256
    return not expected or sha256 == expected


def _unexpected(request: Request, hub: _Hub, sha256: str) -> WeightsError:
    return WeightsError(
        f"{request.url} is not the file it should be: its sha256 is {sha256}, and {request.sha256 or hub.sha256} is "
        "expected. It was removed. Try again; if it stays so, the file was changed at its source: do not use it."
    )


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.etag").unlink(missing_ok=True)


def _is_passing(status: int) -> bool:
    return status in (408, 416, 429) or status >= 500


def _refused(url: str, status: int) -> DownloadError:
    if status in (401, 403):
        return DownloadError(
            f"{url} is not open to everybody (status {status}). Accept the terms on the model's page, if it has any, "
            "and set HF_TOKEN to your access token."
        )
    if status < 400:
        return DownloadError(f"{url} sends on to an address that is not safe, or in circles (status {status}).")
    return DownloadError(f"{url} is not there (status {status}). Check for a newer version of its plugin.")


def _reason(problem: Exception | None) -> str:
    if isinstance(problem, urllib.error.URLError) and not isinstance(problem, urllib.error.HTTPError):
        return str(problem.reason)
    return str(problem) or type(problem).__name__
