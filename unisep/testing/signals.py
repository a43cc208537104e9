"""Deterministic test signals, as `Audio`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisep.audio import Audio


def silence(seconds: float = 1.0, sample_rate_hz: int = 44_100, channels: int = 2) -> Audio:
    """Return zeros."""
    return _audio(np.zeros(_n_samples(seconds, sample_rate_hz)), sample_rate_hz, channels)


def tone(
    frequency_hz: float = 440.0, seconds: float = 1.0,
    sample_rate_hz: int = 44_100, channels: int = 2, peak: float = 0.5,
) -> Audio:  # fmt: skip
    """Return a sine wave, the same in all channels."""
    phase = 2 * np.pi * frequency_hz * _times(seconds, sample_rate_hz)
    return _audio(peak * np.sin(phase), sample_rate_hz, channels)


def chirp(
    seconds: float = 1.0, sample_rate_hz: int = 44_100, channels: int = 2,
    low_hz: float = 50.0, high_hz: float = 10_000.0,
) -> Audio:  # fmt: skip
    """Return a sine that rises exponentially from `low_hz` to `high_hz`, so that all of the band is in it."""
    ratio = np.log(high_hz / low_hz)
    times = _times(seconds, sample_rate_hz)
    phase = 2 * np.pi * low_hz * seconds / ratio * (np.exp(ratio * times / seconds) - 1)
    return _audio(0.5 * np.sin(phase), sample_rate_hz, channels)


def clicks(per_second: float = 4.0, seconds: float = 1.0, sample_rate_hz: int = 44_100, channels: int = 2) -> Audio:
    """Return single samples of 0.9 at equal distances."""
    samples = np.zeros(_n_samples(seconds, sample_rate_hz))
    samples[:: max(1, round(sample_rate_hz / per_second))] = 0.9
    return _audio(samples, sample_rate_hz, channels)


def noise(
    seconds: float = 1.0, sample_rate_hz: int = 44_100, channels: int = 2, seed: int = 0, deviation: float = 0.1
) -> Audio:
    """Return white Gaussian noise, independent in each channel, the same for the same `seed`."""
    shape = (channels, _n_samples(seconds, sample_rate_hz))
    samples = deviation * np.random.default_rng(seed).standard_normal(shape)
    return Audio(samples.astype(np.float32), sample_rate_hz)


def mix(*parts: Audio) -> Audio:
    """Return the sum of audio of one rate and shape."""
    total = np.sum([part.samples for part in parts], axis=0, dtype=np.float64)
    return Audio(total.astype(np.float32), parts[0].sample_rate_hz)


def _n_samples(seconds: float, sample_rate_hz: int) -> int:
    return max(1, round(seconds * sample_rate_hz))


def _times(seconds: float, sample_rate_hz: int) -> NDArray[np.float64]:
    return np.arange(_n_samples(seconds, sample_rate_hz)) / sample_rate_hz


def _audio(samples: NDArray[np.float64], sample_rate_hz: int, channels: int) -> Audio:
    return Audio(np.tile(samples.astype(np.float32), (channels, 1)), sample_rate_hz)
