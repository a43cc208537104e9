"""Clips on which the audio sides of two encoders are brought together: the user's, or some made by rule.

Without the user's clips the matrix comes from captions alone; only the means of the audio sides are still missing.
Where a map holds, any clips that both encoders hear give the right pair of means, so sounds made by rule will do: no
recording has to be shipped. How well the map holds for audio is measured on them, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisep import files
from unisep.audio import Audio
from unisep.errors import AudioError, AudioFileError
from unisep.files.formats import READ_SUFFIXES

SAMPLE_RATE_HZ = 48_000
SECONDS = 3.0
LONGEST_SECONDS = 30.0
LEAST_CLIPS = 10
_PITCHES_HZ = (55.0, 98.0, 175.0, 311.0, 554.0, 988.0, 1760.0)
_BANDS_HZ = ((40, 200), (200, 800), (800, 3_000), (3_000, 12_000), (40, 12_000))
N_MADE = 7 * len(_PITCHES_HZ) + 4 * len(_BANDS_HZ)


def made_sounds() -> list[Audio]:
    """Make `N_MADE` clips of three seconds: tones, plucks, chords, sweeps, trills, bursts and bands of noise."""
    clips = [*_tones(), *_noises()]
    return [Audio((0.5 * clip / np.abs(clip).max()).astype(np.float32), SAMPLE_RATE_HZ) for clip in clips]


def _tones() -> Iterator[NDArray[np.float64]]:
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    for pitch_hz in _PITCHES_HZ:
        for n_partials in (1, 4, 16):
            yield _harmonic(pitch_hz * times, n_partials)
        yield _harmonic(pitch_hz * times, 12) * np.exp(-6 * (times % 0.5))  # plucked twice a second
        yield _harmonic(pitch_hz * times + 0.4 * np.sin(2 * np.pi * 5.5 * times), 8)  # vibrato
        yield np.sum([_harmonic(ratio * pitch_hz * times, 6) for ratio in (1, 1.25, 1.5)], axis=0)  # a chord
        yield np.sin(2 * np.pi * pitch_hz * times * (1 + times / SECONDS))  # a sweep


def _harmonic(cycles: NDArray[np.float64], n_partials: int) -> NDArray[np.float64]:
    partials = np.arange(1, n_partials + 1)[:, None]
    total: NDArray[np.float64] = (np.sin(2 * np.pi * partials * cycles) / partials).sum(0)
    return total


def _noises() -> Iterator[NDArray[np.float64]]:
    random = np.random.default_rng(0)
    times = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    for band_hz in _BANDS_HZ:
        noise = _band(random.standard_normal(times.size), *band_hz)
        yield noise
        yield noise * np.exp(-20 * (times % 0.5))  # beats
        yield noise * np.exp(-60 * (times % 0.125))  # a rattle
        yield noise * (0.5 + 0.5 * np.sin(2 * np.pi * 0.5 * times))  # surf


def _band(noise: NDArray[np.float64], low_hz: float, high_hz: float) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(noise)
    frequencies_hz = np.fft.rfftfreq(noise.size, 1 / SAMPLE_RATE_HZ)
    spectrum[(frequencies_hz < low_hz) | (frequencies_hz > high_hz)] = 0
    return np.fft.irfft(spectrum, noise.size)


def clip_files(folder: str | Path) -> list[Path]:
    """List the audio files in a folder and in those below it, in order.

    Raises:
        AudioFileError: There is no such folder, or it holds fewer than ten files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioFileError(f"There is no folder '{folder}'. Give one that holds audio files.")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in READ_SUFFIXES and path.is_file()]
    check_enough(folder, len(paths))
    return paths


def check_enough(folder: str | Path, n_clips: int) -> None:
    """Raise AudioFileError for fewer clips than can be measured on."""
    if n_clips < LEAST_CLIPS:
        raise AudioFileError(
            f"'{folder}' holds {n_clips} clips that can be read and are not silent; at least {LEAST_CLIPS} are needed, "
            "better a hundred. Add some, or leave the folder out."
        )


def read_clip(path: Path) -> Audio | None:
    """Read the first thirty seconds of a file; None where it cannot be read or is silent."""
    try:
        n_samples = round(LONGEST_SECONDS * files.probe(path).sample_rate_hz)
        clip = next(files.read_blocks(path, n_samples), None)
    except AudioError:
        return None
    return clip if clip is not None and clip.samples.any() else None
