"""Levels and passages of audio files, read in blocks, so that a long recording takes little memory."""

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
    """Rate, channels and length of a file, and its level in dB of full scale at each step of 0.1 s."""

    sample_rate_hz: int
    n_channels: int
    seconds: float
    step_db: NDArray[np.float64]

    def between(self, start_seconds: float, seconds: float) -> NDArray[np.float64]:
        """Return the levels of a stretch; beyond the end of the file all is silent."""
        first, n_steps = round(start_seconds / STEP_SECONDS), max(1, round(seconds / STEP_SECONDS))
        steps = self.step_db[first : first + n_steps]
        return np.pad(steps, (0, n_steps - len(steps)), constant_values=10 * np.log10(_FLOOR))

    def sounds(self, start_seconds: float, seconds: float) -> NDArray[np.bool_]:
        """Tell for each step of a stretch whether it is within 40 dB of the file's loudest and above -60 dBFS."""
        return self.between(start_seconds, seconds) > max(float(self.step_db.max()) - 40, SILENT_DB)

    def is_silent(self, start_seconds: float, seconds: float) -> bool:
        """Tell whether no step of a stretch is above -60 dBFS."""
        return bool((self.between(start_seconds, seconds) <= SILENT_DB).all())


def levels_of(path: Path) -> Levels:
    """Return the levels of a file, read once for as long as it stays the same.

    Raises:
        AudioFileError: The file is missing, or cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise AudioFileError(f"Cannot read '{path}': {error.strerror}. The data set names it.") from error
    return _read_levels(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _read_levels(path: Path, modified_ns: int, n_bytes: int) -> Levels:
    rate_hz, n_channels, n_samples = 0, 1, 0
    powers: list[NDArray[np.float64]] = []
    for block in _blocks(path):
        rate_hz, n_channels = block.sample_rate_hz, block.n_channels
        n_samples += block.n_samples
        squares = np.square(block.samples, dtype=np.float64).mean(axis=0)
        firsts = np.arange(0, len(squares), round(rate_hz * STEP_SECONDS))
        powers.append(np.add.reduceat(squares, firsts) / np.diff([*firsts, len(squares)]))
    if not powers:
        raise AudioFileError(f"'{path}' holds no samples.")
    step_db = 10 * np.log10(np.concatenate(powers) + _FLOOR)
    return Levels(rate_hz, n_channels, n_samples / rate_hz, step_db)


def common_format(paths: Sequence[Path]) -> tuple[int, int, float]:
    """Return the highest sample rate, number of channels and length in seconds of some files."""
    formats = [(levels.sample_rate_hz, levels.n_channels, levels.seconds) for levels in map(levels_of, paths)]
    rate_hz, n_channels, seconds = map(max, zip(*formats, strict=True))
    return rate_hz, n_channels, seconds


def read_passages(path: Path, starts: Sequence[int], n_samples: int, sample_rate_hz: int, channels: int) -> Samples:
    """Read passages `[passages, channels, n_samples]` at a rate, in one go up to the end of the last.

    `starts` count at that rate. Beyond the end of the file all is silent. Values below the least of 24 bits become zero.

    Raises:
        AudioFileError: The file is missing, or cannot be read.
    """
    passages = np.zeros((len(starts), channels, n_samples), np.float32)
    rate_hz, position = levels_of(path).sample_rate_hz, 0
    blocks = (convert.to_model(block.samples, rate_hz, rate_hz, channels) for block in _blocks(path))
    for block in convert.resample_blocks(blocks, rate_hz, sample_rate_hz):
        end = position + block.shape[-1]
        for passage, start in zip(passages, starts, strict=True):
            first, last = max(start, position), min(start + n_samples, end)
            if first < last:
                passage[:, first - start : last - start] = block[:, first - position : last - position]
        position = end
        if position >= max(starts) + n_samples:
            break
    passages[np.abs(passages) < LEAST_SAMPLE] = 0
    return passages


def _blocks(path: Path) -> Iterator[Audio]:
    """Read a file in blocks of about 10 s that hold a whole number of steps."""
    return files.read_blocks(path, round(files.probe(path).sample_rate_hz * STEP_SECONDS) * _BLOCK_STEPS)


def loudest(step_db: NDArray[np.float64], seconds: float, avoid: tuple[float, float] | None = None) -> float | None:
    """Return where the loudest stretch of `seconds` starts, in seconds; None where all is silent.

    The stretch does not touch the span `avoid`, from a start to an end in seconds.
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


def together_db(step_db: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level of unrelated sounds together at each step, as long as the longest."""
    power = np.full(max(map(len, step_db), default=0), _FLOOR)
    for levels in step_db:
        power[: len(levels)] += 10 ** (levels / 10)
    return 10 * np.log10(power)


def power_db(step_db: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> float:
    """Return the level of unrelated sounds together over a stretch, from their levels at each step."""
    mean = np.mean(10 ** (together_db(step_db) / 10)) if len(step_db) else _FLOOR
    return 10 * float(np.log10(mean))


def level_db(samples: Samples) -> float:
    """Return the level of samples in dB of full scale."""
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + _FLOOR))


def is_silence(samples: Samples) -> bool:
    """Tell whether no sample is above -60 dBFS."""
    return bool(np.abs(samples).max() <= 10 ** (SILENT_DB / 20))
