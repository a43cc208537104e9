"""Place results in time: spans to compute, fades inside their ends, samples that wait, presence."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unisep.audio import ENDLESS, Samples

FADE_SECONDS = 0.01
RESAMPLING_MARGIN_SECONDS = 0.05
RESAMPLING_MARGIN_SAMPLES = 200  # of the source, where that is more: its filter is as many samples long at any rate


class Presence(NamedTuple):
    """How surely a sound is there between two times: 0 to 1."""

    start_seconds: float
    stop_seconds: float
    presence: float


@dataclass(frozen=True, order=True)
class Span:
    """Samples `start` to `stop` (exclusive) of a recording."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of samples."""
        return self.stop - self.start


WHOLE = Span(0, ENDLESS)


def stretches(wanted: Sequence[Span]) -> list[tuple[Span, list[int]]]:
    """Return the fewest spans that cover `wanted`, each with the indices it is for: those that touch are joined.

    >>> stretches([Span(0, 10), Span(50, 60), Span(5, 20)])
    [(Span(start=0, stop=20), [0, 2]), (Span(start=50, stop=60), [1])]
    """
    result: list[tuple[Span, list[int]]] = []
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index].start):
        span, indices = wanted[index], [index]
        if result and span.start <= result[-1][0].stop:
            last, others = result.pop()
            span, indices = Span(last.start, max(last.stop, span.stop)), sorted([*others, index])
        result.append((span, indices))
    return result


def gains(span: Span, part: Span, n_fade: float) -> Samples:
    """Return the gains over `part` of `span`: half a cosine up from its start and down to its end, and 1 between.

    What starts with the recording begins at 1.
    """
    middles = np.arange(part.start, part.stop) + 0.5
    n_from_edge = np.minimum(middles - (span.start or -n_fade), span.stop - middles)
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(n_from_edge / n_fade, 0, 1))).astype(np.float32)


def at_model_rate(span: Span, source_rate_hz: int, model_rate_hz: int) -> Span:
    """Return the span in the model's samples, wide enough for the way back through the resampler.

    It starts where a sample of the model falls on a sample of the source, so that the part can be resampled by
    itself; it may reach beyond the recording's end.
    """
    if source_rate_hz == model_rate_hz:
        return span
    step = model_rate_hz // math.gcd(source_rate_hz, model_rate_hz)
    margin_seconds = max(RESAMPLING_MARGIN_SECONDS, RESAMPLING_MARGIN_SAMPLES / source_rate_hz)
    margin = margin_seconds * model_rate_hz
    start = max(0, span.start * model_rate_hz / source_rate_hz - margin)
    stop = span.stop * model_rate_hz / source_rate_hz + margin
    return Span(int(start // step) * step, math.ceil(stop))


class SampleQueue:
    """Samples `[..., n]`, put in pieces and taken in pieces of other sizes, in order."""

    def __init__(self) -> None:
        self.n_samples = 0
        self._pieces: deque[Samples] = deque()

    def put(self, samples: Samples) -> None:
        """Append samples `[..., n]`. They are kept, not copied."""
        if samples.shape[-1]:
            self._pieces.append(samples)
            self.n_samples += samples.shape[-1]

    def take(self, n_samples: int) -> Samples | None:
        """Return the first samples, up to `n_samples`; None where there are none."""
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


class TargetTrack:
    """Crop a target to its time range, fade its edges, pad with silence; keep its presence.

    `wanted` is the time range in samples of the recording, and `start` the first sample that will be put in.
    """

    def __init__(self, wanted: Span, start: int, sample_rate_hz: int, n_channels: int) -> None:
        self._wanted = wanted
        self._n_fade = min(FADE_SECONDS * sample_rate_hz, wanted.length / 2)
        self._rate_hz = sample_rate_hz
        self._n_put = start
        self._n_channels = n_channels
        self._inside = SampleQueue()
        self._presence: list[Presence] = []

    @property
    def ready(self) -> int:
        """Up to which sample of the recording the result is known."""
        return ENDLESS if self._n_put >= self._wanted.stop else max(self._n_put, self._wanted.start)

    @property
    def presence(self) -> tuple[Presence, ...]:
        """How surely the target is there, segment by segment, in order."""
        in_order = sorted(self._presence, key=lambda entry: entry[:2])  # those of several shifts are mixed
        return tuple(entry._replace(start_seconds=max(0.0, entry.start_seconds)) for entry in in_order)

    def note(self, presence: Presence) -> None:
        """Keep how surely the target is there in one segment, if that touches the time range."""
        start, stop = presence.start_seconds * self._rate_hz, presence.stop_seconds * self._rate_hz
        if start < self._wanted.stop and stop > self._wanted.start:
            self._presence.append(presence)

    def forget_presence_before(self, seconds: float) -> None:
        """Drop the presence of segments that ended by this time."""
        self._presence = [entry for entry in self._presence if entry.stop_seconds > seconds]

    def put(self, samples: Samples) -> None:
        """Append samples `[channels, n]` of the pass."""
        first, self._n_put = self._n_put, self._n_put + samples.shape[-1]
        part = Span(max(first, self._wanted.start), min(self._n_put, self._wanted.stop))
        if part.start >= part.stop:
            return
        inside = samples[..., part.start - first : part.stop - first]
        if part.start < self._wanted.start + self._n_fade or part.stop > self._wanted.stop - self._n_fade:
            inside = inside * gains(self._wanted, part, self._n_fade)
        self._inside.put(inside)

    def take(self, start: int, stop: int) -> Samples:
        """Return the result from `start`, where the last one ended, to `stop`; silence where nothing was put."""
        first, last = max(start, self._wanted.start), min(stop, self._wanted.stop)
        inside = self._inside.take(last - first) if first < last else None
        if inside is not None and inside.shape[-1] == stop - start:
            return inside
        result = np.zeros((self._n_channels, stop - start), dtype=np.float32)
        if inside is not None:
            result[:, first - start : first - start + inside.shape[-1]] = inside
        return result
