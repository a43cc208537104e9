"""Scenes of which is known what sounds in them, and questions about them: for what is there, for what is not, and nonsense."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from unisep_evaluate import vocabulary
from unisep_evaluate.metrics import energy_ratio_db

from unisep import Audio, QueryEncoder
from unisep.query.concepts import Concept, concepts, named, wider
from unisep.query.encode import Words
from unisep_train.data.catalogue import Catalog, unclear
from unisep_train.mixing import sounds
from unisep_train.mixing.config import UNCHANGED
from unisep_train.mixing.sounds import Sound

PRESENT_DB, SILENT_DB = -12.0, -60.0  # against all else
SAME_MEANING = 0.7  # the cosine from which on a concept backs a text
N_WORD_PARTS = 3  # of all words, for nonsense
LETTERS = "asdfghjklqwertyuiopzxcvbnm"


def tags_of(label: str, synonyms: Sequence[str] = (), four_stem: str = "none") -> frozenset[str]:
    """Return all names that a sound answers to, those of concepts included."""
    names = {named(name) or name for name in vocabulary.tags(label, synonyms, four_stem) | {label}}
    return frozenset(names).union(*(wider(name) for name in names))


@dataclass(frozen=True)
class Scene:
    """What sounds in a window, `[2, samples]` by label, and all names that its parts and the rest of its song answer to."""

    is_song: bool
    parts: dict[str, Sound]
    tags: dict[str, frozenset[str]]

    @cached_property
    def mixture(self) -> Sound:
        """All parts together."""
        return np.sum(list(self.parts.values()), axis=0, dtype=np.float32)

    def level_db(self, name: str) -> float:
        """Return the level of all parts that answer to a name against the others; -inf where none does."""
        target = self.target(name)
        return energy_ratio_db(target, self.mixture - target) if target.any() else -np.inf

    def target(self, name: str) -> Sound:
        """Return the sum of the parts that answer to a name."""
        parts = [part for label, part in self.parts.items() if name in self.tags[label]]
        return np.sum(parts, axis=0, dtype=np.float32) if parts else np.zeros_like(self.mixture)

    @cached_property
    def names(self) -> list[str]:
        """Return what can be asked for: concepts and labels, without what another part may hold unsaid."""
        return sorted(
            name for name in frozenset().union(*self.tags.values())
            if (name in concepts() or name in self.tags) and not self._is_unclear(name)
        )  # fmt: skip

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
            if known.isdisjoint((one.name, *wider(one.name))) and not (self.is_song and one.kind == "effect")
            and not self._is_unclear(one.name)
        ]  # fmt: skip

    def _is_unclear(self, name: str) -> bool:
        return any(unclear(name, label, tags) for label, tags in self.tags.items())


@final
class SceneMixer:
    """Draws scenes from a catalogue: songs and parts of songs, single sounds beside such, and single sounds alone."""

    def __init__(self, catalogue: Catalog, n_samples: int) -> None:
        self.catalogue, self.n_samples = catalogue, n_samples
        items = catalogue.items
        self._tags = [tags_of(item.label, item.synonyms, item.four_stem) for item in items]
        self._by_tag: dict[str, list[int]] = defaultdict(list)
        for index, tags in enumerate(self._tags):
            for name in tags if items[index].kind != "notes" else ():
                self._by_tag[name].append(index)
        self._singles = [index for index, item in enumerate(items) if not item.song]

    def scene(self, rng: np.random.Generator) -> Scene:
        """Draw one that is not silent."""
        while not (scene := self._drawn(rng)).parts:
            pass
        return scene

    def _drawn(self, rng: np.random.Generator) -> Scene:
        roll = rng.random() if self.catalogue.songs else 1.0
        parts: dict[int, Sound] = {}
        stems: list[int] = []
        if roll < 0.7:
            parts, stems = self._song(rng, is_whole=roll < 0.25)
        n_singles = int(rng.integers(1, 5)) if roll >= 0.7 else int(roll >= 0.5)
        spread_db = 6.0 if not parts else 10.0
        level_db = sounds.level_db(np.sum(list(parts.values()), axis=0)) if parts else -20.0
        for _ in range(n_singles if self._singles else 0):
            index = self._single({*stems, *parts}, rng)
            if index is not None:
                sound = sounds.one_sound(self.catalogue, index, self.n_samples, UNCHANGED, rng)
                parts[index] = sounds.to_level(sound, level_db + rng.uniform(-spread_db, spread_db))
        return self._labelled(parts, {*stems, *parts}, is_song=roll < 0.5, level_db=rng.uniform(-28.0, -16.0))

    def clip(self, name: str, rng: np.random.Generator) -> Sound | None:
        """Draw a clip of something of this name, 2 to 6 s long; None where there is none."""
        if not self._by_tag.get(name):
            return None
        n_samples = int(rng.uniform(2.0, 6.0) * self.catalogue.store.sample_rate_hz)
        index = int(rng.choice(self._by_tag[name]))
        return sounds.one_sound(self.catalogue, index, n_samples, UNCHANGED, rng)

    def _song(self, rng: np.random.Generator, *, is_whole: bool) -> tuple[dict[int, Sound], list[int]]:
        """Draw a window of a song, all stems or some: what is in it, and all of which is known whether it is."""
        chosen = self.catalogue.songs[self.catalogue.draw_song(rng)]
        start = self.catalogue.start(int(rng.choice(chosen)), self.n_samples, rng)
        if not is_whole and len(chosen) > 2:
            chosen = rng.choice(chosen, int(rng.integers(2, len(chosen) + 1)), replace=False).tolist()
        parts = {index: sounds.stems(self.catalogue, [index], start, self.n_samples, rng, 0.0) for index in chosen}
        return {index: part for index, part in parts.items() if part.any()}, chosen

    def _single(self, others: set[int], rng: np.random.Generator) -> int | None:
        """Draw a single sound that shares no name with the others."""
        taken = frozenset().union(*(self._tags[index] for index in others))
        for _ in range(30):
            index = self.catalogue.draw(rng.choice(self._singles, 20).tolist(), rng)
            if self._tags[index].isdisjoint(taken):
                return index
        return None

    def _labelled(self, parts: dict[int, Sound], known: set[int], *, is_song: bool, level_db: float) -> Scene:
        by_label: dict[str, Sound] = {}
        tags: dict[str, frozenset[str]] = {}
        for index in sorted(known):
            label = self.catalogue.items[index].label
            tags[label] = tags.get(label, frozenset()) | self._tags[index]
            if index in parts:
                by_label[label] = by_label[label] + parts[index] if label in by_label else parts[index]
        factor = sounds.gain(level_db - sounds.level_db(np.sum(list(by_label.values()), axis=0))) if by_label else 1
        return Scene(is_song, {label: part * factor for label, part in by_label.items()}, tags)


class Question(NamedTuple):
    """What is asked of a scene: kind ("present, known" and so on), name of the sound or "", words or "", and vector `[d]`."""

    kind: str
    name: str
    text: str
    vector: Tensor

    @property
    def is_present(self) -> bool:
        """Whether the sound is there."""
        return self.kind.startswith("present")


@dataclass
class Questions:
    """Draws what is asked of scenes, and encodes it: words as they are in use, backed by the concept they come near.

    Attributes:
        encoder: of words and clips.
        clip: draws a mono clip, or `[2, samples]`, of something of a name, or None.
        sample_rate_hz: of the clips.
        n: how many names of each kind are asked for by words in a scene, and by example.
        held_out: whether wordings may be asked that are kept from training, too.
        likely: whether most of what is absent was present in scenes before, so that a name by itself says nothing.
    """

    encoder: QueryEncoder
    clip: Callable[[str, np.random.Generator], NDArray[np.float32] | None]
    sample_rate_hz: int
    n: dict[str, int]
    n_examples: int = 1
    held_out: bool = False
    likely: bool = False

    def __post_init__(self) -> None:
        self._words = Words(self.encoder, SAME_MEANING)
        self._present_before: list[str] = []

    def of(self, scene: Scene, rng: np.random.Generator, unmeant: Iterator[str]) -> Iterator[Question]:
        """Yield questions about a scene; the last are taken from `unmeant`."""
        names = {"present": scene.present(), "silent": scene.silent(), "absent": scene.absent()}
        drawn = {kind: [str(name) for name in rng.permutation(of_kind)] for kind, of_kind in names.items()}
        if self.likely:
            known = [str(name) for name in rng.permutation(self._present_before) if str(name) in names["absent"]]
            drawn["absent"] = list(dict.fromkeys([*known[: self.n["absent"] - 1], *drawn["absent"]]))
            self._present_before += names["present"]
        for kind, of_kind in drawn.items():
            for name in of_kind[: self.n[kind]]:
                how, text = in_words(concepts().get(name), name, rng, held_out=self.held_out)
                yield Question(f"{kind}, {how}", name, text, self.of_text(text))
        for _ in range(self.n["nonsense"]):
            text = next(unmeant)
            yield Question("nonsense", "", text, self.of_text(text))
        for kind in ("present", "absent"):
            clips = ((name, self.clip(name, rng)) for name in drawn[kind])
            given = ((name, clip) for name, clip in clips if clip is not None and clip.any())
            for (name, clip), _ in zip(given, range(self.n_examples), strict=False):
                vector = self.encoder.encode_audio([Audio(clip, self.sample_rate_hz)])[0]
                yield Question(f"{kind}, example", name, "", vector)

    def of_text(self, text: str) -> Tensor:
        """Return the vector `[d]` of a text."""
        concept = named(text) or getattr(self._words.meaning(text), "concept", None)
        vectors = self.encoder.encode_text(list(dict.fromkeys([text, concept or text])))
        return F.normalize(vectors.mean(0), dim=-1)


def in_words(concept: Concept | None, name: str, rng: np.random.Generator, *, held_out: bool = True) -> tuple[str, str]:
    """Return how somebody asks for it and what that is: its name, a wording that is known, or one that is held out."""
    if concept is None:
        return "label", name
    how = str(rng.choice(["name", "known", "held out"] if held_out else ["name", "known"]))
    texts = {"name": [name], "known": concept.wordings, "held out": concept.held_out}[how]
    return how, str(rng.choice(texts))


def nonsense(pieces: Sequence[str], part: int, n: int = 300) -> list[str]:
    """Return letters without a meaning, words that name no sound, and pairs of such, in turn; others in each of the parts."""
    rng = np.random.default_rng((part, n))
    words = [
        piece for piece in pieces if piece.isalpha() and len(piece) > 3 and crc32(piece.encode()) % N_WORD_PARTS == part
    ]
    others = np.array([word for word in words if named(word) is None])  # a choice from a list copies it
    draws = [
        lambda: "".join(rng.choice(list(LETTERS), int(rng.integers(3, 9)))),
        lambda: str(rng.choice(others)),
        lambda: " ".join(rng.choice(others, 2)),
    ]
    return [draws[number % 3]() for number in range(n)]
