"""Separator: the door to unisep. It owns loaded backends and encoders, the device and the options."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch

from unisep import files
from unisep.audio import Audio, checked_rate
from unisep.engine.chunking import OVERLAP_FRACTION
from unisep.engine.device import Options, Precision, find_device
from unisep.engine.recording import InMemory, OnDisk, Statistics
from unisep.ensemble.definition import Ensemble
from unisep.errors import AudioFileError, QueryError
from unisep.files.formats import choose_encoding
from unisep.files.paths import DEFAULT_TEMPLATE, Template, protected
from unisep.files.reading import open_audio
from unisep.files.tags import read_tags
from unisep.plugins.registry import given
from unisep.progress import CancelFlag, OnProgress, ProgressReporter
from unisep.query.encode import conditions
from unisep.query.parsed import parse_queries
from unisep.query.query import Embedding
from unisep.routing.types import Request
from unisep.separation import SeparatedFiles, Separation
from unisep.session.compose import REST, whole, write_results
from unisep.session.models import ModelPool, existing
from unisep.session.prepare import Planner
from unisep.session.stream import Stream, open_stream, refuse_excerpt
from unisep.weights.store import WeightsStore


@final
class Separator:
    """Isolates sounds from recordings; load once, use often, share between threads.

    backend: answers fixed stems ("htdemucs", or an ensemble: "ensemble@file.toml"); query_backend: answers queries ("htdemucs-film");
        encoder: turns queries into vectors ("clap-mini"; "clap@./folder" and "clap@owner/name" with weights
            of your own, loaded at once). Chosen for you without.
    weights, query_weights: local file or folder for `backend` and `query_backend` instead of the
        published weights, opened and checked at once.
    device: "auto" (cuda, mps or cpu), or any device that torch knows.
    precision: "float32", "bfloat16" or "float16"; "auto" is float32, or the faster type that a backend vouches for on
        this device (agreeing with float32 by 40 dB or more) where the processor computes in it.
    seed: of the random shifts. shifts: how many randomly shifted runs are averaged; 0 for none.
    overlap_fraction: of two segments, 0 to 0.5. segment_seconds: shorter needs less memory.
    offline: never download; None does as HF_HUB_OFFLINE says.
    plugins: of this Separator alone, beside those installed: files, folders, modules or objects with hooks; one, or a list.

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
        overlap_fraction: float = OVERLAP_FRACTION,
        segment_seconds: float | None = None,
        shifts: int = 0,
        offline: bool | None = None,
        plugins: Any = (),
    ) -> None:
        place = find_device(device)
        self._options = Options(place, seed, overlap_fraction, segment_seconds, shifts)
        self._pool = ModelPool(WeightsStore(offline), Precision(precision, place), given(plugins))
        request = Request(
            backend=self._pool.open_backend(backend),
            query_backend=query_backend,
            encoder=encoder,
            offline=self._pool.offline,
        )
        self._planner = Planner(self._pool, request, self._options)
        if weights is not None:
            self._planner.use_own(existing(weights, "weights"), answers_queries=False)
        if query_weights is not None:
            self._planner.use_own(existing(query_weights, "query_weights"), answers_queries=True)

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
        reporter = ProgressReporter(on_progress)
        opened = open_audio(audio, sample_rate_hz)
        job = self._planner.job(self._planner.requested(query, sample_rate_hz, stems, route), reporter)
        recording = InMemory(opened.at(job.sample_rate_hz))
        engine = self._planner.engine(job, recording, reporter, cancel)
        found = whole(recording, engine, job.route)
        audio_of = {name: Audio(samples, recording.audio.sample_rate_hz) for name, samples in found.items()}
        reporter.stage("done")
        return Separation(
            {name: audio_of[name] for name in job.route.plan},
            rest=audio_of[REST],
            presence_over_time=engine.presence,
            plan=job.route.plan,
            source_name=opened.name,
            source_info=opened.info,
            source_path=opened.path,
        )

    def separate_file(
        self,
        path: str | Path,
        folder: str | Path,
        query: Any = None,
        *,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        filename: str = DEFAULT_TEMPLATE,
        format: str | None = None,
        subtype: str | None = None,
        bitrate_kbps: int | None = None,
        tags: bool = True,
        on_progress: OnProgress | None = None,
        cancel: CancelFlag | None = None,
    ) -> SeparatedFiles:
        """The files written: what `separate` gives, from disk to disk, in memory that does not grow with length.

        The recording is read twice: once to find damage, its length and its statistics before any work,
        and once to separate it. Float files hold bit for bit what `separate` returns. All files appear,
        complete, at the end, or none does. A backend without `segment_seconds` and the result steps of
        plugins need all of the recording at once, and then it is held in memory.

        folder: where files go, as `filename` says: a template with {track}, {trackext}, {folder}, {stem}, {ext}.
        format, subtype, bitrate_kbps, tags: as in `Separation.save`. The rest is as in `separate`.

        Raises:
            AudioFileError: a recording that is missing or damaged, or a format that cannot hold its rate.
            DiskSpaceError: there is not enough room. OptionError: a template that is none, or a result that would
                replace the recording or an example.
            And as `separate` does. Nothing of this leaves a file behind.
        """
        if not isinstance(path, str | os.PathLike):
            raise AudioFileError(
                f"separate_file takes the path of a file, not {type(path).__name__}. For bytes, file objects and arrays "
                "there is separate."
            )
        reporter, path, template = ProgressReporter(on_progress), Path(path), Template(filename)
        with files.opened(path) as opened:
            carried = read_tags(path) if tags else None
            encoding = choose_encoding(opened.info, format=format, subtype=subtype, bitrate_kbps=bitrate_kbps)
            request = self._planner.requested(query, None, stems, route)
            job = self._planner.job(request, reporter)
            reporter.stage("reading")
            recording = OnDisk(opened, cancel)
            with protected(request.clip_paths):
                paths = template.paths(Path(folder), path, [*job.route.plan, REST], encoding.format)
            engine = self._planner.engine(job, recording, reporter, cancel)
            written = write_results(recording, engine, job.route, paths, encoding, carried, reporter, cancel)
        reporter.stage("done")
        return written

    def stream(
        self,
        blocks: Iterable[Any],
        query: Any = None,
        *,
        sample_rate_hz: int,
        statistics: Statistics | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        cancel: CancelFlag | None = None,
    ) -> Stream:
        """Results while the recording goes on: an iterator of `Separation` with a fixed `delay_samples`.

        blocks: arrays [channels, samples] or [samples], or `Audio`, of any size; they are copied.
        sample_rate_hz: of the blocks, and of bare example arrays.
        statistics: of the whole recording (`Statistics.of`), for backends that normalise by the song; the
            results are then bit for bit those of `separate`. Without, each segment is normalised by itself:
            a warning says so, and `Stream.scale_of` is "segment".

        The models are loaded and the query is encoded at once. The rest is as in `separate`.

        Raises:
            QueryError: an `example_range` without `audio`, since a stream cannot be heard in advance.
            OptionError: a backend or a plugin's step that needs all of the recording at once.
            And as `separate` does.
        """
        rate_hz, reporter = checked_rate(sample_rate_hz), ProgressReporter()
        job = self._planner.job(self._planner.requested(query, rate_hz, stems, route), reporter)
        return open_stream(blocks, job, self._planner, self._options, rate_hz, statistics, cancel)

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
        request = self._planner.requested(query, sample_rate_hz, stems, route)
        return self._pool.provenance(self._planner.route(request))

    def embed(self, query: Any, *, sample_rate_hz: int | None = None) -> Embedding:
        """The query as one portable vector, in the space that `query_backend` and `encoder` share.

        Raises:
            QueryError: several queries, one that excludes something, or one about a mixture.
        """
        parsed_queries = parse_queries(query, sample_rate_hz)
        parsed = parsed_queries[0]
        about_mixture = parsed.query.example_range is not None and parsed.clip is None
        if len(parsed_queries) != 1 or parsed.query.exclude or parsed.time_range or about_mixture:
            raise QueryError(
                "embed() makes one vector of one query, without `exclude` and `time_range`, and `example_range` needs `audio`."
            )
        reporter = ProgressReporter()
        task = self._planner.route(
            replace(self._planner.request, parsed_queries=parsed_queries, route="conditioned")
        ).tasks[0]
        parsed_queries, encoder = (
            tuple(target.parsed for target in task.targets if target.parsed),
            task.targets[0].encoder,
        )
        loaded = None if encoder is None else self._pool.encoder_for(encoder, task.space, reporter)
        with torch.inference_mode():
            found = conditions(parsed_queries, [loaded], refuse_excerpt, sample_rate_hz or 44_100)
        provenance = {"query": parsed.name, "encoder": encoder.name if encoder else "none"}
        if encoder is not None and encoder.spec.space != task.space:
            provenance["mapped_from"] = encoder.spec.space
        return Embedding(found.queries[0].clone().numpy(), task.space, provenance)

    def close(self) -> None:
        """Free what is loaded. The separator can be used again, and then loads again."""
        self._pool.close()

    def __enter__(self) -> Separator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
