"""What the measurements of quality mix: recordings kept for validation, stretches of them, brought to a level beside others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import RATE_HZ
from numpy.typing import NDArray
from unisep_evaluate import layouts
from unisep_train.data.corpus import decode, split_of

ASKED = {"drums": "drums", "bass": "bass", "synth": "synthesizer"}  # for all of a family's stems
HAS_VOICES = re.compile(r"\b(man|crowd|chatter|coffee shop|mermaid|vomit|gargling|whistle)\b")  # of everyday sounds
Samples = NDArray[np.float32]


class Range(NamedTuple):
    """Where a figure is drawn from, evenly."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one."""
        return float(rng.uniform(*self))


def loudest(signal: Samples, n_samples: int, rate_hz: int) -> Samples:
    """Return the loudest stretch `[..., n_samples]`, to a tenth of a second; all, and silence after it, where it is shorter."""
    n_missing = n_samples - signal.shape[-1]
    if n_missing >= 0:
        return np.pad(signal, [(0, 0)] * (signal.ndim - 1) + [(0, n_missing)])
    powers = np.square(signal, dtype=np.float64).reshape(-1, signal.shape[-1]).sum(0)
    energy = np.concatenate([[0.0], np.cumsum(powers)])
    starts = np.arange(0, 1 - n_missing, rate_hz // 10)
    start = int(starts[np.argmax(energy[starts + n_samples] - energy[starts])])
    return signal[..., start : start + n_samples]


def stretch(signal: Samples, n_samples: int, rng: np.random.Generator) -> Samples:
    """Return a stretch `[..., n_samples]` that is drawn, of the signal or, where it is shorter, of its repetition."""
    repeats = [1] * (signal.ndim - 1) + [-(-n_samples // signal.shape[-1])]
    repeated = np.tile(signal, repeats)
    start = int(rng.integers(repeated.shape[-1] - n_samples + 1))
    return repeated[..., start : start + n_samples]


def at_level(signal: Samples, other: Samples, difference_db: float) -> Samples:
    """Return the signal with so many decibels more energy than the other has."""
    gain = np.linalg.norm(other) / max(float(np.linalg.norm(signal)), 1e-9) * 10 ** (difference_db / 20)
    return (signal * gain).astype(np.float32)


class Corpus:
    """The validation recordings of some folders, single ones in an order that has nothing to do with their names."""

    def __init__(self, folders: Sequence[Path]) -> None:
        rows = [(folder, row) for folder in folders for row in layouts.rows(folder) if split_of(row) == "valid"]
        self.rows = {row.path: row for _, row in rows}
        self._places = {row.path: folder / row.path for folder, row in rows}
        self.songs = sorted({row.song for row in self.rows.values() if row.song})
        self.singing, self.speech = self._singles("voice", "vocals"), self._singles("voice", "speech")
        self.solos, sounds = (
            [path for path in self._singles(kind) if self.rows[path].family not in ("vocals", "speech")]
            for kind in ("solo", "universal")
        )
        self.sounds = [path for path in sounds if not HAS_VOICES.search(self.rows[path].label)]

    def _singles(self, kind: str, family: str = "") -> list[str]:
        rows = [row for row in self.rows.values() if row.kind == kind and not row.song]
        paths = sorted(row.path for row in rows if family in ("", row.family))
        return [str(path) for path in np.random.default_rng(0).permutation(paths)]

    @cache  # noqa: B019 - one corpus a process
    def read(self, path: str) -> Samples:
        """Return a recording `[2, samples]`."""
        samples = decode(self._places[path], RATE_HZ).T
        return np.ascontiguousarray(np.broadcast_to(samples, (2, samples.shape[-1])))

    @cache  # noqa: B019
    def families(self, song: str) -> dict[str, tuple[str, Samples]]:
        """Return for each family of a song's stems what one would ask for it, and their sum."""
        stems: dict[str, list[str]] = defaultdict(list)
        for path, row in self.rows.items():
            if row.song == song:
                stems[row.family].append(path)
        n = min(self.read(path).shape[-1] for paths in stems.values() for path in paths)
        sums = {name: sum(self.read(path)[:, :n] for path in paths) for name, paths in stems.items()}
        return {name: (ASKED.get(name, self.rows[stems[name][0]].label), total) for name, total in sums.items()}  # type: ignore[misc]

    def band(self, song: str, without: str = "") -> Samples:
        """Return a song without vocals and without another family."""
        families = self.families(song).items()
        return np.sum([samples for name, (_, samples) in families if name not in ("vocals", without)], axis=0)
