"""Scenes of held-out recordings of which is known what sounds in them, and questions about them: present, absent, nonsense."""

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
from unisep_evaluate import layouts, vocabulary
from unisep_evaluate.metrics import energy_ratio_db
from unisep_train.data.corpus import decode, split_of

from unisep.query.concepts import Concept, concepts, named

N_SAMPLES = 6 * RATE_HZ  # a segment of the embedded model
PRESENT_DB, SILENT_DB, BESIDE_DB = -12.0, -60.0, Range(-6, 6)  # against all else
N_MIXES, N_PER_SONG = 40, 24  # of single recordings in each half; of a song
LETTERS = "asdfghjklqwertyuiopzxcvbnm"


def wider(name: str) -> set[str]:
    """Return a concept and all that contain it."""
    return {name}.union(*(wider(parent) for parent in concepts()[name].within)) if name in concepts() else {name}


def tags_of(label: str, synonyms: Sequence[str] = (), four_stem: str = "none") -> frozenset[str]:
    """Return all names that a sound answers to."""
    names = vocabulary.tags(label, synonyms, four_stem) | {label}
    return frozenset().union(*(wider(named(name) or name) for name in names))


@dataclass(frozen=True)
class Scene:
    """What sounds in a window, `[2, samples]` by label, and all names that its parts and its song answer to.

    half: 0 or 1; no recording is in both. number: its own.
    """

    half: int
    number: int
    is_song: bool
    parts: dict[str, Samples]
    tags: dict[str, frozenset[str]]

    @property
    def mixture(self) -> Samples:
        """All parts together."""
        return np.sum(list(self.parts.values()), axis=0, dtype=np.float32)

    def level_db(self, name: str) -> float:
        """Return the level of all parts that answer to a name against the others; -inf where none does."""
        target = self.target(name)
        return energy_ratio_db(target, self.mixture - target) if target.any() else -np.inf

    def target(self, name: str) -> Samples:
        """Return the sum of the parts that answer to a name."""
        parts = [part for label, part in self.parts.items() if name in self.tags[label]]
        return np.sum(parts, axis=0, dtype=np.float32) if parts else np.zeros((2, N_SAMPLES), np.float32)

    @property
    def names(self) -> list[str]:
        """Return what can be asked for: concepts and labels."""
        return sorted(
            name for name in frozenset().union(*self.tags.values()) if name in concepts() or name in self.tags
        )

    def present(self) -> list[str]:
        """Return names of what is heard; of several with the same parts, one."""
        parts = {name: frozenset(label for label in self.parts if name in self.tags[label]) for name in self.names}
        kept = {of: name for name, of in parts.items() if self.level_db(name) >= PRESENT_DB}
        return sorted(kept.values())

    def silent(self) -> list[str]:
        """Return names of what its song holds, and this window does not."""
        return [name for name in self.names if self.level_db(name) < SILENT_DB]

    def absent(self) -> list[str]:
        """Return names of concepts of which nothing in the song is a kind, nor the other way round."""
        known = frozenset().union(*self.tags.values())
        return [
            one.name for one in concepts().values()
            if known.isdisjoint(wider(one.name)) and not (self.is_song and one.kind == "effect")
        ]  # fmt: skip


def song_scenes(corpus: Corpus, halves: Sequence[int] = (0, 1)) -> Iterator[Scene]:
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
                yield Scene(min(place, 1), place * 1000 + int(start) // RATE_HZ, True, dict(parts), tags)


def mixed_scenes(corpus: Corpus, halves: Sequence[int] = (0, 1)) -> Iterator[Scene]:
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
            yield Scene(half, 100_000 + half * 1000 + number, False, parts, tags)


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


def in_words(concept: Concept | None, name: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return how somebody asks for it and what that is: its name, a wording that is known, or one that is held out."""
    if concept is None:
        return "label", name
    how = str(rng.choice(["name", "known", "held out"]))
    texts = {"name": [name], "known": concept.wordings, "held out": concept.held_out}[how]
    return how, str(rng.choice(texts))


def nonsense(pieces: Sequence[str], half: int, n: int = 300) -> list[str]:
    """Return letters without a meaning, words that name no sound, and pairs of such, in turn; others in each half."""
    rng = np.random.default_rng((half, n))
    words = [piece for piece in pieces if piece.isalpha() and len(piece) > 3 and crc32(piece.encode()) % 2 == half]
    words = [word for word in words if named(word) is None]
    draws = [
        lambda: "".join(rng.choice(list(LETTERS), int(rng.integers(3, 9)))),
        lambda: str(rng.choice(words)),
        lambda: " ".join(rng.choice(words, 2)),
    ]
    return [draws[number % 3]() for number in range(n)]
