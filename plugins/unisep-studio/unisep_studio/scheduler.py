"""The queue at work: gives jobs to worker processes, tells how they go, and keeps what comes of them."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import unisep
from unisep.plugins.registry import installed
from unisep.weights.store import WeightsStore
from unisep_studio.schemas import Question, recordings_in
from unisep_studio.settings import Settings
from unisep_studio.store import MAX_ATTEMPTS, TERMINAL, Job, Recording, Store, remove
from unisep_studio.workers import Worker, WorkerError

log = logging.getLogger(__name__)
_N_EVENTS = 256
_HEARTBEAT_SECONDS = 15.0
_CANCEL_SECONDS = 30.0
_FILING_SECONDS = 900.0
_N_FILERS = 2  # so that one slow file does not hold up all others
_HOUSEKEEPING_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 30.0


@dataclass
class Live:
    """How a job goes, and the numbers of what was told of it. In memory only: after a restart it is told anew."""

    stage: str = ""
    progress: float = 0.0
    eta_seconds: float | None = None
    events: deque[tuple[int, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=_N_EVENTS))
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Scheduler:
    """Runs `n_workers` passes at a time, and decodes and converts files beside them."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        plugins = [str(Path(path).absolute()) for path in settings.plugins]
        separator = {name: getattr(settings, name) for name in ("device", "precision", "threads")}
        separator["offline"] = settings.offline or None
        scratch = store.folder / "scratch"
        self.workers = [
            _worker_class(settings.ray)({"role": "separate", "separator": separator, "plugins": plugins}, scratch)
            for _ in range(settings.n_workers)
        ]
        self._filers = [Worker({"role": "files"}, scratch) for _ in range(_N_FILERS)]
        self._free_filers = deque(self._filers)
        self._filing = asyncio.Semaphore(_N_FILERS)
        self._served: dict[str, int] = {}
        self._live: dict[str, Live] = {}
        self._running: dict[str, Worker] = {}
        self._wake = asyncio.Event()
        self._turns = count(1)
        self._last_number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.is_stopping = False
        self.seconds_separated = 0.0

    def start(self) -> None:
        """Take up the queue."""
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self.workers]
        self._tasks.append(asyncio.create_task(self._keep_house()))

    async def stop(self) -> None:
        """Let running jobs wait for the next start, and end all processes."""
        self.begin_stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in (*self.workers, *self._filers)))

    def begin_stop(self) -> None:
        """Begin no more jobs, and end what listens to events."""
        self.is_stopping = True
        self._wake.set()
        for live in self._live.values():
            live.changed.set()

    # files

    async def inspect(self, path: Path) -> dict[str, Any]:
        """Decode an upload, write its peaks beside it and return what is in it. Raises WorkerError."""
        return dict(await self._file("inspect", path=str(path), max_seconds=self._settings.max_seconds))

    async def convert(self, source: Path, target: Path, format: str, peak: float) -> None:
        """Write a file in another format, unless that is there. Raises WorkerError."""
        if not target.exists():
            await self._file("convert", source=str(source), target=str(target), format=format, peak=peak)

    async def _file(self, do: str, **arguments: Any) -> Any:
        """Have a process do something with a file, and end one that does not get on with it. Raises WorkerError."""
        async with self._filing:
            filer = self._free_filers.popleft()
            try:
                async with asyncio.timeout(_FILING_SECONDS):
                    return await filer.call(do, **arguments)
            except TimeoutError:
                filer.kill()
                raise WorkerError("AudioFileError", f"The file took more than {_FILING_SECONDS:g} s.") from None
            finally:
                self._free_filers.append(filer)

    # jobs

    def installation(self) -> str:
        """Return what is equal as long as equal requests have equal results: a hash of versions, plugins and weights."""
        settings = self._settings
        parts = [unisep.__version__, settings.device, settings.precision, str(WeightsStore().last_change_ns())]
        parts += [f"{plugin.distribution} {plugin.version} {plugin.name}" for plugin in installed()]
        for path in map(Path, settings.plugins):
            parts += [f"{path} {path.stat().st_mtime_ns}" if path.exists() else str(path)]
        return sha256("\n".join(parts).encode()).hexdigest()

    def submit(self, owner: str, recording: str, question: Question, key: str, pass_key: str) -> Job:
        """Accept a job; one whose result is here is done at once."""
        is_here = self._store.result(key, self.installation()) is not None
        job = self._store.add_job(owner, recording, question, key, pass_key, "done" if is_here else "queued")
        self._wake.set()
        return job

    def live(self, job: Job) -> Live:
        """Return how a job goes."""
        return self._live.get(job.id) or Live()

    def cancel(self, job: Job) -> None:
        """End a job that waits or runs; its worker stops before the next segment, unless others share the pass."""
        if self._store.finish(job, "cancelled"):
            worker = self._running.pop(job.id, None)
            if worker is not None:
                worker.tell("cancel", ids=[job.id])
            self._tell(job)

    async def embed(self, query: dict[str, Any], options: dict[str, Any], clips: dict[str, str]) -> dict[str, Any]:
        """Return the vector of a query, beside whatever the worker computes. Raises WorkerError."""
        return dict(await self.workers[0].call("embed", query=query, options=options, clips=clips))

    async def events(self, job: Job, after: int) -> AsyncIterator[tuple[int, dict[str, Any]] | None]:
        """Yield number and content of what happens to a job after event `after`, until its end; None every 15 s."""
        live = self._live.get(job.id)
        if live is None:
            live = Live()
            if job.state not in TERMINAL:
                self._live[job.id] = live
                live.events.append((self._next_number(), _event(job, live)))
        while True:
            live.changed.clear()  # before anything is looked at, so that nothing told meanwhile is missed
            news = [event for event in live.events if event[0] > after]
            for number, event in news:
                after = number
                yield number, event
                if event["state"] in TERMINAL:
                    return
            if news:
                continue
            now = self._store.job(job.id)
            if now is None or now.state in TERMINAL:
                if now is not None and after < end_number(now):
                    yield end_number(now), _event(now, Live(now.state, float(now.state == "done")))
                return
            if self.is_stopping:
                return
            try:
                await asyncio.wait_for(live.changed.wait(), _HEARTBEAT_SECONDS)
            except TimeoutError:
                yield None

    def _next_number(self) -> int:
        """Return a number for an event, larger than all before, those before a restart too."""
        self._last_number = max(self._last_number + 1, time.time_ns() // 1000)
        return self._last_number

    def _tell(self, job: Job, **values: Any) -> None:
        """Note how a job goes, and wake who listens."""
        now = self._store.job(job.id)
        if now is None:
            return
        live = self._live.setdefault(job.id, Live())
        for name, value in values.items():
            setattr(live, name, value)
        live.events.append((self._next_number(), _event(now, live)))
        live.changed.set()
        if now.state in TERMINAL:
            del self._live[job.id]  # who listens has a hold of it

    async def _serve(self, worker: Worker) -> None:
        """Give one worker pass after pass."""
        pause_seconds = 1.0
        while not self.is_stopping:
            try:
                await worker.start()
                pause_seconds = 1.0
            except WorkerError as error:
                log.warning("A worker does not start: %s", error)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)
                continue
            self._wake.clear()
            jobs = self._store.claim(lambda owner: self._served.get(owner, 0))
            if not jobs:
                await self._wake.wait()
                continue
            self._served[jobs[0].owner] = next(self._turns)
            try:
                await self._run(worker, jobs)
            except (OSError, sqlite3.Error):  # a full disk, most likely
                log.exception("The queue cannot be kept")
                await asyncio.sleep(_MAX_PAUSE_SECONDS)

    async def _run(self, worker: Worker, jobs: list[Job]) -> None:
        """Compute one pass, and end its jobs or put them back."""
        scratch = self._store.folder / "scratch" / uuid.uuid4().hex
        try:
            scratch.mkdir()
            jobs = [job for job in jobs if not self._is_settled(job)]
            if jobs:
                await self._compute(worker, jobs, scratch)
        except asyncio.CancelledError:  # the server stops
            for job in jobs:
                self._store.put_back(job)
            raise
        except WorkerError as error:
            self._failed(jobs, error)
        except (OSError, ValueError, KeyError) as error:
            log.exception("A pass failed in the server itself")
            self._failed(jobs, WorkerError(type(error).__name__, str(error)))
        finally:
            for job in jobs:
                self._running.pop(job.id, None)
            await asyncio.to_thread(remove, scratch)
            self._wake.set()

    def _is_settled(self, job: Job) -> bool:
        """End a job that needs no computing: its result is here, or it was tried too often."""
        self._store.adopt(job.key)
        if self._store.result(job.key, self.installation()) is not None:
            self._end(job, "done")
            return True
        self._store.drop_stale_result(job.key)
        if job.attempts >= MAX_ATTEMPTS:
            reason = f"The server ended {MAX_ATTEMPTS} times while it computed this."
            self._end(job, "failed", "WorkerCrashed", reason)
        return job.attempts >= MAX_ATTEMPTS

    async def _compute(self, worker: Worker, jobs: list[Job], scratch: Path) -> None:
        def progressed(progress: dict[str, Any]) -> None:
            for job in jobs:
                if job.id in self._running:
                    self._tell(job, **progress)

        for job in jobs:
            self._running[job.id] = worker
            self._tell(job, stage="starting")
        installation = self.installation()
        call = worker.call(
            "separate", progressed, scratch=str(scratch), installation=installation,
            recording=self._path(jobs[0].recording, jobs[0].owner),
            jobs=[{"id": job.id, "question": job.question, "folder": str(self._store.place_of_result(job.key))} for job in jobs],
            clips={id: self._path(id, job.owner) for job in jobs for id in recordings_in(job.question)},
        )  # fmt: skip
        await self._watched(call, worker, jobs)
        self._done(jobs)

    async def _watched(self, call: Any, worker: Worker, jobs: list[Job]) -> None:
        """Wait for a pass; a worker that goes on long after all its jobs were cancelled is ended."""
        task, cancelled = asyncio.ensure_future(call), 0.0
        try:
            while not task.done():
                await asyncio.wait([task], timeout=1.0)
                states = {now.state for job in jobs if (now := self._store.job(job.id))}
                cancelled = cancelled + 1.0 if states <= {"cancelled"} else 0.0
                if cancelled > _CANCEL_SECONDS:
                    worker.kill()
        except asyncio.CancelledError:
            worker.tell("cancel", ids=[job.id for job in jobs])
            task.cancel()
            raise
        await task

    def _done(self, jobs: list[Job]) -> None:
        """Keep the results of a pass; what was cancelled meanwhile, and nobody else waits for, is removed."""
        for job in jobs:
            place, now = self._store.place_of_result(job.key), self._store.job(job.id)
            others = self._store.waiting_for(job.key)
            if not others and (now is None or now.state != "running"):
                remove(place)
                continue
            facts = json.loads((place / "result.json").read_text(encoding="utf-8"))
            self._store.add_result(job.key, self.installation(), facts)
            for waiting in (job, *others):
                self._end(waiting, "done")
            recording = self._store.recording(job.recording, job.owner)
            self.seconds_separated += recording.facts["seconds"] if recording else 0.0
        self._store.make_room()

    def _failed(self, jobs: list[Job], error: WorkerError) -> None:
        """End the job that failed; several that failed together are tried again one by one."""
        for job in jobs:
            if len(jobs) > 1:
                self._store.put_back(job, alone=True)
                self._tell(job, stage="", progress=0.0, eta_seconds=None)
            else:
                self._end(job, "failed", error.type, str(error))

    def _end(self, job: Job, state: str, error_type: str | None = None, error_message: str | None = None) -> None:
        if self._store.finish(job, state, error_type, error_message):
            values = {"progress": 1.0} if state == "done" else {}
            self._tell(job, stage=state, eta_seconds=None, **values)

    def path_of_recording(self, recording: Recording) -> Path:
        """Return the file of a recording."""
        return self._store.place_of_recording(recording.id) / f"audio{recording.facts['suffix']}"

    def _path(self, id: str, owner: str) -> str:
        recording = self._store.recording(id, owner)
        if recording is None:
            raise WorkerError("NotFound", "The recording, or an example, is not here any more.")
        return str(self.path_of_recording(recording))

    async def _keep_house(self) -> None:
        while True:
            try:
                self._store.make_room()
            except (OSError, sqlite3.Error):
                log.exception("Nothing could be removed")
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)


def _worker_class(address: str | None) -> Callable[[dict[str, Any], Path], Worker]:
    """Return what makes workers: processes here, or actors on a Ray cluster."""
    if address is None:
        return Worker
    from unisep_ray.studio import RayWorker

    return partial(RayWorker, address)


def end_number(job: Job) -> int:
    """Return the number of the last event of a job that has ended, for who was not there when it was told."""
    return int((job.finished or 0.0) * 1e6)


def _event(job: Job, live: Live) -> dict[str, Any]:
    return {"state": job.state, "stage": live.stage, "progress": live.progress, "eta_seconds": live.eta_seconds}
