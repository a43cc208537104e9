"""The fixed validation windows: the same list for the same store and config, however often it is asked.

Five groups: `song` (a held-out song's stems as its own mixture), `remix` (the same with the target raised or
lowered to the rest's level, for stems the song holds too quiet), `single` (a held-out single recording among
other held-out material), `absent` (a held-out song asked for what it does not hold) and `rendered` (a rendered
song of a held-out score as its own mixture). The first four do not depend on whether the store has rendered
songs. In all but `absent`, target and rest are within 10 dB of each other. Clips for example queries come from the training split.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from unisep_train.data import labels
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.measuring.windows import SongWindows, Window
from unisep_train.mixing import augment, sources
from unisep_train.mixing.augment import Sound
from unisep_train.mixing.sources import Variation

UNCHANGED = Variation(respeed_probability=0.0, colour_probability=0.0)
MAIN_NAMES = ("drums", "bass", "vocals")
ABSENT_NAMES = ("vocals", "violin", "trumpet", "acoustic guitar", "flute", "dog bark", "piano", "saxophone", "speech",
                "electric guitar", "water", "cello", "distorted guitar", "accordion", "church bells")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Which windows are taken. `max_difference_db` bounds the level of the target against the rest."""

    segment_seconds: float = 6.0
    n_per_name: int = 8
    n_absent: int = 45
    max_difference_db: float = 10.0
    single_difference_db: float = 6.0
    remix_difference_db: float = -3.0
    n_other_sources: tuple[int, int] = (1, 3)
    example_seconds: float = 3.0


@dataclasses.dataclass(frozen=True)
class ValidationItem:
    """One window: `mixture` and `target` are `[2, samples]` float32, `example` a mono clip `[samples]` or None.

    `name` is the class; `group` is song, remix, single, absent or rendered; `song` the song, or the file of a single sound;
    `kind` is what was recorded: song, rendered, solo, notes, voice or universal.
    """

    mixture: NDArray[np.float32]
    target: NDArray[np.float32]
    prompt: str
    name: str
    group: str
    song: str
    kind: str
    start_seconds: float
    example: NDArray[np.float32] | None


def validation_items(
    store: Store, config: ValidationConfig | None = None, groups: Sequence[str] | None = None
) -> Iterator[ValidationItem]:
    """All validation windows, songs first, read one at a time; `groups` leaves the others out."""
    config = config or ValidationConfig()
    for items in _groups(store, config):
        yield from (item for item in items if groups is None or item.group in groups)


def _groups(store: Store, config: ValidationConfig) -> Iterator[Iterator[ValidationItem]]:
    recorded = _Builder(store, config, "song")
    yield from (recorded.song_items(), recorded.single_items(), recorded.absent_items())
    if any(item.kind == "rendered" and item.split == "valid" for item in store.items):
        yield _Builder(store, config, "rendered").song_items()


@final
class _Builder:
    def __init__(self, store: Store, config: ValidationConfig, group: str) -> None:
        self.config = config
        self.store = store
        self.group = group
        recorded = sorted({item.kind for item in store.items} - {"rendered"})
        kinds = ["rendered"] if group == "rendered" else recorded
        self.held_out = Catalog(store, ("valid",), kinds)
        self.training = Catalog(store, ("train",), kinds)
        self.n_samples = round(config.segment_seconds * store.sample_rate_hz)
        self.windows = SongWindows(self.held_out, self.n_samples)

    def song_items(self) -> Iterator[ValidationItem]:
        """Windows of the held-out songs for every name that offers `n_per_name` of them."""
        for name in self._song_names():
            group, windows = self.group, self._windows(name, self.config.max_difference_db - 1)
            if len(windows) < self.config.n_per_name and group == "song":
                group, windows = "remix", self._windows(name, np.inf)
            if len(windows) < self.config.n_per_name:
                continue
            for window in windows:
                stems = self.windows.stems(name, window.song)
                target = self.windows.read(stems.matching, window.start)
                rest = self.windows.read(stems.others + stems.unclear, window.start)
                if group == "remix":
                    target = self._levelled(target, rest, self.config.remix_difference_db)
                yield self._item(name, group, window.song, self.group, window.start, target, rest)

    def _song_names(self) -> list[str]:
        """Names the held-out songs answer to; of several that mean the same stems, the shortest."""
        catalogue = self.held_out
        stems = [index for song in catalogue.songs.values() for index in song]
        names = {tag for index in stems for tag in catalogue.tags[index]} - labels.NOT_PROMPTS
        kept: dict[frozenset[int], str] = {}
        for name in sorted(names, key=lambda name: (name not in MAIN_NAMES, len(name), name)):
            kept.setdefault(frozenset(index for index in stems if name in catalogue.tags[index]), name)
        return sorted(kept.values())

    def _windows(self, name: str, max_difference_db: float) -> list[Window]:
        songs = sorted(self.held_out.songs)
        found = [self.windows.of_name(name, song, max_difference_db) for song in songs]
        return self.windows.spread(found, self.config.n_per_name)

    @staticmethod
    def _levelled(target: Sound, rest: Sound, difference_db: float) -> Sound:
        """The target at `difference_db` from the rest."""
        return target * augment.gain(augment.level_db(rest) + difference_db - augment.level_db(target))

    def single_items(self) -> Iterator[ValidationItem]:
        """Held-out single recordings: `n_per_name` windows of each label that several files hold, else one."""
        by_label: dict[str, list[int]] = {}
        for index, item in enumerate(self.held_out.items):
            if not item.song:
                by_label.setdefault(self.held_out.names[index], []).append(index)
        for name, indices in sorted(by_label.items()):
            n_windows = self.config.n_per_name if len(indices) > 2 else 1
            others = self._others(name)
            for number in range(n_windows if others else 0):
                yield self._single_item(name, indices[number % len(indices)], number, others)

    def _single_item(self, name: str, index: int, number: int, others: set[int]) -> ValidationItem:
        rng = np.random.default_rng((zlib.crc32(name.encode()), number))
        target = sources.one_sound(self.held_out, index, self.n_samples, UNCHANGED, rng)
        rest = np.zeros_like(target)
        for _ in range(int(rng.integers(*self.config.n_other_sources, endpoint=True))):
            other = sources.one_sound(self.held_out, self._other(others, rng), self.n_samples, UNCHANGED, rng)
            rest = rest + augment.to_level(other, rng.uniform(-25, -20))
        limit = self.config.single_difference_db
        target = self._levelled(target, rest, rng.uniform(-limit, limit))
        item = self.held_out.items[index]
        return self._item(name, "single", item.id, item.kind, 0, target, rest)

    def _others(self, name: str) -> set[int]:
        """The held-out sounds that neither answer nor might answer to the name."""
        tags, items = self.held_out.tags, self.held_out.items
        return {
            index for index, item in enumerate(items)
            if name not in tags[index] and not labels.unclear(name, item.label, tags[index])
        }  # fmt: skip

    def _other(self, others: set[int], rng: np.random.Generator) -> int:
        """One of them."""
        while True:
            index = int(rng.integers(len(self.held_out.items)))
            if index in others:
                return index

    def absent_items(self) -> Iterator[ValidationItem]:
        """Windows of held-out songs asked for what is not in them, nor anything of its kind."""
        wanted = [
            (song, name)
            for number, name in enumerate(ABSENT_NAMES)
            for song in _turned(sorted(self.held_out.songs), number)
            if not self._holds_kin(song, name)
        ]
        for number, (song, name) in enumerate(wanted[: self.config.n_absent]):
            stems = self.held_out.songs[song]
            start = self.held_out.start(stems[0], self.n_samples, np.random.default_rng((7, number)))
            rest = self.windows.read(stems, start)
            yield self._item(name, "absent", song, "song", start, np.zeros_like(rest), rest)

    def _holds_kin(self, song: str, name: str) -> bool:
        kin = {name} | labels.ancestors(name)
        return any(kin & self.held_out.tags[index] for index in self.held_out.songs[song])

    def _item(
        self, name: str, group: str, song: str, kind: str, start: int, target: Sound, rest: Sound
    ) -> ValidationItem:
        rng = np.random.default_rng((zlib.crc32(f"{name} {song}".encode()), start))
        return ValidationItem(
            mixture=target + rest, target=target, prompt=name, name=name, group=group, song=song, kind=kind,
            start_seconds=start / self.store.sample_rate_hz, example=self._example(name, rng),
        )  # fmt: skip

    def _example(self, name: str, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """A clip of the same name from the training split."""
        known = self.training.by_name.get(name) or self.training.by_tag.get(name)
        if not known:
            return None
        n_samples = round(self.config.example_seconds * self.store.sample_rate_hz)
        index = self.training.draw(known, rng)
        return sources.one_sound(self.training, index, n_samples, UNCHANGED, rng).mean(axis=0)


def _turned(names: Sequence[str], number: int) -> list[str]:
    """The names from place `number` on, then those before it."""
    place = number % max(len(names), 1)
    return [*names[place:], *names[:place]]
