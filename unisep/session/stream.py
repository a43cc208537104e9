"""A separation of a recording that is still going on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, final

from unisep.audio import Audio, Samples, SamplesLike, as_samples
from unisep.engine.device import Options
from unisep.engine.engine import Engine, Piece, delay_samples
from unisep.engine.recording import Layout, Statistics
from unisep.errors import AudioError, OptionError, QueryError
from unisep.progress import CancelFlag, ProgressReporter
from unisep.query.query import Range
from unisep.routing.types import Route
from unisep.separation import Separation
from unisep.session.compose import REST, compose, without
from unisep.session.prepare import Prepared, Preparer

ScaleOf = Literal["none", "song", "segment"]


@final
class Stream(Iterator[Separation]):
    """Results of a recording that comes in blocks: an iterator of `Separation`, one after the other, without gaps.

    After n samples went in, exactly n - `delay_samples` have come out; the rest comes when the blocks end. The
    presence of a result is that of the segments it lies in. Joined, the results are bit for bit those of
    `Separator.separate` with the same statistics.

    Attributes:
        plan: who answers what, and why.
        delay_samples: by how much what comes out is behind what goes in, at the rate of the blocks.
        scale_of: where a backend that normalises by the song takes the scale from: "song" where `statistics` were given,
            else "segment"; "none" where no backend normalises.
    """

    def __init__(
        self,
        blocks: Iterable[SamplesLike | Audio],
        route: Route,
        sample_rate_hz: int,
        delay_samples: int,
        scale_of: ScaleOf,
        engine_for: Callable[[Layout], Engine],
    ) -> None:
        """Separate `blocks` as they are asked for; `engine_for` gives the engine once their channels are known."""
        self.plan = route.plan
        self.delay_samples = delay_samples
        self.scale_of = scale_of
        self._route = route
        self._rate_hz = sample_rate_hz
        self._engine_for = engine_for
        self._results = self._separated(blocks)

    @property
    def delay_seconds(self) -> float:
        """The delay, in seconds."""
        return self.delay_samples / self._rate_hz

    def __next__(self) -> Separation:
        return next(self._results)

    def _separated(self, blocks: Iterable[SamplesLike | Audio]) -> Iterator[Separation]:
        engine: Engine | None = None
        n_channels = n_out = 0
        for block in blocks:
            samples = self._checked(block, n_channels)
            if samples is None:
                continue
            n_channels = samples.shape[0]
            engine = engine or self._engine_for(Layout(self._rate_hz, n_channels))
            engine.feed(samples)
            piece = engine.take(min(engine.ready, engine.n_in - self.delay_samples))
            if piece is not None:
                yield self._result(piece, engine, n_out)
                n_out += piece.mixture.shape[1]
        if engine is None:
            return
        engine.end()
        if (piece := engine.take(engine.ready)) is not None:
            yield self._result(piece, engine, n_out)

    def _checked(self, block: Any, n_channels: int) -> Samples | None:
        """Return a copy of the block's samples `[channels, samples]`, since callers use their buffers again."""
        if isinstance(block, Audio):
            if block.sample_rate_hz != self._rate_hz:
                raise AudioError(
                    f"A block has {block.sample_rate_hz} Hz, and the stream {self._rate_hz} Hz. Resample it first."
                )
            block = block.samples
        if (getattr(block, "shape", (1,)) or (1,))[-1] == 0:
            return None
        samples = as_samples(block).copy()
        if n_channels and samples.shape[0] != n_channels:
            raise AudioError(f"A block has {samples.shape[0]} channels, and those before had {n_channels}.")
        return samples

    def _result(self, piece: Piece, engine: Engine, start: int) -> Separation:
        rate_hz = self._rate_hz
        audio = {name: Audio(samples, rate_hz) for name, samples in compose(piece, self._route).items()}
        engine.forget_presence_before(start / rate_hz)
        stop_seconds = (start + piece.mixture.shape[1]) / rate_hz
        presence = {
            name: tuple(entry for entry in entries if entry.start_seconds < stop_seconds)
            for name, entries in engine.presence.items()
        }
        rest = audio.pop(REST)
        return Separation(audio, rest=rest, presence_over_time=presence, plan=self.plan)


def open_stream(
    blocks: Iterable[SamplesLike | Audio],
    prepared: Prepared,
    preparer: Preparer,
    options: Options,
    sample_rate_hz: int,
    statistics: Statistics | None,
    cancel: CancelFlag | None,
) -> Stream:
    """Open the stream of a prepared request. Raise and warn as `Separator.stream` says."""
    route = prepared.route
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
    if prepared.normalises and statistics is None:
        preparer.say(
            "Each segment is normalised by itself, since the statistics of the whole recording are not known: "
            "levels may move where it gets louder or softer. Pass statistics=Statistics.of(recording) where you have it."
        )
    tasks = preparer.encoded(prepared, refuse_excerpt, ProgressReporter())
    options = replace(options, batch_segments=1)  # none waits for others
    delay = delay_samples(tasks, sample_rate_hz, options)
    scale_of: ScaleOf = "none" if not prepared.normalises else "segment" if statistics is None else "song"
    return Stream(
        blocks, route, sample_rate_hz, delay, scale_of,
        lambda layout: Engine(tasks, layout, options, statistics, cancel=cancel),
    )  # fmt: skip


def refuse_excerpt(seconds: Range) -> Audio:
    """Raise QueryError: there is no recording of which a part could be the example."""
    raise QueryError(
        f"example_range={seconds} without `audio` is a part of the recording, which a stream cannot hear in advance. "
        "Give the example as `audio`."
    )
