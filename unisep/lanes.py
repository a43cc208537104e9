"""One result on its way from a pass to the caller, in step with the recording."""

from __future__ import annotations

import numpy as np

from unisep.buffers import SampleQueue, Samples
from unisep.recording import ENDLESS
from unisep.spans import Span, gains, with_fades


class Lane:
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

    def wants(self, start_seconds: float, stop_seconds: float) -> bool:
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
