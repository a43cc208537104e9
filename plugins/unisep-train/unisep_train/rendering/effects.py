"""What happens to a played stem before it is recorded: rooms, amplifiers, swells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from unisep_train.mixing import sounds

Stem = NDArray[np.float32]  # [samples, channels]

# How far an amplifier's gain lifts the loudest parts beyond the knee, in dB, by General MIDI program.
AMPLIFIER_GAINS_DB = {26: (-6, 8), 27: (-6, 10), 28: (0, 16), 29: (10, 24), 30: (20, 42), 31: (10, 30)}
N_OVERSAMPLED = 4  # times the rate: what a clipper makes above half of it would fold back


def reverb(stem: Stem, sample_rate_hz: int, decay_seconds: float, wet_db: float, rng: np.random.Generator) -> Stem:
    """Put the stem in a room, in stereo: decaying noise, `decay_seconds` to -60 dB, different left and right."""
    n_room = max(round(decay_seconds * sample_rate_hz), 64)
    envelope = 10.0 ** (-3.0 * np.arange(n_room) / n_room)
    room = rng.standard_normal((n_room, 2)) * envelope[:, None]
    # A room swallows treble: a short moving average of the noise does as much.
    room[1:] = 0.6 * room[1:] + 0.4 * room[:-1]
    room *= 10.0 ** (wet_db / 20) / np.sqrt(np.square(room).sum(axis=0))
    delay = round(rng.uniform(0.005, 0.03) * sample_rate_hz)
    n_fft = sounds.fast_length(len(stem) + n_room + delay)
    spectrum = np.fft.rfft(stem, n_fft, axis=0) * np.fft.rfft(room.astype(np.float32), n_fft, axis=0)
    wet = np.fft.irfft(spectrum, n_fft, axis=0)[: len(stem) - delay]
    out = np.repeat(stem, 2, axis=1) if stem.shape[1] == 1 else stem.copy()
    out[delay:] += wet.astype(np.float32)
    return out


def drive(stem: Stem, amount: float) -> Stem:
    """Pass the stem through a soft clipper; `amount` is how far its peak goes beyond the knee."""
    peak = float(np.abs(stem).max(initial=0.0)) or 1.0
    return (np.tanh(stem * (amount / peak)) * (peak / np.tanh(amount))).astype(np.float32)


def swell(stem: Stem, sample_rate_hz: int, range_db: float, rng: np.random.Generator) -> Stem:
    """Change the stem's level slowly within +-`range_db`, with a new aim every two seconds."""
    points = np.linspace(0, len(stem), len(stem) // (2 * sample_rate_hz) + 2)
    curve_db = np.interp(np.arange(len(stem)), points, rng.uniform(-range_db, range_db, len(points)))
    return stem * (10.0 ** (curve_db / 20)).astype(np.float32)[:, None]


def amplify(stem: Stem, sample_rate_hz: int, gain_db: float, rng: np.random.Generator) -> Stem:
    """Play the stem through a guitar amplifier and a loudspeaker, in mono: `gain_db` beyond the knee of a soft clipper.

    The clipper is lopsided, as a valve is, and hears little bass; the loudspeaker is a random one with steep edges.
    """
    pickup = [(60, -18), (150, -6), (700, 3), (2500, 4), (8000, 0)]
    mono = _varied(stem.mean(1), sample_rate_hz, pickup, rng)
    hot = mono * (10 ** (gain_db / 20) / (np.quantile(np.abs(mono), 0.99) or 1.0))
    hot = soxr.resample(hot, sample_rate_hz, N_OVERSAMPLED * sample_rate_hz, quality="MQ")
    bias, high_hz = rng.uniform(0.0, 0.4), rng.uniform(3500, 6500)
    clipped = np.tanh(hot + bias) - np.tanh(bias)
    clipped = soxr.resample(clipped, N_OVERSAMPLED * sample_rate_hz, sample_rate_hz, quality="MQ")[: len(stem)]
    cabinet = [
        (40, -30), (90, -2), (200, 0), (500, -1), (1200, 0), (2500, 4), (high_hz, 0), (1.6 * high_hz, -24), (20000, -60)
    ]  # fmt: skip
    out = _varied(clipped, sample_rate_hz, cabinet, rng)
    return np.pad(out, (0, len(stem) - len(out)))[:, None]


def double_track(first: Stem, second: Stem, rng: np.random.Generator) -> Stem:
    """Put two takes of a part left and right, as guitars are recorded: `[samples, 2]`."""
    width = rng.uniform(0.5, 1.0)
    left, right = first.mean(1), second.mean(1)
    return np.stack([left + (1 - width) * right, right + (1 - width) * left], axis=1).astype(np.float32)


def _varied(
    mono: NDArray[np.float32], sample_rate_hz: int, curve: Sequence[tuple[float, float]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Filter `mono [samples]` by a curve of frequencies in Hz and gains in dB, each moved at random within +-3 dB."""
    points_hz, gains_db = zip(*curve, strict=True)
    return sounds.equalise(mono[None], sample_rate_hz, points_hz, gains_db + rng.uniform(-3.0, 3.0, len(curve)))[0]
