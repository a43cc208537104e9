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
from unisep.engine.engine import Engine, Loaded
from unisep.engine.recording import Recording
from unisep.errors import DownloadError, OptionError
from unisep.plugins.backend import Backend
from unisep.progress import CancelFlag, Meter
from unisep.query.encode import conditions
from unisep.query.parsed import doubtful_texts, read_asks
from unisep.query.query import Range
from unisep.routing.router import default_backend, resolve
from unisep.routing.types import Request, Route, Task
from unisep.session.models import Shelf


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

    def __init__(self, shelf: Shelf, request: Request, options: Options) -> None:
        self._shelf = shelf
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
        asks = None if query is None else read_asks(query, sample_rate_hz)
        if stems is not None and not isinstance(stems, Iterable):
            raise OptionError(
                f"stems={stems!r:.80}: give names of stems, such as ['drums', 'vocals'], or None."
            )
        chosen = (stems,) if isinstance(stems, str) else None if stems is None else tuple(stems)
        request = replace(self.request, asks=asks, stems=chosen, route=route)
        if not _can_substitute(request):
            return request
        return replace(request, download_failed=self._download_failed)  # not tried again at every call

    def route(self, request: Request) -> Route:
        """Who answers, with nothing loaded. Raises PluginError, QueryError and the like where no one can."""
        return resolve(request, self._shelf.catalogue())

    def job(self, request: Request, meter: Meter) -> Job:
        """Who answers, loaded; where the default's weights cannot be fetched, the next best, with a warning."""
        job = self._job(request, meter)
        if job.route.warning:
            warnings.warn(job.route.warning, stacklevel=3)
        return job

    def loaded(self, job: Job, excerpt: Callable[[Range], Audio], meter: Meter) -> list[Loaded]:
        """The tasks of the job with their queries encoded, each query once.

        excerpt: gives the part of the mixture that is an example.
        """
        meter.stage("encoding")
        with torch.inference_mode():
            return [
                self._loaded(task, backend, excerpt, meter)
                for task, backend in zip(job.route.tasks, job.backends, strict=True)
            ]

    def engine(self, job: Job, recording: Recording, meter: Meter, cancel: CancelFlag | None) -> Engine:
        """What separates the recording as the job says; the meter is told how much there is to do."""
        loaded = self.loaded(job, recording.excerpt, meter)
        statistics = recording.statistics if job.normalises else None
        engine = Engine(loaded, recording.layout, self._options, statistics, meter.step, cancel)
        engine.announce(meter)
        return engine

    def use_own(self, path: Path, *, answers_queries: bool) -> None:
        """Nothing; loads the caller's own weights for the default backend of that kind, and asks it from now on."""
        offer = default_backend(self.request, self._shelf.catalogue(), answers_queries=answers_queries)
        self._shelf.own_weights[offer.key] = path
        own = self._shelf.backend(offer, Meter())
        if answers_queries:
            self.request = replace(self.request, query_backend=offer.key)
        else:
            self.request = replace(self.request, backend=offer.key, own_stems=own.info.sources)

    def _check_names(self) -> None:
        installed = self._shelf.catalogue()
        for name in (self.request.backend, self.request.query_backend):
            if name is not None:
                installed.backend(name)
        if self.request.encoder is not None:
            self._shelf.open_encoder(self.request.encoder, Meter())

    def _job(self, request: Request, meter: Meter) -> Job:
        route = self.route(request)
        try:
            return Job(route, tuple(self._backend(task, meter) for task in route.tasks))
        except DownloadError as error:
            if not _can_substitute(request):
                raise
            self._download_failed = str(error).split(". ")[0].rstrip(".")
        route = self.route(replace(request, download_failed=self._download_failed))
        return Job(route, tuple(self._backend(task, meter) for task in route.tasks))

    def _backend(self, task: Task, meter: Meter, *, on_cpu: bool = False) -> Backend:
        stems = () if task.space else tuple(dict.fromkeys(want.stem for want in task.wants))
        return self._shelf.backend_for(task.backend, task.space, stems, meter, on_cpu=on_cpu)

    def _loaded(
        self, task: Task, backend: Backend, excerpt: Callable[[Range], Audio], meter: Meter
    ) -> Loaded:
        asks = [want.ask for want in task.wants if want.ask is not None]
        on_cpu = partial(self._backend, task, meter, on_cpu=True) if self._options.on_accelerator else None
        if not asks:
            return Loaded(task, backend, on_cpu=on_cpu)
        encoders = [
            self._shelf.encoder_for(want.encoder, task.space, meter) if want.encoder else None
            for want in task.wants
        ]
        found = conditions(asks, encoders, excerpt, backend.info.sample_rate_hz)
        return Loaded(task, backend, found, on_cpu)


def _can_substitute(request: Request) -> bool:
    """Whether another model may answer where the weights of the default cannot be had."""
    return request.asks is None and request.backend is None and request.route == "auto"
