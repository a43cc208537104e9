"""A client that separates on a server and gives what `Separator.separate` gives here."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final
from urllib.parse import quote

import httpx2 as httpx

from unisep import Audio, Embedding, Separation, errors, files
from unisep.audio import AudioLike
from unisep.engine.timeline import Presence
from unisep.errors import UnisepError
from unisep.files.reading import Opened, open_audio
from unisep.progress import CancelFlag, OnProgress, Progress, stop_if
from unisep.query.parsed import ParsedQuery, parse_queries
from unisep.query.query import OneQuery, QueryLike
from unisep.routing.types import Choice, Plan

_MIN_POLL_SECONDS, _MAX_POLL_SECONDS = 0.05, 1.0
_PATIENCE_SECONDS = 60.0  # for a server that starts again


class StudioError(UnisepError):
    """A server that cannot be reached, or that answers with an error of its own."""


@final
class Client:
    """Separates on a server. Use as a context manager, or `close` it."""

    def __init__(self, url: str = "http://127.0.0.1:8765", token: str | None = None) -> None:
        """Take the address of the server, and its token if it has one."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60.0, read=600.0))

    def separate(
        self,
        audio: AudioLike,
        query: QueryLike | None = None,
        *,
        sample_rate_hz: float | None = None,
        stems: str | Sequence[str] | None = None,
        on_progress: OnProgress | None = None,
        cancel: CancelFlag | None = None,
        **options: Any,
    ) -> Separation:
        """Isolate what is asked for, as `Separator.separate` does; `options` are `route` and those of `Separator`.

        Raises:
            UnisepError: as `Separator.separate` does.
            StudioError: the server cannot be reached, or refuses.
        """
        stop_if(cancel)
        parsed = None if query is None else parse_queries(query, sample_rate_hz)
        opened = open_audio(audio, sample_rate_hz)
        opened.check_rate(sample_rate_hz)
        recording = self._upload_opened(opened)
        body = {
            "recording": recording["id"],
            "query": None if parsed is None else [self._query(one) for one in parsed],
            "stems": [stems] if isinstance(stems, str) else stems and list(stems),
            "options": options,
        }
        state = self._request("POST", "/v1/separations", json=body)
        try:
            state = self._wait(state, recording["seconds"], on_progress, cancel)
        except (errors.Cancelled, KeyboardInterrupt):
            self._request("DELETE", f"/v1/separations/{state['id']}")
            raise
        return self._separation(state, opened.name)

    def embed(self, query: OneQuery, *, sample_rate_hz: float | None = None, **options: Any) -> Embedding:
        """Return the query as one portable vector, as `Separator.embed` does."""
        values = self._query(parse_queries(query, sample_rate_hz)[0])
        values.pop("name")
        vector = self._request("POST", "/v1/embeddings", json={"query": values, "options": options})
        return Embedding(vector["vector"], vector["space"], vector["provenance"])

    def upload(self, path: str | Path) -> dict[str, Any]:
        """Send a file, and return what the server says of it: its `id`, `seconds` and so on."""
        with Path(path).open("rb") as file:
            return dict(self._request("POST", "/v1/recordings", files={"file": (Path(path).name, file)}))

    def models(self) -> list[dict[str, Any]]:
        """Return the backends and encoders that the server has."""
        return list(self._request("GET", "/v1/models"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _upload_opened(self, opened: Opened) -> dict[str, Any]:
        """Send the file that was opened; of an array, a wav that holds it exactly."""
        if opened.path is not None:
            return self.upload(opened.path)
        with tempfile.TemporaryDirectory() as folder:
            return self.upload(files.write(Path(folder) / f"{opened.name}.wav", opened.audio))

    def _query(self, parsed: ParsedQuery) -> dict[str, Any]:
        """Return a query as the server takes it, its clips sent before."""
        query, clips = parsed.query, (parsed.clip, *parsed.excluded_clips)
        ids = [None if clip is None else self._upload_opened(clip)["id"] for clip in clips]
        values = {
            "name": parsed.name, "text": query.text, "audio": ids[0], "weights": query.weights,
            "embedding": query.embedding and _vector(query.embedding),
            "exclude": [
                *parsed.excluded_texts, *({"audio": id} for id in ids[1:]),
                *({"embedding": _vector(vector)} for vector in parsed.excluded_embeddings),
            ],
            "time_range": _open_ended(query.time_range), "example_range": _open_ended(query.example_range),
        }  # fmt: skip
        return {name: value for name, value in values.items() if value}

    def _wait(
        self, state: dict[str, Any], seconds: float, on_progress: OnProgress | None, cancel: CancelFlag | None
    ) -> dict[str, Any]:
        """Return the state at the end. Raises the error that the job ended with."""
        path, pause_seconds, told = f"/v1/separations/{state['id']}", _MIN_POLL_SECONDS, None
        while state["state"] in ("queued", "running"):
            now = (state["stage"], state["progress"])
            if on_progress is not None and now != told and state["state"] == "running":
                done = state["progress"] * seconds
                on_progress(Progress(state["progress"], done, seconds, state["eta_seconds"], state["stage"]))
            pause_seconds = _MIN_POLL_SECONDS if now != told else min(1.5 * pause_seconds, _MAX_POLL_SECONDS)
            told = now
            stop_if(cancel)
            time.sleep(pause_seconds)
            state = self._request("GET", path)
        if state["state"] == "cancelled":
            raise errors.Cancelled("Cancelled: the separation was stopped on the server.")
        if state["error"] is not None:
            raise _error(state["error"]["type"], state["error"]["message"])
        if on_progress is not None:
            on_progress(Progress(1.0, seconds, seconds, None, "done"))
        return state

    def _separation(self, state: dict[str, Any], name: str) -> Separation:
        """Fetch the files of a job that is done."""
        audio: dict[str, Audio] = {}
        for entry in state["files"]:
            response = self._send("GET", f"/v1/separations/{state['id']}/files/{quote(entry['name'], safe='')}")
            audio[entry["name"]] = files.read(response.content)
        rest = audio.pop("rest", None)
        segments = {name: [Presence(*part) for part in parts] for name, parts in state["presence_over_time"].items()}
        plan = Plan({name: Choice(**choice) for name, choice in state["plan"].items()})
        return Separation(audio, rest=rest, presence_over_time=segments, plan=plan, source_name=name)

    def _request(self, method: str, path: str, **content: Any) -> Any:
        response = self._send(method, path, **content)
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request. What only reads is sent again while the server is away for a moment."""
        started = time.monotonic()
        while True:
            try:
                response = self._http.request(method, path, **content)
                break
            except httpx.TransportError as error:
                if method != "GET" or time.monotonic() - started > _PATIENCE_SECONDS:
                    raise StudioError(
                        f"The server at {self._http.base_url} cannot be reached: {error}. Start one: unisep serve"
                    ) from error
                time.sleep(_MAX_POLL_SECONDS)
        if response.is_success:
            return response
        try:
            error_body = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            raise StudioError(f"{path} was answered with {response.status_code}: {response.text[:200]}") from None
        raise _error(error_body["type"], error_body["message"])


def _error(type_name: str, message: str) -> UnisepError:
    """Return the error of unisep that the server met, or a StudioError for any other."""
    kind = getattr(errors, type_name, None)
    if isinstance(kind, type) and issubclass(kind, UnisepError):
        return kind(message)
    return StudioError(f"{message} ({type_name})")


def _vector(embedding: Embedding) -> dict[str, Any]:
    return {"vector": embedding.vector.tolist(), "space": embedding.space, "provenance": embedding.provenance}


def _open_ended(span: tuple[float, float] | None) -> tuple[float, float | None] | None:
    return None if span is None else (span[0], None if math.isinf(span[1]) else span[1])
