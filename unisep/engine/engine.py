"""The signal path: from blocks of a recording and loaded backends to results in step with it."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from unisep.audio import ENDLESS, Samples, difference, span_samples
from unisep.engine.chunking import Chunker, SegmentPlan
from unisep.engine.cpu import Workers, keeping_freed_memory
from unisep.engine.device import Options
from unisep.engine.overlap_add import OverlapAdd, ShiftAverager
from unisep.engine.recording import Layout, Statistics
from unisep.engine.resample import StreamResampler, delay_seconds, resampled_length, with_channels
from unisep.engine.runner import BackendRunner, Scale, SegmentOutput, no_scale, segment_scale, song_scale
from unisep.engine.timeline import Presence, SampleQueue, Span, TargetTrack, at_model_rate, stretches
from unisep.errors import BackendError, OptionError
from unisep.plugins.backend import Backend
from unisep.progress import CancelFlag, ProgressReporter, stop_if
from unisep.query.encode import Conditions
from unisep.routing.types import BackendTask

MAX_SHIFT_SECONDS = 0.5
MAX_TARGETS_AT_ONCE = 16  # of one call of a backend: what it gives for a segment is held until it is put in place

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task whose backend is loaded and whose queries are encoded; without `conditions` it is for fixed sources.

    `on_cpu` says why, and loads the same backend on the CPU, should the device's memory run out.
    """

    task: BackendTask
    backend: Backend
    conditions: Conditions | None = None
    on_cpu: Callable[[str], Backend] | None = None

    def plan(self, span: Span, source_rate_hz: int, options: Options) -> SegmentPlan:
        """Return how the backend goes through `span` of a recording. Raises OptionError as `segment_samples` does."""
        rate_hz = self.backend.info.sample_rate_hz
        generator = random.Random(options.seed)  # of its own, seeded anew for every recording
        most = int(MAX_SHIFT_SECONDS * rate_hz)
        return SegmentPlan(
            segment_samples=options.segment_samples(self.backend.info, self.task.backend.name),
            overlap_fraction=options.overlap_fraction,
            span=at_model_rate(span, source_rate_hz, rate_hz),
            leads=tuple(generator.randint(0, most) for _ in range(options.shifts)) or (0,),
            batch_segments=options.n_at_once,
        )

    def runner(self, indices: Sequence[int], options: Options, statistics: Statistics | None) -> BackendRunner:
        """Return the runner that gives the targets at `indices`. Raises BackendError where the backend has none."""
        info, name = self.backend.info, self.task.backend.name
        if self.conditions is None:
            conditions, stems = None, [self.task.targets[index].stem for index in indices]
            if not set(stems) <= set(info.sources):
                raise BackendError(
                    f"The backend '{name}' was to give {', '.join(stems)} and gives {', '.join(info.sources)}. "
                    "Upgrade its plugin, or tell its author to test it with unisep.testing.BackendContract."
                )
            outputs = [info.sources.index(stem) for stem in stems]
        else:
            conditions, outputs = self.conditions.rows(list(indices)), list(range(len(indices)))
        scale: Scale = no_scale
        if info.normalisation == "song":
            scale = segment_scale if statistics is None else song_scale(statistics)
        return BackendRunner(
            self.backend, name, conditions, outputs, device=options.device, scale=scale, on_cpu=self.on_cpu
        )


class BackendPass:
    """Takes one stretch of a recording, pushed in blocks from its beginning, into the tracks of its targets."""

    def __init__(
        self,
        loaded: LoadedTask,
        stretch: Span,
        indices: Sequence[int],
        wanted: Sequence[Span],
        layout: Layout,
        options: Options,
        statistics: Statistics | None,
        workers: Workers,
        on_segment: Callable[[], None],
        cancel: CancelFlag | None,
    ) -> None:
        info, rate_hz, n_channels = loaded.backend.info, layout.sample_rate_hz, layout.n_channels
        self._info, self._n_channels, self._on_segment, self._cancel = info, n_channels, on_segment, cancel
        self._workers, self._is_live = workers, layout.n_samples is None  # what goes on cannot wait for more
        self._plan = loaded.plan(stretch, rate_hz, options)
        self.without = loaded.task.without
        self.tracks = {
            loaded.task.targets[index]: TargetTrack(wanted[index], stretch.start, rate_hz, n_channels)
            for index in indices
        }
        self._to_model = StreamResampler(rate_hz, info.sample_rate_hz, info.channels)
        self._grids = [(Chunker(self._plan, lead), OverlapAdd(self._plan)) for lead in self._plan.leads]
        self._runner = loaded.runner(indices, options, statistics)
        self._averager = ShiftAverager(len(self._grids))
        self._to_source = StreamResampler(info.sample_rate_hz, rate_hz, len(self.tracks) * n_channels)
        self._n_to_skip = stretch.start - self._plan.span.start * rate_hz // info.sample_rate_hz
        self._n_to_find = self._plan.span.length
        self.says_presence = False

    def extent(self, n_samples: int, source_rate_hz: int) -> tuple[int, float]:
        """Return how many segments of a recording of `n_samples` are computed, and how many seconds they bring."""
        plan, rate_hz = self._plan, self._info.sample_rate_hz
        n_model = resampled_length(n_samples, source_rate_hz, rate_hz)
        segments = [segment for lead in plan.leads for segment in plan.grid(n_model, lead)]
        return sum(map(plan.touches, segments)), (min(plan.span.stop, n_model) - plan.span.start) / rate_hz

    def push(self, block: Samples) -> None:
        """Separate the next block `[channels, samples]` of the recording."""
        if self._n_to_find:
            self._separate(self._to_model.push(with_channels(block, self._info.channels)))

    def finish(self) -> None:
        """Separate what is left: the recording has ended."""
        if self._n_to_find:
            self._separate(self._to_model.finish(), is_last=True)

    def _separate(self, samples: Samples, is_last: bool = False) -> None:
        """Take samples at the model's rate from the chunker to the tracks."""
        block = torch.from_numpy(samples if samples.flags.writeable else samples.copy())
        for index, (chunker, _) in enumerate(self._grids):
            for batch, segments in chain(chunker.push(block), chunker.finish() if is_last else ()):
                stop_if(self._cancel)
                run = partial(self._runner.run, batch, segments)
                alone = chunker.is_only and len(self._grids) == 1
                self._workers.run(run, partial(self._add, index, segments), alone=alone)
        if is_last or self._is_live:
            self._workers.settle()
        if is_last:
            for index, (_, adder) in enumerate(self._grids):
                if (rest := adder.finish()) is not None:
                    self._averager.put(index, rest)
        self._put(self._averager.take(), is_last)

    def _add(self, index: int, segments: Sequence[Span], output: SegmentOutput) -> None:
        """Add the outputs of the next segments of one grid."""
        self.says_presence, rate_hz = output.says_presence, self._info.sample_rate_hz
        for segment, row in zip(segments, output.presence.tolist(), strict=True):
            for track, presence in zip(self.tracks.values(), row, strict=True):
                track.note(Presence(segment.start / rate_hz, segment.stop / rate_hz, presence))
        for sources, segment in zip(output.sources, segments, strict=True):
            self._averager.put(index, self._grids[index][1].push(sources, segment))
            self._on_segment()

    def _put(self, outputs: Samples | None, is_last: bool) -> None:
        """Bring outputs `[n, channels, samples]` to the recording's rate and, from the stretch on, into the tracks."""
        pieces = []
        if outputs is not None:
            self._n_to_find -= outputs.shape[-1]
            rows = with_channels(outputs, self._n_channels).reshape(-1, outputs.shape[-1])
            pieces.append(self._to_source.push(rows))
        if is_last or not self._n_to_find:
            self._n_to_find = 0
            pieces.append(self._to_source.finish())
        for rows in pieces:
            n_skipped = min(self._n_to_skip, rows.shape[-1])
            self._n_to_skip -= n_skipped
            per_target = rows[:, n_skipped:].reshape(len(self.tracks), self._n_channels, -1)
            for track, samples in zip(self.tracks.values(), per_target, strict=True):
                track.put(samples)


@dataclass(frozen=True, eq=False)
class Piece:
    """The same stretch of the mixture and of each result, `[channels, samples]`, like the recording's own."""

    mixture: Samples
    targets: dict[str, Samples]


class Hearing:
    """What some passes hear: the recording, or what it is without the tracks of passes before them."""

    def __init__(self, passes: Sequence[BackendPass], without: Sequence[TargetTrack]) -> None:
        self._passes, self._without = passes, without
        self._recording = SampleQueue()
        self._n_in = self._n_out = 0

    def push(self, block: Samples) -> None:
        """Give the passes the next block of the recording, as far as they can hear it yet."""
        self._recording.put(block)
        self._n_in += block.shape[-1]
        self._hear(min([self._n_in, *(track.ready for track in self._without)]))

    def finish(self) -> None:
        """Separate what is left: the recording has ended."""
        self._hear(self._n_in)
        for one in self._passes:
            one.finish()

    def _hear(self, stop: int) -> None:
        start, self._n_out = self._n_out, max(self._n_out, stop)
        if (block := self._recording.take(self._n_out - start)) is not None:
            if self._without:
                block = difference(block, [track.take(start, self._n_out) for track in self._without])
            for one in self._passes:
                one.push(block)


class Engine:
    """Separates a recording that arrives in blocks; all that is held at a time is a few segments.

    Feed blocks `[channels, samples]`, then call `end`. `ready` says up to which sample everything is known, and `take`
    gives it, piece by piece. A whole recording, a file and a stream all go this way, so they give the same bits.

    Without `statistics` backends that normalise by them give each segment a scale of its own. `on_segment` is called after
    each segment, `cancel` is looked at before each batch of them. Raises QueryError for a time range outside the
    recording, and BackendError where a backend fails or breaks its contract.
    """

    def __init__(
        self,
        loaded: Sequence[LoadedTask],
        layout: Layout,
        options: Options,
        statistics: Statistics | None,
        on_segment: Callable[[], None] = lambda: None,
        cancel: CancelFlag | None = None,
    ) -> None:
        self._layout, self._cancel = layout, cancel
        self._workers = Workers(options.n_workers, options.n_threads)
        self._passes: list[BackendPass] = []
        for task in loaded:
            wanted = _wanted(task, layout)
            for stretch, indices in stretches(wanted):
                for at in range(0, len(indices), MAX_TARGETS_AT_ONCE):
                    group = indices[at : at + MAX_TARGETS_AT_ONCE]
                    shared = layout, options, statistics, self._workers, on_segment, cancel
                    self._passes.append(BackendPass(task, stretch, group, wanted, *shared))
        every = {target: track for one in self._passes for target, track in one.tracks.items()}
        self._tracks = {target.name: track for target, track in every.items() if target.is_result}
        heard = dict.fromkeys(one.without for one in self._passes)  # in order: what is taken out is computed before
        self._hearings = [
            Hearing([one for one in self._passes if one.without == without], [every[target] for target in without])
            for without in heard
        ]
        if len(self._tracks) > MAX_TARGETS_AT_ONCE:
            log.info("%d results at once: time and memory grow with their number.", len(self._tracks))
        self._mixture = SampleQueue()
        self.n_in = self._n_out = 0
        self._has_ended = False

    def announce(self, reporter: ProgressReporter) -> None:
        """Tell the reporter how much there is to do in a recording of known length."""
        assert self._layout.n_samples is not None
        extents = [one.extent(self._layout.n_samples, self._layout.sample_rate_hz) for one in self._passes]
        reporter.begin(sum(n for n, _ in extents), sum(seconds for _, seconds in extents))

    @property
    def ready(self) -> int:
        """Up to which sample of the recording everything is known."""
        return self.n_in if self._has_ended else min(self.n_in, *(track.ready for track in self._tracks.values()))

    @property
    def presence(self) -> dict[str, tuple[Presence, ...]]:
        """How surely each result is there in each segment so far; empty where the backend does not say."""
        return {
            target.name: track.presence if one.says_presence else ()
            for one in self._passes
            for target, track in one.tracks.items()
            if target.is_result
        }

    def forget_presence_before(self, seconds: float) -> None:
        """Drop the presence of segments that ended by this time."""
        for one in self._passes:
            for track in one.tracks.values():
                track.forget_presence_before(seconds)

    def feed(self, block: Samples) -> None:
        """Separate the next block of the recording, which is kept until `take` gives it back."""
        stop_if(self._cancel)
        self._mixture.put(block)
        self.n_in += block.shape[-1]
        with self._computing():
            for hearing in self._hearings:
                hearing.push(block)

    def end(self) -> None:
        """Separate what is left; all of the recording becomes ready."""
        with self._computing():
            for hearing in self._hearings:
                hearing.finish()
        self._has_ended = True

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute without gradients; after a failure no segment goes on being computed."""
        try:
            with torch.inference_mode():
                yield
        except Exception:
            self._workers.drop()
            raise

    def take(self, stop: int) -> Piece | None:
        """Return what lies between the end of the last piece and sample `stop`, at most `ready`; None if nothing."""
        start, self._n_out = self._n_out, max(self._n_out, stop)
        mixture = self._mixture.take(self._n_out - start)
        if mixture is None:
            return None
        return Piece(mixture, {name: track.take(start, self._n_out) for name, track in self._tracks.items()})


def _wanted(loaded: LoadedTask, layout: Layout) -> list[Span]:
    """Return where each target is wanted, in samples of the recording; a range may end after it."""
    spans = []
    for target in loaded.task.targets:
        start, stop = target.time_range or (0, math.inf)
        first, _ = span_samples((start, stop), layout.sample_rate_hz, layout.n_samples, "time_range")
        spans.append(Span(first, round(min(stop * layout.sample_rate_hz, ENDLESS))))
        if target.is_result and layout.n_samples is not None and layout.n_samples < spans[-1].stop < ENDLESS:
            seconds = layout.n_samples / layout.sample_rate_hz
            log.info("%s: a time to %g s is asked for, and the recording ends at %.3f s.", target.name, stop, seconds)
    return spans


def pieces(blocks: Iterable[Samples], engine: Engine) -> Iterator[Piece]:
    """Yield all pieces of a recording of known length, one after the other, as soon as they are ready."""
    with keeping_freed_memory():
        for block in blocks:
            engine.feed(block)
            if (piece := engine.take(engine.ready)) is not None:
                yield piece
        engine.end()
    if (piece := engine.take(engine.ready)) is not None:
        yield piece


def delay_samples(loaded: Sequence[LoadedTask], sample_rate_hz: int, options: Options) -> int:
    """Return after how many more samples one that was fed is ready, at the latest: a segment, and the resamplers.

    For a task that hears the recording without others' targets this comes on top of their delay.
    """
    seconds: dict[BackendTask, float] = {}
    for one in loaded:
        info, name = one.backend.info, one.task.backend.name
        segment_samples = options.segment_samples(info, name)
        if segment_samples is None:
            advice = "Use separate, or another backend." if info.needs_whole else "Give the Separator segment_seconds."
            raise OptionError(
                f"'{name}' takes recordings of any length at once, so nothing comes out before the end. {advice}"
            )
        resampling = 2 * delay_seconds(sample_rate_hz, info.sample_rate_hz)
        before = [delay for task, delay in seconds.items() if set(task.targets) & set(one.task.without)]
        seconds[one.task] = max(before, default=0.0) + segment_samples / info.sample_rate_hz + resampling
    return math.ceil(max(seconds.values()) * sample_rate_hz) + len(seconds)
