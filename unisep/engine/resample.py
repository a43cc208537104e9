"""Convert between the rate and channels of a recording and those of a model, aligned to the sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from unisep.audio import Samples
from unisep.errors import AudioError

QUALITY = "VHQ"
LIVE_CROSSINGS = 32  # of the sinc, to each side: keeps what is below 0.83 of half the lower rate
_DELAY_SAMPLES = 2048  # of the lower rate


def to_model(samples: Samples, source_rate_hz: int, model_rate_hz: int, channels: int) -> Samples:
    """Return `samples [channels, n]` as the model takes them, float32 at its rate; the same where nothing changes."""
    return resample(with_channels(samples, channels), source_rate_hz, model_rate_hz)


def to_source(samples: Samples, model_rate_hz: int, source_rate_hz: int, n_channels: int, n_samples: int) -> Samples:
    """Return a model's outputs `[..., channels, n]` as float32 `[..., n_channels, n_samples]` at the source's rate."""
    result = resample(with_channels(samples, n_channels), model_rate_hz, source_rate_hz)
    return _with_length(result, n_samples)


def resampled_length(n_samples: int, from_rate_hz: int, to_rate_hz: int) -> int:
    """Return the number of samples after resampling: the time they cover, rounded up, and at least one.

    >>> resampled_length(1001, 48000, 44100), resampled_length(1, 192000, 44100)
    (920, 1)
    """
    return max(1, math.ceil(n_samples * to_rate_hz / from_rate_hz))


def resample(samples: Samples, from_rate_hz: int, to_rate_hz: int) -> Samples:
    """Return `samples [..., n]` at another rate, without delay, in float32."""
    if from_rate_hz == to_rate_hz:
        return np.asarray(samples, dtype=np.float32)
    *axes, n_samples = samples.shape
    frames = np.ascontiguousarray(samples.reshape(-1, n_samples).T, dtype=np.float32)
    resampled = soxr.resample(frames, from_rate_hz, to_rate_hz, quality=QUALITY)
    exact = _with_length(resampled.T, resampled_length(n_samples, from_rate_hz, to_rate_hz))
    return np.ascontiguousarray(exact).reshape(*axes, -1)


class StreamResampler:
    """Resamples blocks `[channels, samples]` one after another; joined, they equal `resample` of the whole."""

    def __init__(self, from_rate_hz: int, to_rate_hz: int, channels: int) -> None:
        self._rates_hz = (from_rate_hz, to_rate_hz)
        self._channels = channels
        self._n_in = self._n_out = 0
        self._stream: soxr.ResampleStream | None = None
        if from_rate_hz != to_rate_hz:
            self._stream = soxr.ResampleStream(from_rate_hz, to_rate_hz, channels, dtype="float32", quality=QUALITY)

    def push(self, block: Samples) -> Samples:
        """Return what is known after one more block, `[channels, some samples]`, often none at first.

        A sample comes out at the latest `delay_seconds` after it went in. At the same rate the block itself does.
        """
        self._n_in += block.shape[-1]
        return block if self._stream is None else self._resampled(block, last=False)

    def finish(self) -> Samples:
        """Return the remaining samples, `[channels, n]`."""
        nothing = np.zeros((self._channels, 0), dtype=np.float32)
        if self._stream is None:
            return nothing
        rest = self._resampled(nothing, last=True)
        n_all = resampled_length(self._n_in, *self._rates_hz) if self._n_in else 0
        return _with_length(rest, rest.shape[-1] + n_all - self._n_out)

    def _resampled(self, block: Samples, last: bool) -> Samples:
        assert self._stream is not None
        frames = np.ascontiguousarray(block.T, dtype=np.float32)
        result: Samples = np.ascontiguousarray(self._stream.resample_chunk(frames, last=last).T)
        self._n_out += result.shape[-1]
        return result


class LiveResampler:
    """Resamples blocks with little delay, by a sinc under a Kaiser window: what folds is 80 dB below.

    Sample m of the result is at the time of sample m * from / to, and known once `reach_samples` more have come.
    """

    def __init__(self, from_rate_hz: int, to_rate_hz: int, channels: int) -> None:
        divisor = math.gcd(from_rate_hz, to_rate_hz)
        self._up, self._down = to_rate_hz // divisor, from_rate_hz // divisor
        scale = max(1.0, self._down / self._up)
        self.reach_samples = reach = 0 if self._up == self._down else math.ceil(LIVE_CROSSINGS * scale)
        offsets = np.arange(1 - reach, reach + 1) - np.arange(self._up)[:, None] / self._up
        window = np.i0(9 * np.sqrt(np.clip(1 - (offsets / max(1, reach)) ** 2, 0, 1)))
        taps = np.sinc(0.92 * offsets / scale) * window
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)  # [phases, 2 * reach]
        self._n_in = self._n_out = 0
        self._start = 1 - reach  # the time of the first sample that is kept
        self._kept = np.zeros((channels, max(0, reach - 1)), dtype=np.float32)

    def push(self, block: Samples) -> Samples:
        """Return what is known after one more block `[channels, samples]`; at the same rate, the block."""
        if not (reach := self.reach_samples):
            return block
        self._n_in += block.shape[-1]
        heard = np.concatenate([self._kept, block], axis=1)
        stop = -((reach - self._n_in) * self._up // self._down)
        if stop <= self._n_out:
            self._kept = heard
            return heard[:, :0]
        times = np.arange(self._n_out, stop, dtype=np.int64) * self._down
        firsts = times // self._up + 1 - reach - self._start
        windows = sliding_window_view(heard, 2 * reach, axis=1)[:, firsts]
        start = stop * self._down // self._up + 1 - reach
        self._kept, self._start, self._n_out = heard[:, start - self._start :].copy(), start, stop
        return np.einsum("cnk,nk->cn", windows, self._taps[times % self._up])


def resample_blocks(blocks: Iterator[Samples], from_rate_hz: int, to_rate_hz: int) -> Iterator[Samples]:
    """Yield blocks `[channels, samples]` at another rate, as a stream; empty blocks are left out."""
    stream: StreamResampler | None = None
    for block in blocks:
        stream = stream or StreamResampler(from_rate_hz, to_rate_hz, block.shape[0])
        if (done := stream.push(block)).shape[-1]:
            yield done
    if stream is not None and (rest := stream.finish()).shape[-1]:
        yield rest


def delay_seconds(one_rate_hz: int, other_rate_hz: int) -> float:
    """Return how long a `StreamResampler` holds a sample back at the most: measured for soxr, with a margin."""
    return 0.0 if one_rate_hz == other_rate_hz else _DELAY_SAMPLES / min(one_rate_hz, other_rate_hz)


def with_channels(samples: Samples, channels: int) -> Samples:
    """Return `samples [..., channels, n]` with another number of channels: mono is duplicated, stereo averaged."""
    n_channels = samples.shape[-2]
    if n_channels == channels:
        return samples
    if n_channels == 1:
        return np.repeat(samples, channels, axis=-2)
    if channels == 1:
        return samples.mean(axis=-2, keepdims=True, dtype=np.float32)
    raise AudioError(f"{n_channels} channels cannot become {channels}: only mono and stereo are supported.")


def _with_length(samples: Samples, n_samples: int) -> Samples:
    n_missing = n_samples - samples.shape[-1]
    if n_missing <= 0:
        return samples[..., :n_samples]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, n_missing)])
