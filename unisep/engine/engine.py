"""The signal path: from blocks of a recording and loaded backends to results in step with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisep.audio import ENDLESS
from unisep.engine.chunking import Segment, heard
from unisep.engine.device import Options
from unisep.engine.malloc import keeping_freed_memory
from unisep.engine.overlap_add import SegmentPlan, ShiftAverager
from unisep.engine.recording import Layout, Statistics
from unisep.engine.resample import StreamResampler, delay_seconds, with_channels
from unisep.engine.runner import BackendRunner, Presence, Scale, SilenceDetector, by_segment
from unisep.engine.timeline import (
    SampleQueue,
    Samples,
    SharedSpan,
    Span,
    TargetTrack,
    at_model_rate,
    stretches,
    with_fades,
)
from unisep.errors import BackendError, OptionError
from unisep.plugins.backend import Backend
from unisep.progress import CancelFlag, ProgressReporter, stop_if
from unisep.query.encode import Conditions
from unisep.routing.types import BackendTask


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task whose backend is loaded and whose queries are encoded (None: fixed sources).

    on_cpu: gives the same backend on the CPU, should the device's memory run out.
    """

    task: BackendTask
    backend: Backend
    conditions: Conditions | None = None
    on_cpu: Callable[[], Backend] | None = None

    def steps(self, span: Span, source_rate_hz: int, options: Options) -> SegmentPlan:
        """How the backend goes through `span` of a recording at `source_rate_hz`.

        Raises OptionError for segments that the backend does not take.
        """
        info, name = self.backend.info, self.task.backend.name
        rate_hz = info.sample_rate_hz
        segment_samples = options.segment_samples(info, name)
        return SegmentPlan(at_model_rate(span, source_rate_hz, rate_hz), segment_samples, rate_hz, options)


class BackendPass:
    """Brings the results that are wanted in one stretch of the recording, each into its lane.

    Give blocks [channels, samples] of the recording from its beginning to `push`, then call `finish`.
    statistics: of the recording; None where they are not known, and each segment has its own scale.
    """

    def __init__(
        self,
        loaded: LoadedTask,
        stretch: SharedSpan,
        wanted: Sequence[Span],
        layout: Layout,
        options: Options,
        statistics: Statistics | None,
        on_segment: Callable[[], None],
        cancel: CancelFlag | None,
    ) -> None:
        info, rate_hz, n_channels = loaded.backend.info, layout.sample_rate_hz, layout.n_channels
        targets = [loaded.task.targets[index] for index in stretch.indices]
        self.tracks = {
            target.name: TargetTrack(wanted[index], stretch.span.start, rate_hz, n_channels)
            for target, index in zip(targets, stretch.indices, strict=True)
        }
        self._info = info
        self._n_channels = n_channels
        self.steps = loaded.steps(stretch.span, rate_hz, options)
        self._caller = _caller(loaded, stretch.indices, options)
        normalises = info.normalisation == "song"
        self._scale = Scale.of(statistics) if normalises and statistics is not None else Scale()
        each_its_own = normalises and statistics is None
        self._call = by_segment(self._caller) if each_its_own else self._scale.restoring(self._caller)
        self._silence = SilenceDetector(self.steps.segment_samples or ENDLESS)
        self._stepper = ShiftAverager(self._called, self.steps, on_segment, cancel)
        self._to_model = StreamResampler(rate_hz, info.sample_rate_hz, info.channels)
        self._to_source = StreamResampler(info.sample_rate_hz, rate_hz, len(targets) * n_channels)
        self._n_to_skip = stretch.span.start - self.steps.span.start * rate_hz // info.sample_rate_hz
        self._n_to_find = self.steps.span.stop - self.steps.span.start

    @property
    def presence(self) -> dict[str, tuple[Presence, ...]]:
        """How surely each result is there, in the segments where it is wanted; empty where the backend does not say."""
        rate_hz = self._info.sample_rate_hz
        found = [
            (max(0, segment.start) / rate_hz, segment.stop / rate_hz, values)
            for segment, values in self._caller.presence_by_segment
        ]
        return {
            name: tuple(
                Presence(start, stop, values[row]) for start, stop, values in found if track.targets(start, stop)
            )
            for row, (name, track) in enumerate(self.tracks.items())
        }

    def forget_presence_before(self, seconds: float) -> None:
        """Nothing; drops what was said of segments that ended before this time."""
        self._caller.forget_before(seconds * self._info.sample_rate_hz)

    def push(self, block: Samples) -> None:
        """Nothing; takes the next block of the recording."""
        if self._n_to_find:
            self._separate(self._to_model.push(with_channels(block, self._info.channels)))

    def finish(self) -> None:
        """Nothing; the recording has ended."""
        if self._n_to_find:
            self._separate(self._to_model.finish())
            self._give(self._stepper.finish())
        if self._n_to_find:  # not all of the stretch was in the recording
            self._n_to_find = 0
            self._put(self._to_source.finish())

    def _called(self, batch: Tensor, segments: list[Segment]) -> Tensor:
        """The outputs of a batch on the recording's scale; only what is not digital silence is computed."""
        sounding = [not self._silence.covers(heard(segment, batch.shape[-1])) for segment in segments]
        if all(sounding):
            self._caller.begin(segments)
            return self._call(batch)
        silent = [segment for segment, sounds in zip(segments, sounding, strict=True) if not sounds]
        parts = torch.tensor(sounding, device=batch.device)
        nothing = self._caller.silence(batch[~parts], silent)
        if not any(sounding):
            return nothing
        self._caller.begin([segment for segment, sounds in zip(segments, sounding, strict=True) if sounds])
        found = self._call(batch[parts])
        outputs = found.new_zeros(batch.shape[0], *found.shape[1:])
        outputs[parts] = found
        return outputs

    def _separate(self, samples: Samples) -> None:
        if samples.shape[-1]:
            self._silence.push(samples)
            self._give(self._stepper.push(self._scale.normalised(samples)))

    def _give(self, outputs: Samples | None) -> None:
        """Bring outputs [n, channels, samples] at the model's rate back to the recording's."""
        if outputs is None:
            return
        restored = with_channels(outputs, self._n_channels)
        n_samples = outputs.shape[-1]
        self._put(self._to_source.push(restored.reshape(-1, n_samples)))
        self._n_to_find -= n_samples
        # What is computed next touches no earlier sample, but may begin a segment before and hear half of one more.
        n_heard = 2 * (self.steps.segment_samples or ENDLESS)
        self._silence.forget_before(self.steps.span.stop - self._n_to_find - n_heard)
        if not self._n_to_find:
            self._put(self._to_source.finish())

    def _put(self, samples: Samples) -> None:
        """Put samples [n * channels, samples] into the lanes, without those before the stretch."""
        n_skipped = min(self._n_to_skip, samples.shape[-1])
        self._n_to_skip -= n_skipped
        per_result = samples[:, n_skipped:].reshape(len(self.tracks), self._n_channels, -1)
        for track, part in zip(self.tracks.values(), per_result, strict=True):
            track.put(part)


def _caller(loaded: LoadedTask, indices: Sequence[int], options: Options) -> BackendRunner:
    backend, name = loaded.backend, loaded.task.backend.name
    if loaded.conditions is not None:
        conditions = loaded.conditions.rows(list(indices)).to(options.device)
        return BackendRunner(backend, name, conditions, range(len(indices)), loaded.on_cpu)
    sources, stems = backend.info.sources, [loaded.task.targets[index].stem for index in indices]
    if not set(stems) <= set(sources):
        raise BackendError(
            f"The backend '{name}' was to give {', '.join(stems)} and gives {', '.join(sources)}. "
            "Upgrade its plugin, or tell its author to test it with unisep.testing.BackendContract."
        )
    return BackendRunner(backend, name, None, [sources.index(stem) for stem in stems], loaded.on_cpu)


@dataclass(frozen=True, eq=False)
class Piece:
    """The same stretch of the mixture and of each result, [channels, samples], like the recording's own."""

    mixture: Samples
    found: dict[str, Samples]


class Engine:
    """Separates a recording that arrives in blocks; all that is held at a time is a few segments.

    Give blocks [channels, samples] to `feed`, then call `end`. `ready` says up to which sample everything
    is known, and `take` gives it, piece by piece. A whole recording, a file and a stream all go this way,
    so they give the same bits.

    statistics: of the recording, for backends that normalise by them; None gives each segment a scale of
        its own.
    on_segment: called after each segment.

    Raises:
        BackendError: a backend failed or broke its contract; the message names it and the time.
        Cancelled: `cancel` was set.
        QueryError: a time range outside the recording.
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
        self._layout = layout
        self._cancel = cancel
        self.passes = [
            BackendPass(one, stretch, spans, layout, options, statistics, on_segment, cancel)
            for one in loaded
            for spans in [_spans(one, layout)]
            for stretch in stretches([with_fades(span, layout.sample_rate_hz) for span in spans])
        ]
        self._lanes = {name: track for each in self.passes for name, track in each.tracks.items()}
        self._mixture = SampleQueue()
        self._n_in = self._n_out = 0
        self._has_ended = False

    @property
    def names(self) -> list[str]:
        """The names of the results."""
        return list(self._lanes)

    def announce(self, reporter: ProgressReporter) -> None:
        """Nothing; tells the meter how much there is to do in a recording of known length."""
        n_samples = self._layout.n_samples
        assert n_samples is not None
        counts = [each.steps.extent(n_samples, self._layout.sample_rate_hz) for each in self.passes]
        reporter.begin(sum(n for n, _ in counts), sum(seconds for _, seconds in counts))

    @property
    def n_in(self) -> int:
        """How many samples were fed."""
        return self._n_in

    @property
    def ready(self) -> int:
        """Up to which sample of the recording everything is known."""
        return min(self._n_in, *(ENDLESS if self._has_ended else track.ready for track in self._lanes.values()))

    @property
    def presence(self) -> dict[str, tuple[Presence, ...]]:
        """How surely each result is there in each segment so far; empty where the backend does not say."""
        return {name: found for each in self.passes for name, found in each.presence.items()}

    def forget_presence_before(self, seconds: float) -> None:
        """Nothing; drops what was said of segments that ended before this time."""
        for each in self.passes:
            each.forget_presence_before(seconds)

    def feed(self, block: Samples) -> None:
        """Nothing; takes the next block of the recording, which is kept until it is given back."""
        stop_if(self._cancel)
        self._mixture.put(block)
        self._n_in += block.shape[-1]
        with torch.inference_mode():
            for each in self.passes:
                each.push(block)

    def end(self) -> None:
        """Nothing; the recording has ended, and all of it becomes ready."""
        with torch.inference_mode():
            for each in self.passes:
                each.finish()
        self._has_ended = True

    def take(self, stop: int) -> Piece | None:
        """What lies between the end of the piece before and sample `stop`, at most `ready`; None if nothing."""
        start, self._n_out = self._n_out, max(self._n_out, stop)
        mixture = self._mixture.take(self._n_out - start)
        if mixture is None:
            return None
        return Piece(mixture, {name: track.take(start, self._n_out) for name, track in self._lanes.items()})


def pieces(blocks: Iterable[Samples], engine: Engine) -> Iterator[Piece]:
    """All pieces of a recording of known length, one after the other, as soon as they are ready."""
    with keeping_freed_memory():
        for block in blocks:
            engine.feed(block)
            if (piece := engine.take(engine.ready)) is not None:
                yield piece
        engine.end()
    if (piece := engine.take(engine.ready)) is not None:
        yield piece


def _spans(loaded: LoadedTask, layout: Layout) -> list[Span]:
    """Where each result is wanted, in samples of the recording."""
    ranges = [target.time_range for target in loaded.task.targets]
    return [Span(*(layout.span_samples(seconds, "time_range") if seconds else (0, ENDLESS))) for seconds in ranges]


def delay_samples(loaded: Sequence[LoadedTask], sample_rate_hz: int, options: Options) -> int:
    """After how many more samples a sample that was fed is ready, at the latest: a segment, and the resamplers.

    Raises:
        OptionError: a backend takes any length at once, so that nothing would come before the end.
    """
    seconds = []
    for one in loaded:
        steps = one.steps(Span(0, ENDLESS), sample_rate_hz, options)
        if steps.segment_samples is None:
            whole = one.backend.info.needs_whole
            advice = "Use separate, or another backend." if whole else "Give the Separator segment_seconds."
            raise OptionError(
                f"'{one.task.backend.name}' takes recordings of any length at once, so nothing comes out before the "
                f"end. {advice}"
            )
        resampling = 2 * delay_seconds(sample_rate_hz, steps.sample_rate_hz)
        seconds.append(steps.segment_samples / steps.sample_rate_hz + resampling)
    return math.ceil(max(seconds) * sample_rate_hz) + 1
