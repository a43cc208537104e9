"""The routes: what each takes, does and answers. The queue is in `scheduler`, the data in `store`."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from unisep.files import safe_name, safe_names
from unisep.files.formats import READ_SUFFIXES
from unisep.plugins.specs import is_reserved
from unisep_studio import reference
from unisep_studio.scheduler import Scheduler, end_number
from unisep_studio.schemas import (
    AudioFormat,
    ConceptAnswer,
    EmbeddingBody,
    ErrorAnswer,
    FileAnswer,
    Id,
    ModelAnswer,
    Peaks,
    Question,
    RecordingAnswer,
    SeparationAnswer,
    SeparationBody,
    SessionAnswer,
    StrongerAnswer,
    Text,
    TokenBody,
    VectorBody,
    check_question,
    key_of,
    pass_key_of,
    question_of,
    recordings_in,
)  # fmt: skip
from unisep_studio.security import COOKIE, Refusal, cookie_of
from unisep_studio.settings import Settings
from unisep_studio.store import TERMINAL, Job, Recording, Store, remove
from unisep_studio.transfer import Upload, disposition, send_file, zip_pieces
from unisep_studio.worker import PEAK_SAMPLES
from unisep_studio.workers import WorkerError

MAX_OVERVIEW_PEAKS = 1024
MAX_PEAKS = 2**16
MAX_LEVEL = 12
ItemT = TypeVar("ItemT")
Level = Annotated[
    int, Query(ge=0, le=MAX_LEVEL, description="0 has peaks of 256 samples, each level those of 4 times as many.")
]
Start = Annotated[int, Query(ge=0, lt=2**53, description="The first sample; rounded down to that of a peak.")]
Stop = Annotated[int | None, Query(ge=0, lt=2**53, description="The sample after the last.")]


async def owner_of(request: Request) -> str:  # not `def`, which would go through a thread
    """Return whose data the request is about, as `Guard` found."""
    return str(request.state.owner)


Owner = Annotated[str, Depends(owner_of)]


class Server:
    """The routes, and what they share: the store and the scheduler, once the application has started."""

    store: Store
    scheduler: Scheduler

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.answers: Counter[str] = Counter()
        self.on_start: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open the data folder and take up the queue; at the end, put away both."""
        settings = self.settings
        self.store = Store(settings.data, quota_bytes=settings.quota_bytes, keep_seconds=settings.keep_seconds)
        try:
            self.store.recover()
            self.scheduler = Scheduler(self.store, settings)
            self.scheduler.start()
            self.on_start()
            yield
            await self.scheduler.stop()
        finally:
            self.store.close()

    def add_routes(self, app: FastAPI) -> None:
        """Give the application its routes."""
        body = {"content": {"multipart/form-data": {"schema": {
            "type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}},
        }}}, "required": True}  # fmt: skip
        app.post("/v1/recordings", status_code=201, openapi_extra={"requestBody": body})(self.upload)
        app.get("/v1/recordings/{id}")(self.recording)
        app.delete("/v1/recordings/{id}", status_code=204)(self.delete_recording)
        app.get("/v1/recordings/{id}/audio", response_class=Response)(self.recording_audio)
        app.head("/v1/recordings/{id}/audio", include_in_schema=False)(self.recording_audio)
        app.get("/v1/recordings/{id}/peaks")(self.recording_peaks)
        app.post("/v1/separations", status_code=202)(self.separate)
        app.get("/v1/separations/{id}")(self.separation)
        app.delete("/v1/separations/{id}")(self.delete_separation)
        app.get("/v1/separations/{id}/events", response_class=StreamingResponse)(self.events)
        app.get("/v1/separations/{id}/files/{name:path}", response_class=Response)(self.file)
        app.head("/v1/separations/{id}/files/{name:path}", include_in_schema=False)(self.file)
        app.get("/v1/separations/{id}/peaks/{name:path}")(self.file_peaks)
        app.get("/v1/separations/{id}/archive", response_class=StreamingResponse)(self.archive)
        app.post("/v1/embeddings")(self.embed)
        app.get("/v1/models")(self.models)
        app.get("/v1/concepts")(self.concepts)
        app.get("/v1/recommendations")(self.recommendations)
        app.get("/v1/session")(self.session)
        app.post("/v1/session")(self.log_in)
        app.get("/healthz")(self.health)
        app.get("/metrics", response_class=PlainTextResponse)(self.metrics)
        app.get("/docs", include_in_schema=False)(self.docs)
        if not self.settings.has_page:
            app.get("/", include_in_schema=False)(self.start)

    # recordings

    async def upload(self, request: Request, owner: Owner) -> RecordingAnswer:
        """Keep a recording: one file of any format that unisep reads. It is decoded to its end before the answer."""
        place = self.store.folder / "incoming" / secrets.token_hex(16)
        place.mkdir()
        try:
            upload = Upload(place / "audio", min(self.settings.max_upload_bytes, self.settings.quota_bytes))
            await upload.receive(request)
            name = _display_name(upload.name)
            suffix = PurePosixPath(name).suffix.lower()
            suffix = suffix if suffix in READ_SUFFIXES else ""
            path = upload.path.rename(place / f"audio{suffix}")
            try:
                facts = await self.scheduler.inspect(path)
            except WorkerError as error:
                raise Refusal(422, error.type, str(error).replace(path.name, name)) from error
            facts |= {"name": name, "suffix": suffix}
            recording = self.store.add_recording(owner, upload.sha256, facts, place)
        finally:
            remove(place)
        if not self.store.make_room(keep=recording.id):
            self.store.forget_recording(recording.id)
            raise Refusal(507, "DiskSpaceError", "There is no room. Wait until other separations are done.")
        return self._recording_answer(recording)

    async def recording(self, id: Id, owner: Owner) -> RecordingAnswer:
        """Return what is known of a recording."""
        return self._recording_answer(self._recording(id, owner))

    async def delete_recording(self, id: Id, owner: Owner) -> None:
        """Remove a recording. Refused while a separation needs it."""
        if not self.store.forget_recording(self._recording(id, owner).id):
            raise Refusal(409, "InUse", "A separation that has not ended needs this recording. Cancel it first.")

    async def recording_audio(
        self, id: Id, owner: Owner, request: Request, format: AudioFormat | None = None
    ) -> Response:
        """Return the audio as it was uploaded, or in another format. Takes byte ranges."""
        recording = self._recording(id, owner)
        path = self.scheduler.path_of_recording(recording)
        if format is not None and f".{format}" != path.suffix:
            path = await self._converted(path, "converted", format, recording.facts["peak"], "recordings", id)
        return send_file(path, request, f"{safe_name(recording.facts['name'])}{path.suffix}")

    async def recording_peaks(
        self, id: Id, owner: Owner, level: Level = 0, start: Start = 0, stop: Stop = None
    ) -> Peaks:
        """Return peaks for drawing the waveform, 65,536 at most."""
        recording = self._recording(id, owner)
        return _peaks(self.store.place_of_recording(recording.id) / "peaks.npy", level, start, stop)

    # separations

    async def separate(self, body: SeparationBody, owner: Owner) -> SeparationAnswer:
        """Accept a separation. Equal requests are computed once; what is here already is done at once."""
        recording = self._recording(body.recording, owner)
        question = question_of(body)
        clips = {id: self._recording(id, owner) for id in recordings_in(question)}
        _name_examples(question, {id: clip.facts["name"] for id, clip in clips.items()})
        check_question(question)
        if self.store.count_waiting(owner) >= self.settings.max_waiting:
            message = f"{self.settings.max_waiting} of your separations wait already. Try again later."
            raise Refusal(429, "QueueFull", message, {"Retry-After": "10"})
        key = key_of(recording.sha256, question, {id: clip.sha256 for id, clip in clips.items()})
        pass_key = pass_key_of(recording.sha256, question)
        job = self.scheduler.submit(owner, recording.id, question, key, pass_key)
        return self._separation_answer(job)

    async def separation(self, id: Id, owner: Owner) -> SeparationAnswer:
        """Return how a separation stands, and once it is done, what came of it."""
        return self._separation_answer(self._job(id, owner))

    async def delete_separation(self, id: Id, owner: Owner) -> SeparationAnswer:
        """Cancel a separation, within one segment; remove one that has ended, with its files."""
        job = self._job(id, owner)
        if job.state in TERMINAL:
            answer = self._separation_answer(job)
            self.store.forget_job(job)
            return answer
        self.scheduler.cancel(job)
        return self._separation_answer(self._job(id, owner))

    async def events(self, id: Id, owner: Owner, request: Request) -> Response:
        """Send how a separation goes, as server-sent events, until its end. Goes on after `Last-Event-ID`."""
        job, last = self._job(id, owner), request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdecimal() and len(last) < 20 else 0
        if job.state in TERMINAL and after >= end_number(job):
            return Response(status_code=204)  # tells browsers not to come again

        async def lines() -> AsyncIterator[str]:
            yield "retry: 1000\n\n"
            async for event in self.scheduler.events(job, after):
                yield ": still here\n\n" if event is None else f"id: {event[0]}\ndata: {json.dumps(event[1])}\n\n"

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)

    async def file(self, id: Id, name: str, owner: Owner, request: Request, format: AudioFormat = "wav") -> Response:
        """Return one result, by its name, or `rest`. Takes byte ranges."""
        job = self._job(id, owner)
        path = await self._result_file(job, self._entry(job, name), self._result(job), format)
        return send_file(path, request, f"{safe_name(name)}.{format}")

    async def file_peaks(
        self, id: Id, name: str, owner: Owner, level: Level = 0, start: Start = 0, stop: Stop = None
    ) -> Peaks:
        """Return peaks of one result for drawing the waveform."""
        job = self._job(id, owner)
        return _peaks(self.store.place_of_result(job.key) / f"{self._entry(job, name)['file']}.npy", level, start, stop)

    async def archive(self, id: Id, owner: Owner, format: AudioFormat = "wav") -> Response:
        """Return all results in one zip archive, made while it is sent."""
        job = self._job(id, owner)
        result = self._result(job)
        names = safe_names([entry["name"] for entry in result["files"]])
        paths = {
            f"{name}.{format}": await self._result_file(job, entry, result, format)
            for name, entry in zip(names, result["files"], strict=True)
        }
        recording = self.store.recording(job.recording, owner)
        title = safe_name(PurePosixPath(recording.facts["name"]).stem if recording else "separation")
        headers = {"Content-Disposition": disposition(f"{title}.zip")}
        return StreamingResponse(zip_pieces(paths), media_type="application/zip", headers=headers)

    # the rest

    async def embed(self, body: EmbeddingBody, owner: Owner) -> VectorBody:
        """Return a query as a portable vector."""
        question = question_of(SeparationBody(recording="0" * 32, query=body.query, options=body.options))
        clips = {
            id: str(self.scheduler.path_of_recording(self._recording(id, owner))) for id in recordings_in(question)
        }
        check_question(question)
        return VectorBody(**await self.scheduler.embed(question["query"][0], question["options"], clips))

    async def models(self) -> list[ModelAnswer]:
        """List the backends and the encoders that are installed."""
        return await run_in_threadpool(reference.models)

    async def concepts(self) -> list[ConceptAnswer]:
        """List sounds that can be asked for, with what people call them, for suggestions."""
        return reference.concepts()

    async def recommendations(self, text: Text, owner: Owner) -> list[StrongerAnswer]:
        """List models that would answer a sound better than those that are here, after a download."""
        return await run_in_threadpool(reference.recommendations, text)

    async def session(self, request: Request) -> SessionAnswer:
        """Tell whether this server needs a token, and whether this request has one."""
        is_in = not self.settings.tokens or bool(request.state.owner)
        return self._session_answer(is_in)

    async def log_in(self, body: TokenBody, request: Request) -> Response:
        """Take the token of a page and answer with a cookie, so that the browser sends it along."""
        tokens = [
            token for token in self.settings.tokens if secrets.compare_digest(token.encode(), body.token.encode())
        ]
        if not tokens:
            raise Refusal(401, "TokenError", "This is not a token of this server.")
        response = JSONResponse(self._session_answer(True).model_dump())
        response.set_cookie(
            COOKIE, cookie_of(tokens[0]), httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    async def health(self) -> JSONResponse:
        """Tell whether jobs are computed: 200 if a worker is there, else 503."""
        n_workers = sum(worker.pid is not None for worker in self.scheduler.workers)
        is_fine = n_workers > 0 and not self.scheduler.is_stopping
        return JSONResponse({"ok": is_fine, "workers": n_workers}, status_code=200 if is_fine else 503)

    async def metrics(self) -> PlainTextResponse:
        """Return figures for Prometheus."""
        return PlainTextResponse(reference.metrics(self.store, self.scheduler, self.answers))

    async def docs(self, request: Request) -> HTMLResponse:
        """Show this reference, with nothing loaded from elsewhere."""
        return HTMLResponse(reference.page(request.app.openapi()))

    async def start(self) -> RedirectResponse:
        """Lead to the reference."""
        return RedirectResponse("/docs")

    def _session_answer(self, is_in: bool) -> SessionAnswer:
        settings = self.settings
        return SessionAnswer(needs_token=bool(settings.tokens), is_in=is_in, in_tab=settings.in_tab is not None)

    def _recording(self, id: str, owner: str) -> Recording:
        return _found(self.store.recording(id, owner), "recording", id)

    def _job(self, id: str, owner: str) -> Job:
        return _found(self.store.job(id, owner), "separation", id)

    def _result(self, job: Job) -> dict[str, Any]:
        result = self.store.result(job.key) if job.state == "done" else None
        if result is None:
            raise Refusal(404, "NotFound", f"The separation {job.id} has no files: it is {job.state}.")
        return result

    def _entry(self, job: Job, name: str) -> dict[str, Any]:
        """Return the file of that name; names are looked up, and never are a part of a path."""
        listed = {entry["name"]: entry for entry in self._result(job)["files"]}
        if name not in listed:
            raise Refusal(404, "NotFound", f"There is no result {name!r:.200}. Possible: {', '.join(listed)}.")
        return dict(listed[name])

    async def _result_file(self, job: Job, entry: dict[str, Any], result: dict[str, Any], format: AudioFormat) -> Path:
        """Return the path of a result in a format; all of a result are converted with one gain."""
        path = self.store.place_of_result(job.key) / f"{entry['file']}.wav"
        peak = max(other["peak"] for other in result["files"])
        return path if format == "wav" else await self._converted(path, entry["file"], format, peak, "results", job.key)

    async def _converted(self, path: Path, stem: str, format: str, peak: float, table: str, id: str) -> Path:
        target = path.with_name(f"{stem}.{format}")
        if not target.exists():
            await self.scheduler.convert(path, target, format, peak)
            self.store.weigh_again(table, id)
        return target

    def _recording_answer(self, recording: Recording) -> RecordingAnswer:
        facts, path = recording.facts, self.store.place_of_recording(recording.id) / "peaks.npy"
        level = next(level for level in range(32) if facts["n_samples"] <= MAX_OVERVIEW_PEAKS * PEAK_SAMPLES * 4**level)
        kept = {name: facts[name] for name in RecordingAnswer.model_fields if name in facts}
        return RecordingAnswer(
            id=recording.id, n_bytes=recording.n_bytes, created=recording.created, peaks=_peaks(path, level), **kept
        )

    def _separation_answer(self, job: Job) -> SeparationAnswer:
        result = self.store.result(job.key) if job.state == "done" else None
        live, facts = self.scheduler.live(job), result or {"files": []}
        url = f"/v1/separations/{job.id}/files/"
        shown = {name: facts[name] for name in ("plan", "presence", "presence_over_time") if name in facts}
        return SeparationAnswer(
            id=job.id, recording=job.recording, state=job.state, created=job.created, eta_seconds=live.eta_seconds,
            query=job.question.get("query"), stems=job.question.get("stems"), options=job.question["options"],
            stage=live.stage or job.state, progress=1.0 if job.state == "done" else live.progress,
            waiting_before=self.store.waiting_before(job) if job.state == "queued" else 0,
            error=ErrorAnswer(type=job.error_type, message=job.error_message or "") if job.error_type else None,
            files=[
                FileAnswer(name=entry["name"], kind=entry["kind"], peak=entry["peak"], url=url + quote(entry["name"], safe=""))
                for entry in facts["files"]
            ],
            **shown,
        )  # fmt: skip


def _peaks(path: Path, level: int, start: int = 0, stop: int | None = None) -> Peaks:
    """Return the peaks in a file, of a level and for a part. Raises Refusal for too many."""
    try:
        finest = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        raise Refusal(404, "NotFound", "These peaks are not here any more.") from error
    width = 4**level
    n_samples = PEAK_SAMPLES * width
    first = min(start // n_samples, -(-len(finest) // width))
    last = len(finest) if stop is None else min(-(-stop // n_samples) * width, len(finest))
    part = np.asarray(finest[first * width : last])
    if len(part) > MAX_PEAKS * width:
        raise Refusal(
            422, "OptionError", f"These are more than {MAX_PEAKS} peaks. Ask for a higher level, or for a part."
        )
    edges = np.arange(0, len(part), width)
    lows = np.minimum.reduceat(part[:, 0], edges) if len(part) else part[:, 0]
    highs = np.maximum.reduceat(part[:, 1], edges) if len(part) else part[:, 1]
    pairs = zip(np.round(lows.astype(float), 4).tolist(), np.round(highs.astype(float), 4).tolist(), strict=True)
    return Peaks(level=level, samples_per_peak=n_samples, start=first * n_samples, peaks=list(pairs))


def _found(item: ItemT | None, kind: str, id: str) -> ItemT:
    """Return what the store found. Raise a refusal, 404, where that is nothing."""
    if item is None:
        what = f"There is no {kind} {id}. {kind.capitalize()}s that are not used go after a while."
        raise Refusal(404, "NotFound", what)
    return item


def _display_name(name: str) -> str:
    """Return what to call a recording: the last part of the sender's path, without what is not for showing."""
    path = PurePosixPath(name.replace("\\", "/").replace("\0", ""))
    return f"{safe_name(path.stem)}{path.suffix[:10] if path.suffix.isascii() and path.suffix[1:].isalnum() else ''}"


def _name_examples(question: Question, names: Mapping[str, str]) -> None:
    """Name results that are asked for by example alone after the example, as `Separator` does with files."""
    queries = question.get("query") or []
    taken = {name for query in queries if isinstance(name := query.get("name") or query.get("text"), str)}
    for query in queries:
        if "audio" in query and not {"name", "text"} & query.keys():
            stem = PurePosixPath(names[query["audio"]]).stem
            stem = f"_{stem}" if is_reserved(stem) else stem
            candidates = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            query["name"] = next(name for name in candidates if name not in taken)
            taken.add(query["name"])
