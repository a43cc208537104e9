"""Example clips for audio queries: the same kind of sound from elsewhere, never the target itself."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import final

import numpy as np

from unisep.audio import Audio
from unisep_evaluate import labels
from unisep_evaluate.datasets import Dataset, Sound, Track
from unisep_evaluate.material import levels_of, loudest, read_passages, together_db
from unisep_evaluate.windows import WindowOptions

Span = tuple[float, float]
Source = tuple[Sound, ...]  # what sounds together in a clip: one file, or the stems of a song that answer


@final
class Examples:
    """Finds a clip for each question: in what was set aside, else in other files, else in another passage.

    A clip is the loudest stretch of a single sound labelled as asked, or of all stems of a song that answer
    together, as a target is; for drums, bass and vocals songs go first. Last come single sounds that answer by a
    synonym. None of them is silent.
    """

    def __init__(self, dataset: Dataset, options: WindowOptions) -> None:
        self._dataset = dataset
        self._options = options
        self._found: dict[tuple[Source, Span | None], Audio | None] = {}

    def for_window(self, name: str, track: Track, span: Span) -> Audio | None:
        """A clip for a window of a song, which lies at `span` seconds; None where there is none."""
        data = self._dataset
        elsewhere = [other for other in data.tracks if other is not track]
        rng = self._rng(f"{name} {track.name} {span}")
        return (
            self._first(_sources(name, data.aside_singles, data.aside_tracks, rng))
            or self._first(_sources(name, data.singles, elsewhere, rng))
            or self._first(_sources(name, (), [track], rng), span)
        )

    def for_single(self, name: str, target: Sound | None) -> Audio | None:
        """A clip for a single sound; None where there is none."""
        data = self._dataset
        rng = self._rng(f"{name} {target.path.name if target else ''}")
        others = [sound for sound in data.singles if sound is not target]
        return self._first(_sources(name, data.aside_singles, data.aside_tracks, rng)) or self._first(
            _sources(name, others, data.tracks, rng)
        )

    def _rng(self, key: str) -> np.random.Generator:
        return np.random.default_rng((self._options.seed, zlib.crc32(key.encode())))

    def _first(self, sources: Iterable[Source], avoid: Span | None = None) -> Audio | None:
        return next((clip for source in sources if (clip := self._clip(source, avoid)) is not None), None)

    def _clip(self, source: Source, avoid: Span | None) -> Audio | None:
        if (source, avoid) not in self._found:
            self._found[source, avoid] = _loudest_clip(source, self._options.example_seconds, avoid)
        return self._found[source, avoid]


def _loudest_clip(source: Source, seconds: float, avoid: Span | None) -> Audio | None:
    levels = [levels_of(sound.path) for sound in source]
    start = loudest(together_db([each.step_db for each in levels]), seconds, avoid)
    if start is None:
        return None
    rate_hz, channels = max(each.sample_rate_hz for each in levels), max(each.n_channels for each in levels)
    n_samples = round(min(seconds, max(each.seconds for each in levels) - start) * rate_hz)
    first = [round(start * rate_hz)]
    parts = [read_passages(sound.path, first, n_samples, rate_hz, channels)[0] for sound in source]
    samples = np.sum(parts, axis=0, dtype=np.float32)
    return Audio(samples, rate_hz) if samples.any() else None


def _sources(name: str, singles: Sequence[Sound], tracks: Sequence[Track], rng: np.random.Generator) -> list[Source]:
    """Where a clip could come from, best first, the order of equals drawn."""
    of_songs = [tuple(stem for stem in track.stems if stem.answers(name)) for track in tracks]
    songs: list[Source] = [stems for stems in of_songs if stems]
    exact: list[Source] = [(sound,) for sound in singles if sound.label == name]
    wider: list[Source] = [(sound,) for sound in singles if sound.label != name and sound.answers(name)]
    tiers = [songs, exact, wider] if name in labels.ROLES else [exact + songs, wider]
    return [tier[index] for tier in tiers for index in rng.permutation(len(tier))]
