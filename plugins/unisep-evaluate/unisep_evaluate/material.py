"""Levels and passages of files, read in blocks, so that a long recording takes little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisep import files
from unisep.audio import Audio
from unisep.engine import resample as convert
from unisep.errors import AudioFileError

STEP_SECONDS = 0.1
SILENT_DB = -60.0
LEAST_SAMPLE = 2.0**-23  # what 24 bits hold; lossy decoders fade to far less, which no metric means by silence
_BLOCK_STEPS = 100
_FLOOR = 1e-12

Samples = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Levels:
    """A file's rate, channels and length, and its level in dB of full scale at each step of 0.1 s."""

    sample_rate_hz: int
    n_channels: int
    seconds: float
    step_db: NDArray[np.float64]

    def between(self, start_seconds: float, seconds: float) -> NDArray[np.float64]:
        """The steps of a stretch; beyond the end all is silent."""
        first, n_steps = round(start_seconds / STEP_SECONDS), max(1, round(seconds / STEP_SECONDS))
        found = self.step_db[first : first + n_steps]
        return np.pad(found, (0, n_steps - len(found)), constant_values=10 * np.log10(_FLOOR))

    def sounds(self, start_seconds: float, seconds: float) -> NDArray[np.bool_]:
        """At which steps of a stretch the sound is heard: within 40 dB of its loudest and above -60 dBFS."""
        return self.between(start_seconds, seconds) > max(float(self.step_db.max()) - 40, SILENT_DB)

    def is_silent(self, start_seconds: float, seconds: float) -> bool:
        """Whether no step of a stretch is above -60 dBFS."""
        return bool((self.between(start_seconds, seconds) <= SILENT_DB).all())


def power_db(step_db: Sequence[NDArray[np.float64]]) -> float:
    """The level of unrelated sounds together over a stretch, from their levels at each step."""
    mean = np.mean(10 ** (together_db(step_db) / 10)) if len(step_db) else _FLOOR
    return 10 * float(np.log10(mean))


def is_silence(samples: Samples) -> bool:
    """Whether no sample is above -60 dBFS."""
    return bool(np.abs(samples).max() <= 10 ** (SILENT_DB / 20))


def level_db(samples: Samples) -> float:
    """The level of samples in dB of full scale."""
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + _FLOOR))


def levels_of(path: Path) -> Levels:
    """The levels of a file, read once for as long as it stays the same.

    Raises:
        AudioFileError: as `files.read` says.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise AudioFileError(f"Cannot read '{path}': {error.strerror}. The data set names it.") from error
    return _levels_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _levels_of(path: Path, modified_ns: int, n_bytes: int) -> Levels:
    rate_hz, n_channels, n_samples = 0, 1, 0
    powers: list[NDArray[np.float64]] = []
    step_samples = 0
    for block in _blocks(path):
        rate_hz, n_channels = block.sample_rate_hz, block.n_channels
        step_samples = step_samples or round(rate_hz * STEP_SECONDS)
        n_samples += block.n_samples
        square = np.square(block.samples, dtype=np.float64).mean(axis=0)
        firsts = np.arange(0, len(square), step_samples)
        counts = np.diff([*firsts, len(square)])
        powers.append(np.add.reduceat(square, firsts) / counts)
    step_db = 10 * np.log10(np.concatenate(powers) + _FLOOR)
    return Levels(rate_hz, n_channels, n_samples / rate_hz, step_db)


def read_passages(path: Path, starts: Sequence[int], n_samples: int, sample_rate_hz: int, channels: int) -> Samples:
    """Passages `[passages, channels, samples]` of a file at a given rate; beyond its end all is silent.

    starts: first samples at `sample_rate_hz`. The file is read once, up to the end of the last passage. Values
    below the least of 24 bits become zero.

    Raises:
        AudioFileError: as `files.read` says.
    """
    found = np.zeros((len(starts), channels, n_samples), np.float32)
    position = 0
    for block in _converted(path, sample_rate_hz, channels):
        end = position + block.shape[-1]
        for passage, start in zip(found, starts, strict=True):
            first, last = max(start, position), min(start + n_samples, end)
            if first < last:
                passage[:, first - start : last - start] = block[:, first - position : last - position]
        position = end
        if position >= max(starts, default=0) + n_samples:
            break
    found[np.abs(found) < LEAST_SAMPLE] = 0
    return found


def loudest(step_db: NDArray[np.float64], seconds: float, avoid: tuple[float, float] | None = None) -> float | None:
    """Where the loudest stretch of `seconds` starts, in seconds; None where all is silent.

    step_db: levels at each step. avoid: (start, end) in seconds that the stretch must not touch.
    """
    n_steps = max(1, round(seconds / STEP_SECONDS))
    power = np.pad(10 ** (step_db / 10), (0, max(0, n_steps - len(step_db))))
    sums = np.convolve(power, np.ones(n_steps), "valid")
    if avoid is not None:
        starts = np.arange(len(sums)) * STEP_SECONDS
        sums[(starts < avoid[1]) & (starts + seconds > avoid[0])] = 0
    best = int(sums.argmax())
    is_heard = 10 * np.log10(sums[best] / n_steps + _FLOOR) > SILENT_DB
    return best * STEP_SECONDS if is_heard else None


def together_db(step_db: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The level of unrelated sounds together at each step, as long as the longest."""
    power = np.full(max(map(len, step_db), default=0), _FLOOR)
    for levels in step_db:
        power[: len(levels)] += 10 ** (levels / 10)
    return 10 * np.log10(power)


def _converted(path: Path, sample_rate_hz: int, channels: int) -> Iterator[Samples]:
    rate_hz = levels_of(path).sample_rate_hz
    blocks = (convert.to_model(block.samples, rate_hz, rate_hz, channels) for block in _blocks(path))
    return convert.resample_blocks(blocks, rate_hz, sample_rate_hz)


def _blocks(path: Path) -> Iterator[Audio]:
    """The file in blocks of about 10 s that hold a whole number of steps."""
    rate_hz = files.probe(path).sample_rate_hz
    is_empty = True
    for block in files.read_blocks(path, round(rate_hz * STEP_SECONDS) * _BLOCK_STEPS):
        is_empty = False
        yield block
    if is_empty:
        raise AudioFileError(f"'{path}' holds no samples.")
