"""Separator: the front door. It owns a pool of loaded models, the device and the options."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import final

from unisep import files
from unisep.audio import Audio, AudioLike, SamplesLike, checked_rate
from unisep.engine.chunking import OVERLAP_FRACTION
from unisep.engine.cpu import in_one_thread
from unisep.engine.device import Options, Precision, find_device
from unisep.engine.recording import InMemory, OnDisk, Statistics
from unisep.ensemble.definition import Ensemble
from unisep.errors import AudioFileError, QueryError, arg
from unisep.files.formats import choose_encoding
from unisep.files.paths import DEFAULT_TEMPLATE, Template, protected
from unisep.files.reading import open_audio
from unisep.files.tags import read_tags
from unisep.live.session import Live, open_live
from unisep.plugins.registry import given
from unisep.progress import CancelFlag, OnProgress, ProgressReporter
from unisep.query.encode import encode_queries
from unisep.query.parsed import parse_queries
from unisep.query.query import Embedding, OneQuery, QueryLike
from unisep.routing.licences import checked_licences, permitted_by
from unisep.routing.types import Request
from unisep.separation import SeparatedFiles, Separation
from unisep.session.compose import REST, compose_whole, write_results
from unisep.session.learn import learn_sound, opened_clips
from unisep.session.models import ModelPool, existing
from unisep.session.prepare import Preparer
from unisep.session.stream import Stream, open_stream, refuse_excerpt
from unisep.weights.store import WeightsStore


@final
class Separator:
    """Isolates sounds from recordings. Load once, use often, share between threads."""

    def __init__(
        self,
        backend: str | Ensemble | None = None,
        *,
        query_backend: str | None = None,
        encoder: str | None = None,
        weights: str | Path | None = None,
        query_weights: str | Path | None = None,
        licences: str | Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        overlap_fraction: float = OVERLAP_FRACTION,
        segment_seconds: float | None = None,
        shifts: int = 0,
        cascade: str = "auto",
        threads: int | None = None,
        offline: bool | None = None,
        plugins: object = (),
    ) -> None:
        """Check the options. Models are loaded on first use; weights of your own at once.

        Args:
            backend: answers fixed stems: "htdemucs", an ensemble, "ensemble@file.toml", or any "name@file". Chosen without.
            query_backend: answers queries: "htdemucs-film", or any "name@file". Chosen for you without.
            encoder: turns queries into vectors: "clap-mini"; with weights of your own "clap@./folder" or
                "clap@owner/name". Chosen for you without.
            weights: local file or folder for `backend` instead of the published weights.
            query_weights: the same for `query_backend`.
            licences: only models whose weights have one of these answer: SPDX names, and "commercial" for those that allow
                commercial use. What has no weights, and weights of your own, are always allowed.
            device: "auto" (cuda, mps or cpu), or any device that torch knows.
            precision: "float32", "bfloat16" or "float16"; "auto" is float32, or the faster type that a backend vouches
                for on this device (agreeing with float32 by 40 dB or more) where the processor computes in it.
            seed: of the random shifts, and of what `learn` draws.
            overlap_fraction: of two segments, 0 to 0.5.
            segment_seconds: length of a segment; shorter needs less memory.
            shifts: how many randomly shifted runs are averaged; 0 for none.
            cascade: "auto" has a specialist, where one is here, take out vocals before the query model listens for keys,
                bass and other instruments, and speech before it listens for an everyday sound; "off" has it hear all.
            threads: how many segments are computed side by side on the CPU, with one thread each; the results are the same.
                Without it as many as torch would take, one for each core, and memory allows. A recording of one segment is
                computed with all threads inside it.
            offline: never download; None does as HF_HUB_OFFLINE says.
            plugins: of this Separator alone, beside those installed: files, folders, modules or objects with hooks; one, or
                a list.

        Raises:
            OptionError, PluginError, WeightsError: an option that cannot be honoured.
        """
        torch_device = find_device(device)
        self._options = Options(torch_device, seed, overlap_fraction, segment_seconds, shifts, threads=threads)
        self._pool = ModelPool(WeightsStore(offline), Precision(precision, torch_device), given(plugins))
        names = checked_licences(licences)
        request = Request(
            backend=self._pool.open_backend(backend, names),
            query_backend=self._pool.open_backend(query_backend, names),
            encoder=encoder,
            offline=self._pool.offline,
            cascade=cascade,
            licences=names,
        )
        self._preparer = Preparer(self._pool, request, self._options)
        if weights is not None:
            self._preparer.use_weights(existing(weights, "weights"), answers_queries=False)
        if query_weights is not None:
            self._preparer.use_weights(existing(query_weights, "query_weights"), answers_queries=True)
        permitted_by(self._preparer.request, self._pool.catalog())  # a licence that is not allowed is an error now

    def __repr__(self) -> str:
        request = self._preparer.request
        names = {"backend": request.backend, "query_backend": request.query_backend, "encoder": request.encoder}
        chosen = "".join(f"{key}={value!r}, " for key, value in names.items() if value is not None)
        return f"Separator({chosen}device='{self._options.device}')"

    def separate(
        self,
        audio: AudioLike,
        query: QueryLike | None = None,
        *,
        sample_rate_hz: float | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        on_progress: OnProgress | None = None,
        cancel: CancelFlag | None = None,
    ) -> Separation:
        """Isolate what is asked for; each result is like the input: same rate, channels and length.

        Warns when a weaker model answers than could.

        Args:
            audio: path, bytes, file object, `Audio`, or array `[channels, samples]` or `[samples]`.
            query: None for the fixed stems; a text, an example (Path, `Audio`, array), an `Embedding`, a `Query`, a dict
                of its fields, or a list of any of these.
            sample_rate_hz: of bare arrays, which are refused without it; files and `Audio` state their own.
            stems: which of the fixed stems, all without.
            route: "auto" sends a query that plainly names a stem to a backend with that stem, if its weights are here;
                "fixed" and "conditioned" insist on one kind.
            on_progress: called with `Progress`.
            cancel: a `threading.Event` or the like.

        Raises:
            AudioError, QueryError, OptionError: input that cannot be used.
            PluginError, WeightsError, BackendError, EncoderError: no one could answer.
            Cancelled: `cancel` was set.
        """
        reporter = ProgressReporter(on_progress)
        opened = open_audio(audio, sample_rate_hz)
        opened.check_rate(sample_rate_hz)
        request = self._preparer.requested(query, sample_rate_hz, stems, route)
        prepared = self._preparer.prepare(request, reporter)
        recording = InMemory(opened.audio)
        engine = self._preparer.engine(prepared, recording, reporter, cancel)
        results = compose_whole(recording, engine, prepared.route)
        reporter.stage("done")
        targets = {name: Audio(samples, recording.audio.sample_rate_hz) for name, samples in results.items()}
        rest = targets.pop(REST)
        return Separation(
            targets,
            rest=rest,
            presence_over_time=engine.presence,
            plan=prepared.route.plan,
            source_name=opened.name,
            source_info=opened.info,
            source_path=opened.path,
        )

    def separate_file(
        self,
        path: str | Path,
        folder: str | Path,
        query: QueryLike | None = None,
        *,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        filename: str = DEFAULT_TEMPLATE,
        format: str | None = None,
        subtype: str | None = None,
        bitrate_kbps: int | None = None,
        headroom_db: float = 0.0,
        tags: bool = True,
        on_progress: OnProgress | None = None,
        cancel: CancelFlag | None = None,
    ) -> SeparatedFiles:
        """Write what `separate` gives, from disk to disk, in memory that does not grow with length.

        The recording is read twice: once to find damage, its length and its statistics before any work, and once to
        separate it. Float files hold bit for bit what `separate` returns. All files appear, complete, at the end, or
        none does. A backend without `segment_seconds` and the result steps of plugins need all of the recording at once,
        and then it is held in memory.

        Files go into `folder` under names made of the template `filename`, which may hold {track}, {trackext}, {folder},
        {stem} and {ext}. All other arguments are as in `separate` and in `Separation.save`.

        Raises:
            AudioFileError: a recording that is missing or damaged, or a format that cannot hold its rate.
            DiskSpaceError: there is not enough room.
            OptionError: a template that is none, or a result that would replace the recording or an example.
            UnisepError: as `separate` does. Nothing of this leaves a file behind.
        """
        if not isinstance(path, str | os.PathLike):
            raise AudioFileError(
                f"separate_file takes the path of a file, not {type(path).__name__}. For bytes, file objects and arrays "
                "there is separate."
            )
        reporter, path, template = ProgressReporter(on_progress), Path(path), Template(filename)
        with files.opened(path) as opened:
            carried = read_tags(path) if tags else None
            encoding = choose_encoding(
                opened.info, format=format, subtype=subtype, bitrate_kbps=bitrate_kbps, headroom_db=headroom_db
            )
            request = self._preparer.requested(query, None, stems, route)
            prepared = self._preparer.prepare(request, reporter)
            reporter.stage("reading")
            recording = OnDisk(opened, cancel)
            with protected(request.clip_paths):
                paths = template.paths(Path(folder), path, [*prepared.route.plan, REST], encoding.format)
            engine = self._preparer.engine(prepared, recording, reporter, cancel)
            written = write_results(recording, engine, prepared.route, paths, encoding, carried, reporter, cancel)
        reporter.stage("done")
        return written

    def stream(
        self,
        blocks: Iterable[SamplesLike | Audio],
        query: QueryLike | None = None,
        *,
        sample_rate_hz: float,
        statistics: Statistics | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
        cancel: CancelFlag | None = None,
    ) -> Stream:
        """Separate a recording while it goes on: an iterator of `Separation` with a fixed `delay_samples`.

        The models are loaded and the query is encoded at once. `blocks` are arrays `[channels, samples]` or `[samples]`, or
        `Audio`, of any size; they are copied. `sample_rate_hz` is theirs, and that of bare example arrays. `statistics` of
        the whole recording (`Statistics.of`) are for backends that normalise by the song; the results are then bit for bit
        those of `separate`. Without them each segment is normalised by itself: a warning says so, and `Stream.scale_of` is
        "segment". All other arguments are as in `separate`.

        Raises:
            QueryError: an `example_range` without `audio`, since a stream cannot be heard in advance.
            OptionError: a backend or a plugin's step that needs all of the recording at once.
            UnisepError: as `separate` does.
        """
        rate_hz = checked_rate(sample_rate_hz)
        prepared = self._preparer.prepare(self._preparer.requested(query, rate_hz, stems, route), ProgressReporter())
        return open_stream(blocks, prepared, self._preparer, self._options, rate_hz, statistics, cancel)

    def live(
        self, query: QueryLike | None = None, *, sample_rate_hz: float, channels: int = 2, block_samples: int = 512,
        margin_blocks: int | None = None, stems: str | Sequence[str] | None = None, route: str = "auto",
    ) -> Live:  # fmt: skip
        """Open a session that separates while the recording is made: `push` takes a block and returns one, a fixed delay later.

        Models are loaded and queries encoded at once. Only live backends answer. `sample_rate_hz`, `channels` (1 or 2) and
        `block_samples` are those of the blocks. In `margin_blocks` the work on a block must be done, or it is late; by
        default, in as many as bring the backend its next hop. All other arguments, and errors, are as in `separate`.
        """
        rate_hz = checked_rate(sample_rate_hz)
        request = replace(self._preparer.requested(query, rate_hz, stems, route), live=True, cascade="off")
        device = self._options.device
        return open_live(self._preparer, request, device, rate_hz, channels, block_samples, margin_blocks)

    def provenance(
        self,
        query: QueryLike | None = None,
        *,
        sample_rate_hz: float | None = None,
        stems: str | Sequence[str] | None = None,
        route: str = "auto",
    ) -> dict[str, str]:
        """Return what `separate` would rest on now: each model, map and step, its package's version and a sha256.

        Equal recordings, queries, options and provenance give equal results. No model is loaded for it. The arguments and
        the errors for a query that no one could answer are those of `separate`.
        """
        request = self._preparer.requested(query, sample_rate_hz, stems, route)
        return self._pool.provenance(self._preparer.route(request))

    def embed(self, query: OneQuery, *, sample_rate_hz: float | None = None) -> Embedding:
        """Return the query as one portable vector, in the space that `query_backend` and `encoder` share.

        Args:
            query: one query, as in `separate`.
            sample_rate_hz: of a bare example array.

        Raises:
            QueryError: several queries, one that excludes something, or one about a mixture.
        """
        parsed_queries = parse_queries(query, sample_rate_hz, self._preparer.say)
        parsed = parsed_queries[0]
        about_mixture = parsed.query.example_range is not None and parsed.clip is None
        if len(parsed_queries) != 1 or parsed.query.exclude or parsed.time_range or about_mixture:
            raise QueryError(
                f"An embedding is one vector of one query, without {arg('exclude')} and {arg('time_range')}, and "
                f"{arg('example_range')} needs {arg('audio')}."
            )
        request = replace(self._preparer.request, parsed_queries=parsed_queries, route="conditioned")
        task = self._preparer.route(request).tasks[0]
        entry, worded = task.targets[0].encoder, task.targets[0].parsed or parsed
        encoder = None if entry is None else self._pool.encoder_for(entry, task.space, ProgressReporter())
        conditions = in_one_thread(partial(encode_queries, [worded], [encoder], refuse_excerpt))
        provenance = {"query": parsed.name, "encoder": entry.name if entry else "none"}
        if entry is not None and entry.spec.space != task.space:
            provenance["mapped_from"] = entry.spec.space
        return Embedding(conditions.queries[0].clone().numpy(), task.space, provenance)

    def learn(
        self,
        clips: AudioLike | Sequence[AudioLike],
        others: AudioLike | Sequence[AudioLike] | None = None,
        *,
        name: str = "learnt",
        sample_rate_hz: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Embedding:
        """Return a vector of the sound of a few clips, tuned through the frozen query backend to find it best.

        Its provenance says under "learnt" how much better it is on clips left out than the plain example, the mean of the
        clips' vectors; where it is not, it is that, and a warning says so. Equal clips and seed give the same bits.

        Args:
            clips: 1 to 10 of the sound alone, each as audio in `separate`.
            others: clips of what it is not, at best of what it is heard with; without any, sounds made by rule.
            name: of the sound, for the provenance.
            sample_rate_hz: of bare arrays.
            on_progress: called with `Progress`.

        Raises:
            QueryError: no clips, too many, or one that is silent or shorter than 0.1 s.
            OptionError: a query backend that lets no gradients through.
        """
        sounds = opened_clips("clips", clips, sample_rate_hz), opened_clips("others", others, sample_rate_hz)
        return learn_sound(self._preparer, self._options, *sounds, name, ProgressReporter(on_progress))

    def close(self) -> None:
        """Free what is loaded. The separator can be used again, and then loads again."""
        self._pool.close()

    def __enter__(self) -> Separator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
