"""Which part of the recording is computed for results that are wanted only somewhere, and how it fades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unisep.recording import ENDLESS

FADE_SECONDS = 0.01
RESAMPLING_MARGIN_SECONDS = 0.05
RESAMPLING_MARGIN_SAMPLES = (
    200  # of the source, where that is more: its filter is as many samples long at any rate
)


@dataclass(frozen=True)
class Span:
    """Samples `start` to `stop` (exclusive) of the recording, at its own rate."""

    start: int
    stop: int


@dataclass(frozen=True)
class Stretch:
    """One pass over a part of the recording, for the results at `indices`."""

    span: Span
    indices: tuple[int, ...]


def stretches(wanted: Sequence[Span]) -> list[Stretch]:
    """The fewest passes that cover `wanted`: spans that touch or overlap are computed together.

    >>> [s.indices for s in stretches([Span(0, 10), Span(50, 60), Span(5, 20)])]
    [(0, 2), (1,)]
    """
    result: list[Stretch] = []
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index].start):
        span = wanted[index]
        if result and span.start <= result[-1].span.stop:
            last = result.pop()
            span = Span(last.span.start, max(last.span.stop, span.stop))
            result.append(Stretch(span, tuple(sorted((*last.indices, index)))))
        else:
            result.append(Stretch(span, (index,)))
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
