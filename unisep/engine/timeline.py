"""Results in time: which part is computed for a time range, how it fades, and samples that wait."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep.audio import ENDLESS

Samples = NDArray[np.float32]


class SampleQueue:
    """Samples [..., n], put in pieces and taken in pieces of other sizes, in order."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._pieces: deque[Samples] = deque()

    def put(self, samples: Samples | None) -> None:
        """Nothing; appends `samples` [..., n], if there are any. They are kept, not copied."""
        if samples is not None and samples.shape[-1]:
            self._pieces.append(samples)
            self.n_samples += samples.shape[-1]

    def take(self, n_samples: int) -> Samples | None:
        """The first samples, up to `n_samples`; None where there are none."""
        taken: list[Samples] = []
        n_left = min(n_samples, self.n_samples)
        self.n_samples -= n_left
        while n_left:
            piece = self._pieces.popleft()
            if piece.shape[-1] > n_left:
                self._pieces.appendleft(piece[..., n_left:])
                piece = piece[..., :n_left]
            n_left -= piece.shape[-1]
            taken.append(piece)
        if len(taken) > 1:
            return np.concatenate(taken, axis=-1)
        return taken[0] if taken else None


FADE_SECONDS = 0.01


RESAMPLING_MARGIN_SECONDS = 0.05


RESAMPLING_MARGIN_SAMPLES = 200  # of the source, where that is more: its filter is as many samples long at any rate


@dataclass(frozen=True)
class Span:
    """Samples `start` to `stop` (exclusive) of the recording, at its own rate."""

    start: int
    stop: int


@dataclass(frozen=True)
class SharedSpan:
    """One pass over a part of the recording, for the results at `indices`."""

    span: Span
    indices: tuple[int, ...]


def stretches(wanted: Sequence[Span]) -> list[SharedSpan]:
    """The fewest passes that cover `wanted`: spans that touch or overlap are computed together.

    >>> [s.indices for s in stretches([Span(0, 10), Span(50, 60), Span(5, 20)])]
    [(0, 2), (1,)]
    """
    result: list[SharedSpan] = []
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index].start):
        span = wanted[index]
        if result and span.start <= result[-1].span.stop:
            last = result.pop()
            span = Span(last.span.start, max(last.span.stop, span.stop))
            result.append(SharedSpan(span, tuple(sorted((*last.indices, index)))))
        else:
            result.append(SharedSpan(span, (index,)))
    return result


def with_fades(span: Span, sample_rate_hz: int) -> Span:
    """The span with the room for a fade on both sides; it may reach beyond the recording's end."""
    n_fade = round(FADE_SECONDS * sample_rate_hz)
    return Span(max(0, span.start - n_fade), min(span.stop + n_fade, ENDLESS))


def gains(span: Span, faded: Span, part: Span) -> NDArray[np.float32]:
    """Gains over `part` of `faded`: 1 within `span`, half a cosine down to 0 on either side of it."""
    result = np.ones(part.stop - part.start, dtype=np.float32)
    rise, fall = _rise(span.start - faded.start), _rise(faded.stop - span.stop)[::-1]
    for edge, values in ((faded.start, rise), (span.stop, fall)):
        first, last = max(part.start, edge), min(part.stop, edge + len(values))
        if first < last:
            result[first - part.start : last - part.start] = values[first - edge : last - edge]
    return result


def at_model_rate(span: Span, source_rate_hz: int, model_rate_hz: int) -> Span:
    """The span in the model's samples, wide enough for the way back through the resampler.

    It starts where a sample of the model falls on a sample of the source, so that the part can be
    resampled by itself; it may reach beyond the recording's end.
    """
    if source_rate_hz == model_rate_hz:
        return span
    step = model_rate_hz // math.gcd(source_rate_hz, model_rate_hz)
    margin_seconds = max(RESAMPLING_MARGIN_SECONDS, RESAMPLING_MARGIN_SAMPLES / source_rate_hz)
    margin = margin_seconds * model_rate_hz
    start = max(0, span.start * model_rate_hz / source_rate_hz - margin)
    stop = span.stop * model_rate_hz / source_rate_hz + margin
    return Span(int(start // step) * step, math.ceil(stop))


def _rise(n_samples: int) -> NDArray[np.float32]:
    phase = (np.arange(n_samples) + 0.5) / n_samples
    return (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)


class TargetTrack:
    """What is wanted of one result: faded at the ends of its span, silence elsewhere.

    wanted: where in the recording. start: the sample of the recording that the first sample put in is.
    """

    def __init__(self, wanted: Span, start: int, sample_rate_hz: int, n_channels: int) -> None:
        self._wanted = wanted
        self._faded = with_fades(wanted, sample_rate_hz)
        self._rate_hz = sample_rate_hz
        self._n_put = start
        self._n_channels = n_channels
        self._inside = SampleQueue()

    def targets(self, start_seconds: float, stop_seconds: float) -> bool:
        """Whether anything between these two times of the recording is wanted."""
        start, stop = start_seconds * self._rate_hz, stop_seconds * self._rate_hz
        return start < self._wanted.stop and stop > self._wanted.start

    @property
    def ready(self) -> int:
        """Up to which sample of the recording the result is known."""
        return ENDLESS if self._n_put >= self._faded.stop else max(self._n_put, self._faded.start)

    def put(self, samples: Samples) -> None:
        """Nothing; adds `samples` [channels, n], which follow those before."""
        first, self._n_put = self._n_put, self._n_put + samples.shape[-1]
        part = Span(max(first, self._faded.start), min(self._n_put, self._faded.stop))
        if part.start >= part.stop:
            return
        inside = samples[..., part.start - first : part.stop - first]
        if part.start < self._wanted.start or part.stop > self._wanted.stop:
            inside = inside * gains(self._wanted, self._faded, part)
        self._inside.put(inside)

    def take(self, start: int, stop: int) -> Samples:
        """The result from `start`, where the last one ended, to `stop`; silence where nothing was put."""
        first, last = max(start, self._faded.start), min(stop, self._faded.stop)
        inside = self._inside.take(last - first) if first < last else None
        if inside is not None and inside.shape[-1] == stop - start:
            return inside
        result = np.zeros((self._n_channels, stop - start), dtype=np.float32)
        if inside is not None:
            result[:, first - start : first - start + inside.shape[-1]] = inside
        return result
