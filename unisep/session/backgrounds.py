"""Backgrounds made by rule, to mix clips of a sound with where there is nothing else."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Sound = NDArray[np.float64]
_SEMITONES = (0, 2, 3, 5, 7, 8, 10, 12)  # of a melody, above its lowest note
_HIGHEST_HZ = 18_000.0


def background(random: Generator, sample_rate_hz: int, channels: int, n_samples: int) -> Sound:
    """Return one to four sounds together, `[channels, n_samples]`: melodies, chords, beats, and bands of noise."""
    mixture = np.zeros((channels, n_samples))
    for _ in range(random.integers(1, 5)):
        make = _notes if random.random() < 0.6 else _noise
        sound = make(random, np.arange(n_samples) / sample_rate_hz, random.choice([0.125, 0.25, 0.5, 1.0]))
        share, gain = random.uniform(0.5, 1.0), 10 ** (random.uniform(-8, 4) / 20)
        mixture += gain * np.array([share, 1.5 - share])[:channels, None] * sound / (sound.std() + 1e-9)
    return mixture


def _notes(random: Generator, times: Sound, step_seconds: float) -> Sound:
    """Make notes, or chords, of one timbre, plucked or held, one a step; `times` in seconds."""
    n_voices, n_partials, slope = random.choice([1, 1, 3]), random.integers(1, 16), random.uniform(0.5, 2.0)
    lowest_hz, decay, vibrato = 55 * 2 ** random.uniform(0, 4.5), random.choice([0, 3, 8]), random.choice([0, 0.3])
    in_steps = times / step_seconds + random.random()
    since = in_steps % 1 * step_seconds
    fade = np.minimum(1, since / 0.01) * np.minimum(1, (step_seconds - since) / 0.02) * np.exp(-decay * since)
    semitones = random.choice(_SEMITONES, (n_voices, int(in_steps[-1]) + 1))[:, in_steps.astype(int)]
    pitches_hz = lowest_hz * 2 ** (semitones / 12)
    phases = 2 * np.pi * pitches_hz * since + vibrato * np.sin(2 * np.pi * 5.5 * times)
    sound = np.zeros_like(times)
    for partial in range(1, n_partials + 1):
        sound += ((partial * pitches_hz < _HIGHEST_HZ) * np.sin(partial * (phases + 1))).sum(0) / partial**slope
    return fade * sound


def _noise(random: Generator, times: Sound, step_seconds: float) -> Sound:
    """Make a band of noise that is struck once a step, or swells."""
    low_hz = 40 * 2 ** random.uniform(0, 7.5)
    frequencies_hz = np.fft.rfftfreq(times.size, times[1])
    gains = 1 / np.sqrt(1 + (low_hz / (frequencies_hz + 1)) ** 4 + (frequencies_hz / low_hz / random.uniform(2, 32)) ** 4)
    noise = np.fft.irfft(np.fft.rfft(random.standard_normal(times.size)) * gains, times.size)
    in_steps = times / step_seconds + random.random()
    if random.random() < 0.5:
        return noise * np.exp(-random.choice([10, 30, 80]) * step_seconds * (in_steps % 1))
    return noise * (1 - 0.5 * random.random() * (1 + np.sin(2 * np.pi * in_steps)))
