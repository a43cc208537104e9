"""From a question to who answers it: resolved, loaded, and its queries encoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unisep.audio import Audio
from unisep.engine.device import Options
from unisep.engine.engine import Engine, LoadedTask
from unisep.engine.recording import Recording
from unisep.errors import DownloadError, OptionError
from unisep.plugins.backend import Backend
from unisep.progress import CancelFlag, ProgressReporter
from unisep.query.encode import conditions
from unisep.query.parsed import doubtful_texts, parse_queries
from unisep.query.query import Range
from unisep.routing.router import default_backend, resolve
from unisep.routing.types import BackendTask, Request, Route
from unisep.session.models import ModelPool


@dataclass(frozen=True, eq=False)
class Job:
    """Who answers what, with the backends loaded, one for each task of the route."""

    route: Route
    backends: tuple[Backend, ...]

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the first backend, which bare arrays are taken to have."""
        return self.backends[0].info.sample_rate_hz

    @property
    def normalises(self) -> bool:
        """Whether any backend wants to hear the recording on the scale of the whole song."""
        return any(backend.info.normalisation == "song" for backend in self.backends)


class Planner:
    """Plans for one Separator. `request` is what its options ask for, whatever the question."""

    def __init__(self, pool: ModelPool, request: Request, options: Options) -> None:
        self._pool = pool
        self._options = options
        self._download_failed = ""
        self.request = request
        self._check_names()

    def requested(
        self, query: Any, sample_rate_hz: int | None, stems: str | Sequence[str] | None, route: str
    ) -> Request:
        """The request with a question in it. Warns of texts that are also names of files."""
        for doubt in doubtful_texts(query):
            warnings.warn(doubt, stacklevel=3)
        parsed_queries = None if query is None else parse_queries(query, sample_rate_hz)
        if stems is not None and not isinstance(stems, Iterable):
            raise OptionError(f"stems={stems!r:.80}: give names of stems, such as ['drums', 'vocals'], or None.")
        chosen = (stems,) if isinstance(stems, str) else None if stems is None else tuple(stems)
        request = replace(self.request, parsed_queries=parsed_queries, stems=chosen, route=route)
        if not _can_substitute(request):
            return request
        return replace(request, download_failed=self._download_failed)  # not tried again at every call

    def route(self, request: Request) -> Route:
        """Who answers, with nothing loaded. Raises PluginError, QueryError and the like where no one can."""
        return resolve(request, self._pool.catalog())

    def job(self, request: Request, reporter: ProgressReporter) -> Job:
        """Who answers, loaded; where the default's weights cannot be fetched, the next best, with a warning."""
        job = self._job(request, reporter)
        if job.route.warning:
            warnings.warn(job.route.warning, stacklevel=3)
        return job

    def loaded(self, job: Job, excerpt: Callable[[Range], Audio], reporter: ProgressReporter) -> list[LoadedTask]:
        """The tasks of the job with their queries encoded, each query once.

        excerpt: gives the part of the mixture that is an example.
        """
        reporter.stage("encoding")
        with torch.inference_mode():
            return [
                self._loaded(task, backend, excerpt, reporter)
                for task, backend in zip(job.route.tasks, job.backends, strict=True)
            ]

    def engine(self, job: Job, recording: Recording, reporter: ProgressReporter, cancel: CancelFlag | None) -> Engine:
        """What separates the recording as the job says; the meter is told how much there is to do."""
        loaded = self.loaded(job, recording.excerpt, reporter)
        statistics = recording.statistics if job.normalises else None
        engine = Engine(loaded, recording.layout, self._options, statistics, reporter.step, cancel)
        engine.announce(reporter)
        return engine

    def use_own(self, path: Path, *, answers_queries: bool) -> None:
        """Nothing; loads the caller's own weights for the default backend of that kind, and asks it from now on."""
        entry = default_backend(self.request, self._pool.catalog(), answers_queries=answers_queries)
        self._pool.own_weights[entry.key] = path
        own = self._pool.backend(entry, ProgressReporter())
        if answers_queries:
            self.request = replace(self.request, query_backend=entry.key)
        else:
            self.request = replace(self.request, backend=entry.key, own_stems=own.info.sources)

    def _check_names(self) -> None:
        installed = self._pool.catalog()
        for name in (self.request.backend, self.request.query_backend):
            if name is not None:
                installed.backend(name)
        if self.request.encoder is not None:
            self._pool.open_encoder(self.request.encoder, ProgressReporter())

    def _job(self, request: Request, reporter: ProgressReporter) -> Job:
        route = self.route(request)
        try:
            return Job(route, tuple(self._backend(task, reporter) for task in route.tasks))
        except DownloadError as error:
            if not _can_substitute(request):
                raise
            self._download_failed = str(error).split(". ")[0].rstrip(".")
        route = self.route(replace(request, download_failed=self._download_failed))
        return Job(route, tuple(self._backend(task, reporter) for task in route.tasks))

    def _backend(self, task: BackendTask, reporter: ProgressReporter, *, on_cpu: bool = False) -> Backend:
        stems = () if task.space else tuple(dict.fromkeys(target.stem for target in task.targets))
        return self._pool.backend_for(task.backend, task.space, stems, reporter, on_cpu=on_cpu)

    def _loaded(
        self, task: BackendTask, backend: Backend, excerpt: Callable[[Range], Audio], reporter: ProgressReporter
    ) -> LoadedTask:
        parsed_queries = [target.parsed for target in task.targets if target.parsed is not None]
        on_cpu = partial(self._backend, task, reporter, on_cpu=True) if self._options.on_accelerator else None
        if not parsed_queries:
            return LoadedTask(task, backend, on_cpu=on_cpu)
        encoders = [
            self._pool.encoder_for(target.encoder, task.space, reporter) if target.encoder else None
            for target in task.targets
        ]
        found = conditions(parsed_queries, encoders, excerpt, backend.info.sample_rate_hz)
        return LoadedTask(task, backend, found, on_cpu)


def _can_substitute(request: Request) -> bool:
    """Whether another model may answer where the weights of the default cannot be had."""
    return request.parsed_queries is None and request.backend is None and request.route == "auto"
