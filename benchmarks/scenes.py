"""Scenes of held-out recordings of which is known what sounds in them, and clips to ask with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from zlib import crc32

import numpy as np
from measuring import RATE_HZ
from mixing import Corpus, Range, Samples, at_level, loudest, stretch
from unisep_evaluate import layouts
from unisep_train.data.corpus import decode, split_of
from unisep_train.mixing.scenes import Scene, tags_of

N_SAMPLES = 6 * RATE_HZ  # a segment of the embedded model
BESIDE_DB = Range(-6, 6)  # against all else
N_MIXES, N_PER_SONG = 40, 24  # of single recordings in each half; of a song


@dataclass(frozen=True)
class HeldOut(Scene):
    """A scene of held-out recordings. half: 0 or 1; no recording is in both. number: its own."""

    half: int
    number: int


def song_scenes(corpus: Corpus, halves: Sequence[int] = (0, 1)) -> Iterator[HeldOut]:
    """Yield windows of the songs, evenly over their length; the first song is one half, the others the second."""
    for place, song in enumerate(corpus.songs):
        if min(place, 1) not in halves:
            continue
        rows = [row for row in corpus.rows.values() if row.song == song]
        n = min(corpus.read(row.path).shape[-1] for row in rows)
        starts = np.linspace(0, n - N_SAMPLES, min(N_PER_SONG, n // N_SAMPLES)).astype(int)
        tags = {row.label: tags_of(row.label, row.synonyms, row.four_stem) for row in rows}
        for start in starts:
            parts: dict[str, Samples] = defaultdict(lambda: np.zeros((2, N_SAMPLES), np.float32))
            for row in rows:
                parts[row.label] = parts[row.label] + corpus.read(row.path)[:, start : start + N_SAMPLES]
            if np.square(sum(parts.values())).mean() > 1e-6:
                number = place * 1000 + int(start) // RATE_HZ
                yield HeldOut(True, dict(parts), tags, min(place, 1), number)


def mixed_scenes(corpus: Corpus, halves: Sequence[int] = (0, 1)) -> Iterator[HeldOut]:
    """Yield two to four single recordings of different names beside each other."""
    singles = [*corpus.solos, *corpus.singing, *corpus.speech, *corpus.sounds]
    for half in halves:
        rng = np.random.default_rng(half)
        order = cycle(rng.permutation([path for path in singles if crc32(path.encode()) % 2 == half]).tolist())
        for number in range(N_MIXES):
            parts: dict[str, Samples] = {}
            tags: dict[str, frozenset[str]] = {}
            while len(parts) < 2 + number % 3:
                row = corpus.rows[next(order)]
                its_tags = tags_of(row.label, row.synonyms, row.four_stem)
                if its_tags.isdisjoint(frozenset().union(*tags.values())):
                    sound = stretch(loudest(corpus.read(row.path), N_SAMPLES, RATE_HZ), N_SAMPLES, rng)
                    other = next(iter(parts.values()), np.full((2, N_SAMPLES), 0.1, np.float32))
                    parts[row.label], tags[row.label] = at_level(sound, other, BESIDE_DB.draw(rng)), its_tags
            yield HeldOut(False, parts, tags, half, 100_000 + half * 1000 + number)


class Examples:
    """Clips of the training recordings, by what they answer to."""

    def __init__(self, folders: Sequence[Path]) -> None:
        rows = [(folder, row) for folder in folders for row in layouts.rows(folder) if split_of(row) == "train"]
        self._rows = [
            (folder / row.path, tags_of(row.label, row.synonyms, row.four_stem))
            for folder, row in rows if row.kind != "notes" and not row.song
        ]  # fmt: skip

    def clip(self, name: str, rng: np.random.Generator) -> Samples | None:
        """Return a clip of something of this name, None where there is none."""
        paths = [path for path, tags in self._rows if name in tags]
        if not paths:
            return None
        samples = np.ascontiguousarray(decode(paths[int(rng.integers(len(paths)))], RATE_HZ).T)
        return loudest(samples, min(N_SAMPLES, samples.shape[-1]), RATE_HZ)
