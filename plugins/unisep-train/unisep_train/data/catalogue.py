"""What a training store offers, arranged for drawing: by name, by song, by kind, and where it sounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate import vocabulary

from unisep.errors import DatasetError
from unisep_train.data.store import ACTIVITY_SECONDS, Item, Store

# How often a kind is drawn for a name that several kinds offer.
KIND_WEIGHTS = {"song": 6.0, "rendered": 4.0, "solo": 3.0, "voice": 3.0, "universal": 3.0, "notes": 1.0}
MIN_ACTIVE_DB = -55
ACTIVE_RANGE_DB = 25
# Sounds of several things together: these alone, and these with all that they contain.
_COMPOUND = frozenset({"drums", "percussion loop", "techno sequence"})
_COMPOUND_FAMILIES = frozenset({"drum loop", "drum fill", "percussion build"})


@final
class Catalog:
    """The sounds of one split of a store, with what they answer to and where they sound.

    `kinds` limits them to sounds of some kinds; without it, all are in.
    """

    def __init__(self, store: Store, splits: Sequence[str] = ("train",), kinds: Sequence[str] | None = None) -> None:
        self.store = store
        wanted = [item for item in store.items if item.split in splits and (kinds is None or item.kind in kinds)]
        # A sound sounds in the steps of 0.1 s within 25 dB of its loudest, and not below -55 dBFS.
        levels = [(item, store.activity(item)) for item in wanted]
        steps = [(i, np.flatnonzero(db >= max(int(db.max()) - ACTIVE_RANGE_DB, MIN_ACTIVE_DB))) for i, db in levels]
        self.items: list[Item] = [item for item, active in steps if len(active)]
        self.steps: list[NDArray[np.int64]] = [active for _, active in steps if len(active)]
        if not self.items:
            raise DatasetError(f"{store.folder} has no sounding items in {'/'.join(splits)}.")
        self.names: list[str] = [vocabulary.canonical(item.label) for item in self.items]
        self.tags: list[frozenset[str]] = [vocabulary.tags(i.label, i.synonyms, i.four_stem) for i in self.items]

    @cached_property
    def songs(self) -> dict[str, list[int]]:
        """Song -> the indices of its stems, of songs with at least two."""
        return {song: stems for song, stems in self._by_song.items() if len(stems) > 1}

    @cached_property
    def bands(self) -> list[int]:
        """Whole bands "without" something, of which there is no other stem: they accompany, and are never asked for."""
        alone = (stems[0] for stems in self._by_song.values() if len(stems) == 1)
        return [index for index in alone if " without " in self.names[index]]

    @cached_property
    def _by_song(self) -> dict[str, list[int]]:
        return _indices([(item.song,) if item.song else () for item in self.items])

    @cached_property
    def by_tag(self) -> dict[str, list[int]]:
        """Name -> the indices of the sounds that answer to it."""
        return _indices(self.tags)

    @cached_property
    def by_name(self) -> dict[str, list[int]]:
        """Name -> the indices of the sounds labelled exactly so."""
        return _indices([(name,) for name in self.names])

    @cached_property
    def domains(self) -> dict[str, tuple[list[str], NDArray[np.float64]]]:
        """music, speech, universal -> the names in it and how often to draw each (rare ones raised)."""
        seconds: dict[str, dict[str, float]] = {"music": {}, "speech": {}, "universal": {}}
        for name, indices in self.by_name.items():
            # No one asks for it, and it would hide what others ask for.
            if name in vocabulary.MIXED or set(indices).issubset(self.bands):
                continue
            domain = self.domain(indices[0])
            seconds[domain][name] = sum(len(self.steps[index]) for index in indices) * ACTIVITY_SECONDS
        weights = {domain: np.array(list(names.values())) ** 0.4 for domain, names in seconds.items() if names}
        return {domain: (list(seconds[domain]), of_names / of_names.sum()) for domain, of_names in weights.items()}

    def domain(self, index: int) -> str:
        """Return music, speech or universal."""
        item = self.items[index]
        if "speech" in self.tags[index] and "vocals" not in self.tags[index]:
            return "speech"
        return "universal" if item.kind == "universal" else "music"

    def is_unclear(self, name: str, index: int) -> bool:
        """Tell whether the sound might contain what `name` means without its label saying so."""
        return unclear(name, self.items[index].label, self.tags[index])

    def draw(self, indices: Sequence[int], rng: np.random.Generator) -> int:
        """Draw one of `indices`: first a kind, then a sound in proportion to the root of how long it sounds."""
        kinds = sorted({self.items[index].kind for index in indices})
        shares = np.array([KIND_WEIGHTS.get(kind, 1.0) for kind in kinds])
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        pool = [index for index in indices if self.items[index].kind == kind]
        weights = np.sqrt([len(self.steps[index]) for index in pool])
        return pool[rng.choice(len(pool), p=weights / weights.sum())]

    def draw_song(self, rng: np.random.Generator) -> str:
        """Draw a song: first a kind (recorded or rendered), then any song of it."""
        kind = self.items[self.draw([stems[0] for stems in self.songs.values()], rng)].kind
        alike = [song for song, stems in self.songs.items() if self.items[stems[0]].kind == kind]
        return alike[rng.integers(len(alike))]

    def start(self, index: int, n_samples: int, rng: np.random.Generator) -> int:
        """Draw a first sample for a window of `n_samples` in which the sound sounds."""
        item = self.items[index]
        step = int(rng.choice(self.steps[index]))
        sounding = step * ACTIVITY_SECONDS * self.store.sample_rate_hz
        start = round(sounding - rng.uniform(0.0, 0.7) * n_samples)
        return min(max(start, 0), max(item.n_samples - n_samples, 0))

    def sounds_in(self, index: int, start: int, n_samples: int) -> bool:
        """Tell whether the sound sounds in a window for at least 0.3 s or a tenth of it."""
        step_samples = ACTIVITY_SECONDS * self.store.sample_rate_hz
        first, last = np.searchsorted(self.steps[index], [start / step_samples, (start + n_samples) / step_samples])
        return bool(last - first >= min(3, n_samples / step_samples / 10))


def unclear(prompt: str, label: str, tags: frozenset[str]) -> bool:
    """Tell whether a sound might contain what `prompt` asks for without its label saying so.

    >>> kick, loop = vocabulary.tags("kick drum"), vocabulary.tags("drum loop")
    >>> unclear("kick drum", "drum loop", loop), unclear("hi-hat", "kick drum", kick)
    (True, False)
    >>> unclear("piano", "other", frozenset()), unclear("vocals", "other", frozenset())
    (True, False)
    >>> unclear("drums", "band without guitar", frozenset()), unclear("distorted guitar", "band without guitar", frozenset())
    (True, False)
    """
    name = vocabulary.canonical(prompt)
    if name in tags:
        return False
    broad, wider = vocabulary.canonical(label), vocabulary.ancestors(name)
    if " without " in broad:  # a "band without guitar" may hold all but guitars
        return broad.partition(" without ")[2] not in {name} | wider
    if name == "drums":
        return bool(tags & vocabulary.MAY_BE_DRUMS)
    if broad in vocabulary.MIXED:
        return not ({name} | wider) & set(vocabulary.ROLES)
    # A loop holds any of what is under "drums"; "synthesizer" may be any synthesizer.
    is_compound = broad in _COMPOUND or bool(_COMPOUND_FAMILIES & {broad, *vocabulary.ancestors(broad)})
    return bool(({broad, "drums", "percussion"} if is_compound else {broad}) & wider)


def _indices(keys: Sequence[Iterable[str]]) -> dict[str, list[int]]:
    """Return key -> the places at which it stands."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, of_item in enumerate(keys):
        for key in of_item:
            indices[key].append(index)
    return dict(indices)
