"""The steps in order: from the blocks of a recording and loaded backends to results in step with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from unisep.buffers import SampleQueue, Samples
from unisep.cancelling import CancelFlag, stop_if
from unisep.convert import delay_seconds
from unisep.errors import OptionError
from unisep.heap import keeping_freed_memory
from unisep.options import Options
from unisep.passes import Loaded, Pass
from unisep.progress import Meter
from unisep.recording import ENDLESS, Layout, Statistics
from unisep.spans import Span, stretches, with_fades
from unisep.targets import Presence


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
        loaded: Sequence[Loaded],
        layout: Layout,
        options: Options,
        statistics: Statistics | None,
        on_segment: Callable[[], None] = lambda: None,
        cancel: CancelFlag | None = None,
    ) -> None:
        self._layout = layout
        self._cancel = cancel
        self.passes = [
            Pass(one, stretch, spans, layout, options, statistics, on_segment, cancel)
            for one in loaded
            for spans in [_spans(one, layout)]
            for stretch in stretches([with_fades(span, layout.sample_rate_hz) for span in spans])
        ]
        self._lanes = {name: lane for each in self.passes for name, lane in each.lanes.items()}
        self._mixture = SampleQueue()
        self._n_in = self._n_out = 0
        self._has_ended = False

    @property
    def names(self) -> list[str]:
        """The names of the results."""
        return list(self._lanes)

    def announce(self, meter: Meter) -> None:
        """Nothing; tells the meter how much there is to do in a recording of known length."""
        n_samples = self._layout.n_samples
        assert n_samples is not None
        counts = [each.steps.extent(n_samples, self._layout.sample_rate_hz) for each in self.passes]
        meter.begin(sum(n for n, _ in counts), sum(seconds for _, seconds in counts))

    @property
    def n_in(self) -> int:
        """How many samples were fed."""
        return self._n_in

    @property
    def ready(self) -> int:
        """Up to which sample of the recording everything is known."""
        return min(self._n_in, *(ENDLESS if self._has_ended else lane.ready for lane in self._lanes.values()))

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
        return Piece(mixture, {name: lane.take(start, self._n_out) for name, lane in self._lanes.items()})


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


def _spans(loaded: Loaded, layout: Layout) -> list[Span]:
    """Where each result is wanted, in samples of the recording."""
    ranges = [want.time_range for want in loaded.task.wants]
    return [
        Span(*(layout.span_samples(seconds, "time_range") if seconds else (0, ENDLESS))) for seconds in ranges
    ]


def delay_samples(loaded: Sequence[Loaded], sample_rate_hz: int, options: Options) -> int:
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
