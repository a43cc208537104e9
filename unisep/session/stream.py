"""A separation of a recording that is still going on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from unisep.audio import Audio, as_samples
from unisep.engine.device import Options
from unisep.engine.engine import Engine, Piece, delay_samples
from unisep.engine.recording import Layout, Statistics
from unisep.engine.timeline import Samples
from unisep.errors import AudioError, OptionError, QueryError
from unisep.progress import CancelFlag, ProgressReporter
from unisep.query.query import Range
from unisep.routing.types import Plan, Route
from unisep.separation import Separation
from unisep.session.compose import REST, composed, without
from unisep.session.prepare import Job, Planner

ScaleOf = Literal["none", "song", "segment"]


@dataclass(frozen=True)
class StreamFacts:
    """What is known before the first block: the plan, the delay, and what the scale is taken from."""

    route: Route
    sample_rate_hz: int
    delay_samples: int
    scale_of: ScaleOf


@final
class Stream(Iterator[Separation]):
    """Results of a recording that comes in blocks: an iterator of `Separation`, one after the other, without gaps.

    After n samples went in, exactly n - `delay_samples` have come out; the rest comes when the blocks end. The
    presence of a result is that of the segments it lies in. Joined, the results are bit for bit those of
    `Separator.separate` with the same statistics.

    delay_samples: fixed, at the rate of the blocks. plan: who answers what, and why.
    scale_of: "song" where `statistics` were given, "segment" where a backend that normalises by the song
        has to do it by the segment, "none" where no backend normalises.
    """

    def __init__(self, blocks: Iterable[Any], facts: StreamFacts, engine_for: Callable[[Layout], Engine]) -> None:
        self._facts = facts
        self._engine_for = engine_for
        self._results = self._separated(blocks)

    @property
    def plan(self) -> Plan:
        """Who answers what, and why."""
        return self._facts.route.plan

    @property
    def delay_samples(self) -> int:
        """By how much what comes out is behind what goes in."""
        return self._facts.delay_samples

    @property
    def delay_seconds(self) -> float:
        """The delay, in seconds."""
        return self._facts.delay_samples / self._facts.sample_rate_hz

    @property
    def scale_of(self) -> ScaleOf:
        """What the scale is taken from on which the backend hears the recording."""
        return self._facts.scale_of

    def __next__(self) -> Separation:
        return next(self._results)

    def _separated(self, blocks: Iterable[Any]) -> Iterator[Separation]:
        engine: Engine | None = None
        n_channels = n_out = 0
        for block in blocks:
            samples = self._checked(block, n_channels)
            if samples is None:
                continue
            n_channels = samples.shape[0]
            engine = engine or self._engine_for(Layout(self._facts.sample_rate_hz, n_channels))
            engine.feed(samples)
            piece = engine.take(min(engine.ready, engine.n_in - self._facts.delay_samples))
            if piece is not None:
                yield self._result(piece, engine, n_out)
                n_out += piece.mixture.shape[1]
        if engine is None:
            return
        engine.end()
        if (piece := engine.take(engine.ready)) is not None:
            yield self._result(piece, engine, n_out)

    def _checked(self, block: Any, n_channels: int) -> Samples | None:
        """A copy of the block's samples [channels, samples], since callers use their buffers again."""
        if isinstance(block, Audio):
            if block.sample_rate_hz != self._facts.sample_rate_hz:
                raise AudioError(
                    f"A block has {block.sample_rate_hz} Hz, and the stream {self._facts.sample_rate_hz} Hz. "
                    "Resample it first."
                )
            block = block.samples
        if (getattr(block, "shape", (1,)) or (1,))[-1] == 0:
            return None
        samples = as_samples(block).copy()
        if n_channels and samples.shape[0] != n_channels:
            raise AudioError(f"A block has {samples.shape[0]} channels, and those before had {n_channels}.")
        return samples

    def _result(self, piece: Piece, engine: Engine, start: int) -> Separation:
        rate_hz = self._facts.sample_rate_hz
        found = composed(piece, self._facts.route)
        first, last = start / rate_hz, (start + piece.mixture.shape[1]) / rate_hz
        engine.forget_presence_before(first)
        presence = {
            name: tuple(each for each in all_of_it if each.start_seconds < last)
            for name, all_of_it in engine.presence.items()
        }
        rest = Audio(found.pop(REST), rate_hz)
        return Separation(
            {name: Audio(samples, rate_hz) for name, samples in found.items()},
            rest=rest,
            presence_over_time=presence,
            plan=self.plan,
        )


def open_stream(
    blocks: Iterable[Any],
    job: Job,
    planner: Planner,
    options: Options,
    sample_rate_hz: int,
    statistics: Statistics | None,
    cancel: CancelFlag | None,
) -> Stream:
    """The stream of a job. Raises and warns as `Separator.stream` says."""
    route = job.route
    if isinstance(blocks, str | bytes | Audio) or hasattr(blocks, "shape") or not isinstance(blocks, Iterable):
        raise AudioError(
            f"A stream takes blocks of audio one after the other, not {type(blocks).__name__}. Pass a generator, or a "
            "list of arrays [channels, samples]; for a whole recording use separate."
        )
    if statistics is not None and not isinstance(statistics, Statistics):
        raise OptionError(f"statistics={statistics!r:.80}: give Statistics.of(recording), or None.")
    if route.steps:
        raise OptionError(
            f"The result step {route.steps[0].title} needs the whole recording, which a stream never has. "
            f"To go without it: {without(route.steps[0].distribution)}"
        )
    if job.normalises and statistics is None:
        warnings.warn(
            "Each segment is normalised by itself, since the statistics of the whole recording are not known: "
            "levels may move where it gets louder or softer. Pass statistics=Statistics.of(recording) where you have it.",
            stacklevel=3,
        )
    loaded = planner.loaded(job, refuse_excerpt, ProgressReporter())
    one_at_a_time = replace(options, batch_segments=1)
    delay = delay_samples(loaded, sample_rate_hz, one_at_a_time)
    scale_of: ScaleOf = "none" if not job.normalises else "segment" if statistics is None else "song"
    return Stream(
        blocks,
        StreamFacts(route, sample_rate_hz, delay, scale_of),
        lambda layout: Engine(loaded, layout, one_at_a_time, statistics, cancel=cancel),
    )


def refuse_excerpt(seconds: Range) -> Audio:
    """Nothing. Raises QueryError: there is no recording of which a part could be the example."""
    raise QueryError(
        f"example_range={seconds} without `audio` is a part of the recording, which a stream cannot hear in advance. "
        "Give the example as `audio`."
    )
