"""Separator: the door to unisep. It owns loaded backends and encoders, the device and the options."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import torch

from unisep.audio import Audio
from unisep.backend import Backend
from unisep.chunks import CancelFlag
from unisep.ensemble import Ensemble
from unisep.errors import Cancelled, DownloadError, PluginError, QueryError
from unisep.finishing import finish
from unisep.loading import Shelf, existing
from unisep.opening import Opened, open_audio
from unisep.options import Options, find_device, find_dtype
from unisep.pipeline import Estimate, Loaded, run
from unisep.plugins import given
from unisep.progress import Meter, OnProgress
from unisep.query import Embedding
from unisep.recording import InMemory
from unisep.request import doubtful_texts, read_asks
from unisep.resolve import STEMS_BY_QUERY, Request, Route, Task, default_backend, resolve
from unisep.separation import Separation, remainder
from unisep.vectors import conditions
from unisep.weights import WeightsStore


@final
class Separator:
    """Isolates sounds from recordings; load once, use often, share between threads.

    backend: answers fixed stems ("htdemucs", or an ensemble: "ensemble@file.toml"); query_backend: answers queries ("htdemucs-film");
        encoder: turns queries into vectors ("clap-mini"; "clap@./folder" and "clap@owner/name" with weights
            of your own, loaded at once). Chosen for you without.
    weights, query_weights: local file or folder for `backend` and `query_backend` instead of the
        published weights, opened and checked at once.
    device: "auto" (cuda, mps or cpu), or any device that torch knows.
    precision: "auto" (float32), "float32", "bfloat16" or "float16".
    seed: of the random shifts. shifts: how many randomly shifted runs are averaged; 0 for none.
    overlap_fraction: of two segments, 0 to 0.5. segment_seconds: shorter needs less memory.
    offline: never download; None does as HF_HUB_OFFLINE says.
    plugins: of this Separator alone, beside those installed: files, folders, modules or objects with hooks.

    Raises:
        OptionError, PluginError, WeightsError: an option that cannot be honoured.
    """

    def __init__(
        self,
        backend: str | Ensemble | None = None,
        *,
        query_backend: str | None = None,
        encoder: str | None = None,
        weights: str | Path | None = None,
        query_weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        overlap_fraction: float = 0.25,
        segment_seconds: float | None = None,
        shifts: int = 0,
        offline: bool | None = None,
        plugins: Sequence[Any] = (),
    ) -> None:
        place = find_device(device)
        dtype = find_dtype(precision, place)
        self._options = Options(place, dtype, seed, overlap_fraction, segment_seconds, shifts)
        self._shelf = Shelf(WeightsStore(offline), place, dtype, given(plugins))
        self._download_failed = ""
        self._request = Request(
            backend=self._shelf.open_backend(backend),
            query_backend=query_backend,
            encoder=encoder,
            offline=self._shelf.offline,
        )
        self._check_names()
        if weights is not None:
            own = self._open_own(existing(weights, "weights"), "backend")
            self._request = replace(self._request, own_stems=own.info.sources)
        if query_weights is not None:
            self._open_own(existing(query_weights, "query_weights"), "query_backend")

    def separate(
        self,
        audio: Any,
        query: Any = None,
        *,
        sample_rate_hz: int | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        on_progress: OnProgress | None = None,
        cancel: CancelFlag | None = None,
    ) -> Separation:
        """The sounds that were asked for, each like the input: same rate, channels and length.

        audio: path, bytes, file object, `Audio`, or array [channels, samples] or [samples].
        query: None for the fixed stems; a text, an example (Path, `Audio`, array), an `Embedding`, a
            `Query`, a dict of its fields, or a list of any of these.
        sample_rate_hz: of bare arrays; without it they are taken at the backend's own rate.
        stems: which of the fixed stems, all without.
        route: "auto" sends a query that plainly names a stem to a backend with that stem, if its weights
            are here; "fixed" and "conditioned" insist on one kind.
        on_progress: called with `Progress`. cancel: a `threading.Event` or the like.

        Warns when a weaker model answers than could.

        Raises:
            AudioError, QueryError, OptionError: input that cannot be used.
            PluginError, WeightsError, BackendError, EncoderError: no one could answer.
            Cancelled: `cancel` was set.
        """
        meter = Meter(on_progress)
        opened = open_audio(audio, sample_rate_hz)
        for doubt in doubtful_texts(query):
            warnings.warn(doubt, stacklevel=2)
        planned, backends = self._planned(self._requested(query, sample_rate_hz, stems, route), meter)
        if planned.warning:
            warnings.warn(planned.warning, stacklevel=2)
        mixture = opened.at(backends[0].info.sample_rate_hz)
        _stop_if(cancel)
        meter.stage("encoding")
        with torch.inference_mode():
            loaded = [
                self._loaded(task, backend, mixture, meter)
                for task, backend in zip(planned.tasks, backends, strict=True)
            ]
        estimates = run(mixture, loaded, self._options, meter, cancel)
        meter.stage("done")
        return _separation(opened, mixture, planned, estimates)

    def provenance(
        self,
        query: Any = None,
        *,
        sample_rate_hz: int | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
    ) -> dict[str, str]:
        """What `separate` would rest on now: each model, map and step -> its package's version and a sha256.

        Equal recordings, questions, options and provenance give equal results. No model is loaded for it.
        Raises as `separate` does for a question that no one could answer.
        """
        request = self._substituting(self._requested(query, sample_rate_hz, stems, route))
        return self._shelf.provenance(resolve(request, self._shelf.catalogue()))

    def embed(self, query: Any, *, sample_rate_hz: int | None = None) -> Embedding:
        """The query as one portable vector, in the space that `query_backend` and `encoder` share.

        Raises:
            QueryError: several queries, one that excludes something, or one about a mixture.
        """
        asks = read_asks(query, sample_rate_hz)
        ask = asks[0]
        about_mixture = ask.query.example_range is not None and ask.clip is None
        if len(asks) != 1 or ask.query.exclude or about_mixture:
            raise QueryError(
                "embed() makes one vector of one query, without `exclude`, and `example_range` needs `audio`."
            )
        meter = Meter()
        request = replace(self._request, asks=asks, route="conditioned")
        task = resolve(request, self._shelf.catalogue()).tasks[0]
        asks, encoder = tuple(want.ask for want in task.wants if want.ask), task.wants[0].encoder
        loaded = None if encoder is None else self._shelf.encoder_for(encoder, task.space, meter)
        with torch.inference_mode():
            found = conditions(asks, [loaded], _no_mixture, sample_rate_hz or 44_100)
        provenance = {"query": ask.name, "encoder": encoder.name if encoder else "none"}
        if encoder is not None and encoder.spec.space != task.space:
            provenance["mapped_from"] = encoder.spec.space
        return Embedding(found.queries[0].clone().numpy(), task.space, provenance)

    def close(self) -> None:
        """Free what is loaded. The separator can be used again, and then loads again."""
        self._shelf.close()

    def __enter__(self) -> Separator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_names(self) -> None:
        installed = self._shelf.catalogue()
        for name in (self._request.backend, self._request.query_backend):
            if name is not None:
                installed.backend(name)
        if self._request.encoder is not None:
            self._shelf.open_encoder(self._request.encoder, Meter())

    def _open_own(self, path: Path, option: str) -> Backend:
        """The backend loaded with the caller's own weights."""
        offer = default_backend(
            self._request, self._shelf.catalogue(), answers_queries=option == "query_backend"
        )
        if option == "backend":
            self._request = replace(self._request, backend=offer.key)
        else:
            self._request = replace(self._request, query_backend=offer.key)
        self._shelf.own_weights[offer.key] = path
        return self._shelf.backend(offer, Meter())

    def _requested(
        self, query: Any, sample_rate_hz: int | None, stems: str | Sequence[str] | None, route: str
    ) -> Request:
        asks = None if query is None else read_asks(query, sample_rate_hz)
        chosen = (stems,) if isinstance(stems, str) else None if stems is None else tuple(stems)
        return replace(self._request, asks=asks, stems=chosen, route=route)

    def _substituting(self, request: Request) -> Request:
        """The request, with the download that failed before: it is not tried again at every call."""
        if not _can_substitute(request):
            return request
        return replace(request, download_failed=self._download_failed)

    def _planned(self, request: Request, meter: Meter) -> tuple[Route, list[Backend]]:
        """Who answers, loaded. Where the default's weights cannot be fetched, the next best."""
        request = self._substituting(request)
        planned = resolve(request, self._shelf.catalogue())
        try:
            return planned, [self._backend(task, meter) for task in planned.tasks]
        except DownloadError as error:
            if not _can_substitute(request):
                raise
            self._download_failed = str(error).split(". ")[0].rstrip(".")
        failed = replace(request, download_failed=self._download_failed)
        planned = resolve(failed, self._shelf.catalogue())
        return planned, [self._backend(task, meter) for task in planned.tasks]

    def _backend(self, task: Task, meter: Meter, *, on_cpu: bool = False) -> Backend:
        stems = () if task.space else tuple(dict.fromkeys(want.stem for want in task.wants))
        return self._shelf.backend_for(task.backend, task.space, stems, meter, on_cpu=on_cpu)

    def _loaded(self, task: Task, backend: Backend, mixture: Audio, meter: Meter) -> Loaded:
        asks = [want.ask for want in task.wants if want.ask is not None]
        on_cpu = partial(self._backend, task, meter, on_cpu=True) if self._options.on_accelerator else None
        if not asks:
            return Loaded(task, backend, on_cpu=on_cpu)
        encoders = [
            self._shelf.encoder_for(want.encoder, task.space, meter) if want.encoder else None
            for want in task.wants
        ]
        found = conditions(asks, encoders, InMemory(mixture).excerpt, backend.info.sample_rate_hz)
        return Loaded(task, backend, found, on_cpu)


def _separation(opened: Opened, mixture: Audio, planned: Route, estimates: dict[str, Estimate]) -> Separation:
    found = {name: estimate.audio for name, estimate in estimates.items()}
    if planned.remainder:
        found[planned.remainder] = remainder(mixture, list(found.values()))
    computed = {name: found[name] for name in planned.plan}
    targets = finish(computed, mixture, planned.steps)
    if planned.remainder and len(targets) == len(STEMS_BY_QUERY) and not planned.steps:
        rest = Audio(np.zeros_like(mixture.samples), mixture.sample_rate_hz)
    else:
        rest = remainder(mixture, list(targets.values()))
    presence = {name: estimates[name].presence if name in estimates else None for name in targets}
    return Separation(
        targets,
        rest=rest,
        presence=presence,
        plan=planned.plan,
        source_name=opened.name,
        source_info=opened.info,
    )


def _can_substitute(request: Request) -> bool:
    """Whether another model may answer where the weights of the default cannot be had."""
    return request.asks is None and request.backend is None and request.route == "auto"


def _stop_if(cancel: CancelFlag | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("Cancelled: the separation was stopped on request.")


def _no_mixture(_: object) -> Audio:
    raise PluginError("There is no mixture here.")
