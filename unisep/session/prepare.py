"""Prepare a request: who answers it, with backends loaded and queries encoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from unisep.audio import Audio
from unisep.engine.cpu import in_one_thread
from unisep.engine.device import Options
from unisep.engine.engine import Engine, LoadedTask
from unisep.engine.recording import Recording
from unisep.errors import DownloadError, OptionError
from unisep.plugins.backend import Backend
from unisep.progress import CancelFlag, ProgressReporter
from unisep.query.encode import encode_queries
from unisep.query.parsed import parse_queries
from unisep.query.query import QueryLike, Range
from unisep.routing.router import default_backend, resolve
from unisep.routing.types import BackendTask, Request, Route
from unisep.session.models import ModelPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with the route of its answers, and the loaded backend of each task of the route."""

    request: Request
    route: Route
    backends: tuple[Backend, ...]

    @property
    def normalises(self) -> bool:
        """Whether any backend wants to hear the recording on the scale of the whole song."""
        return any(backend.info.normalisation == "song" for backend in self.backends)


class Preparer:
    """Prepares the requests of one Separator.

    Attributes:
        request: what the options of the Separator ask for, whatever the query.
    """

    def __init__(self, pool: ModelPool, request: Request, options: Options) -> None:
        """Check the names in `request`, and load an encoder with weights of the caller's own."""
        self.request = request
        self._pool = pool
        self._options = options
        self._said: set[str] = set()
        catalog = pool.catalog()
        for name in (request.backend, request.query_backend):
            if name is not None:
                catalog.backend(name)
        if request.encoder is not None:
            pool.open_encoder(request.encoder, ProgressReporter())

    def say(self, message: str) -> None:
        """Log a warning of what the caller should know, each message once."""
        if message not in self._said:
            self._said.add(message)
            log.warning("%s", message)

    def use_weights(self, path: Path, *, answers_queries: bool) -> None:
        """Load the caller's own weights for the default backend of that kind, and ask it from now on."""
        entry = default_backend(self.request, self._pool.catalog(), answers_queries=answers_queries)
        self._pool.use_weights(entry.key, path)
        backend = self._pool.backend(entry, ProgressReporter())
        if answers_queries:
            self.request = replace(self.request, query_backend=entry.key)
        else:
            self.request = replace(self.request, backend=entry.key, own_stems=backend.info.sources)

    def requested(
        self, query: QueryLike | None, sample_rate_hz: float | None, stems: str | Sequence[str] | None, route: str
    ) -> Request:
        """Return the request with a query, parsed, or stems in it."""
        parsed_queries = None if query is None else parse_queries(query, sample_rate_hz, self.say)
        if stems is not None and not isinstance(stems, Iterable):
            raise OptionError(f"stems={stems!r:.80}: give names of stems, such as ['drums', 'vocals'], or None.")
        names = (stems,) if isinstance(stems, str) else None if stems is None else tuple(stems)
        request = replace(self.request, parsed_queries=parsed_queries, stems=names, route=route)
        # A download that failed is not tried again at every call.
        return replace(request, download_failed=self._pool.store.recent_failure() if request.may_substitute else "")

    def route(self, request: Request) -> Route:
        """Decide who answers, with nothing loaded. Raise as `resolve` does."""
        return resolve(request, self._pool.catalog())

    def prepare(self, request: Request, reporter: ProgressReporter) -> Prepared:
        """Load who answers; where the default's weights cannot be fetched, the next best, which is said."""
        try:
            prepared = self._loaded(request, reporter)
        except DownloadError as error:
            if not request.may_substitute or request.download_failed:
                raise
            failed = str(error).split(". ")[0].rstrip(".")
            self._pool.store.remember_failure(failed)
            prepared = self._loaded(replace(request, download_failed=failed), reporter)
        if prepared.route.warning:
            self.say(prepared.route.warning)
        return prepared

    def encoded(
        self, prepared: Prepared, excerpt: Callable[[Range], Audio], reporter: ProgressReporter
    ) -> list[LoadedTask]:
        """Encode the queries of each task, each query once; `excerpt` gives the part of the mixture that is an example."""
        reporter.stage("encoding")
        return [
            self._encoded(task, backend, excerpt, reporter)
            for task, backend in zip(prepared.route.tasks, prepared.backends, strict=True)
        ]

    def engine(
        self, prepared: Prepared, recording: Recording, reporter: ProgressReporter, cancel: CancelFlag | None
    ) -> Engine:
        """Return what separates the recording as prepared; the reporter is told how much there is to do."""
        tasks = self.encoded(prepared, recording.excerpt, reporter)
        statistics = recording.statistics if prepared.normalises else None
        engine = Engine(tasks, recording.layout, self._options, statistics, reporter.step, cancel)
        engine.announce(reporter)
        return engine

    def _loaded(self, request: Request, reporter: ProgressReporter) -> Prepared:
        route = self.route(request)
        return Prepared(request, route, tuple(self._backend(task, reporter) for task in route.tasks))

    def _backend(self, task: BackendTask, reporter: ProgressReporter, cpu_reason: str = "") -> Backend:
        if cpu_reason:
            self.say(cpu_reason)
        stems = () if task.space else tuple(dict.fromkeys(target.stem for target in task.targets))
        return self._pool.backend_for(task.backend, task.space, stems, reporter, on_cpu=bool(cpu_reason))

    def _encoded(
        self, task: BackendTask, backend: Backend, excerpt: Callable[[Range], Audio], reporter: ProgressReporter
    ) -> LoadedTask:
        on_cpu = partial(self._backend, task, reporter) if self._options.on_accelerator else None
        parsed_queries = [target.parsed for target in task.targets if target.parsed is not None]
        if not parsed_queries:
            return LoadedTask(task, backend, on_cpu=on_cpu)
        encoders = [
            self._pool.encoder_for(target.encoder, task.space, reporter) if target.encoder else None
            for target in task.targets
        ]
        conditions = in_one_thread(partial(encode_queries, parsed_queries, encoders, excerpt))
        return LoadedTask(task, backend, conditions, on_cpu)
