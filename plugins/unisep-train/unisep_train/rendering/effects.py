"""Light studio effects for rendered stems: reverb, drive and slow swells. Sounds are `[samples, channels]` float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisep_train.mixing.augment import fast_length

Stem = NDArray[np.float32]


def reverb(stem: Stem, sample_rate_hz: int, decay_seconds: float, wet_db: float, rng: np.random.Generator) -> Stem:
    """The stem in a room, in stereo: decaying noise, `decay_seconds` to -60 dB, different left and right."""
    n_room = max(round(decay_seconds * sample_rate_hz), 64)
    envelope = 10.0 ** (-3.0 * np.arange(n_room) / n_room)
    room = rng.standard_normal((n_room, 2)) * envelope[:, None]
    # A room swallows treble: a short moving average of the noise does as much.
    room[1:] = 0.6 * room[1:] + 0.4 * room[:-1]
    room *= 10.0 ** (wet_db / 20) / np.sqrt(np.square(room).sum(axis=0))
    delay = round(rng.uniform(0.005, 0.03) * sample_rate_hz)
    n_fft = fast_length(len(stem) + n_room + delay)
    spectrum = np.fft.rfft(stem, n_fft, axis=0) * np.fft.rfft(room.astype(np.float32), n_fft, axis=0)
    wet = np.fft.irfft(spectrum, n_fft, axis=0)[: len(stem) - delay]
    out = np.repeat(stem, 2, axis=1) if stem.shape[1] == 1 else stem.copy()
    out[delay:] += wet.astype(np.float32)
    return out


def drive(stem: Stem, amount: float) -> Stem:
    """The stem through a soft clipper; `amount` is how far its peak goes beyond the knee."""
    peak = float(np.abs(stem).max(initial=0.0))
    if peak == 0.0:
        return stem
    return (np.tanh(stem * (amount / peak)) * (peak / np.tanh(amount))).astype(np.float32)


def swell(stem: Stem, sample_rate_hz: int, range_db: float, rng: np.random.Generator) -> Stem:
    """The stem with slow changes of level within +-`range_db`, a new aim every two seconds."""
    n_points = len(stem) // (2 * sample_rate_hz) + 2
    curve_db = np.interp(
        np.arange(len(stem)), np.linspace(0, len(stem), n_points), rng.uniform(-range_db, range_db, n_points)
    )
    return stem * (10.0 ** (curve_db / 20)).astype(np.float32)[:, None]
