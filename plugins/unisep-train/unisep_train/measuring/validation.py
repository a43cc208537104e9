"""The fixed validation windows: the same list for the same store and config, however often it is asked.

Five groups: `song` (a held-out song's stems as its own mixture), `remix` (the same with the target raised or
lowered to the rest's level, for stems the song holds too quiet), `single` (a held-out single recording among
other held-out material), `absent` (a held-out song asked for what it does not hold) and `rendered` (a rendered
song of a held-out score as its own mixture). The first four do not depend on whether the store has rendered
songs. In all but `absent`, target and rest are within 10 dB of each other. Clips for example queries come from the training split.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate import vocabulary
from unisep_evaluate.windows import quota

from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import ACTIVITY_SECONDS, Store
from unisep_train.mixing import sounds
from unisep_train.mixing.config import UNCHANGED
from unisep_train.mixing.sounds import Sound

LEAST_DB = -55  # what is quieter, over a window, is not heard
LEAST_SHARE = 0.3  # of a window in which the target sounds
MAIN_NAMES = ("drums", "bass", "vocals")
ABSENT_NAMES = ("vocals", "violin", "trumpet", "acoustic guitar", "flute", "dog bark", "piano", "saxophone", "speech",
                "electric guitar", "water", "cello", "distorted guitar", "accordion", "church bells")  # fmt: skip


class Window(NamedTuple):
    """The window of a song that begins at sample `start`."""

    song: str
    start: int


class Stems(NamedTuple):
    """A song's stems by whether they answer to a name: surely, surely not, or perhaps."""

    matching: list[int]
    others: list[int]
    unclear: list[int]


@final
class SongWindows:
    """Finds and reads windows of so many seconds in the songs of a catalogue, two to a window's length."""

    def __init__(self, catalogue: Catalog, seconds: float) -> None:
        self.catalogue = catalogue
        self.n_samples = round(seconds * catalogue.store.sample_rate_hz)
        self._step_samples = ACTIVITY_SECONDS * catalogue.store.sample_rate_hz

    def stems(self, name: str, song: str) -> Stems:
        """Return the song's stems, by whether they answer to `name`."""
        stems = Stems([], [], [])
        for index in self.catalogue.songs[song]:
            is_unclear = self.catalogue.is_unclear(name, index)
            group = (
                stems.matching if name in self.catalogue.tags[index] else stems.unclear if is_unclear else stems.others
            )
            group.append(index)
        return stems

    def between(
        self, song: str, target: Sequence[int], rest: Sequence[int], within_db: float, without: Sequence[int] = ()
    ) -> list[Window]:
        """Find windows in which both groups of stems sound, within `within_db` of each other, and none of `without`."""
        if not target or not rest:
            return []
        n_total = min(self.catalogue.items[index].n_samples for index in [*target, *rest])
        windows = []
        for start in range(0, n_total - self.n_samples + 1, self.n_samples // 2):
            if any(self.catalogue.sounds_in(index, start, self.n_samples) for index in without):
                continue
            target_db, rest_db = self._activity(target, start), self._activity(rest, start)
            loudest = target_db.max(axis=0)
            if np.mean(loudest > max(loudest.max() - 25, -50)) < LEAST_SHARE:
                continue
            levels_db = _power_db(target_db), _power_db(rest_db)
            if abs(levels_db[0] - levels_db[1]) < within_db and min(levels_db) > LEAST_DB:
                windows.append(Window(song, start))
        return windows

    def read(self, indices: Sequence[int], start: int) -> Sound:
        """Return the sum `[2, samples]` of stems in a window, as they are in the song."""
        return sounds.stems(self.catalogue, indices, start, self.n_samples, np.random.default_rng(0), 0.0)

    def spread(self, by_song: Sequence[Sequence[Window]], n_windows: int) -> list[Window]:
        """Choose up to `n_windows`, as even over the songs and over time as there is material.

        Windows of one song that overlap are not both taken.
        """
        apart = [
            [window for k, window in enumerate(windows) if k == 0 or not self._overlap(windows[k - 1], window)]
            for windows in by_song
            if windows
        ]
        quotas = quota([len(windows) for windows in apart], n_windows)
        return [
            windows[int(position)]
            for windows, n in zip(apart, quotas, strict=True)
            for position in np.linspace(0, len(windows) - 1, n)
        ]

    def _overlap(self, before: Window, window: Window) -> bool:
        """Tell whether the window starts on the odd half of a pair that both qualify."""
        is_odd = (window.start // (self.n_samples // 2)) % 2 == 1
        return is_odd and window.start - before.start < self.n_samples

    def _activity(self, indices: Sequence[int], start: int) -> NDArray[np.float64]:
        """Return the level in dB `[stems, steps]` of each 0.1 s of the window."""
        first, store = int(start / self._step_samples), self.catalogue.store
        steps = slice(first, first + int(self.n_samples / self._step_samples))
        return np.array([store.activity(self.catalogue.items[index])[steps] for index in indices], dtype=np.float64)


def _power_db(levels_db: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.sum(10.0 ** (levels_db / 10), axis=0).mean() + 1e-12))


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ValidationItem:
    """One window.

    Attributes:
        mixture: `[2, samples]`, as is `target`.
        name: the class.
        group: song, remix, single, absent or rendered.
        song: the song, or the file of a single sound.
        kind: what was recorded: song, rendered, solo, notes, voice or universal.
        example: a mono clip `[samples]` of the same name, or None.
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
    """Read all validation windows, songs first, one at a time; `groups` leaves the others out."""
    recorded = _Builder(store, config or ValidationConfig(), "song")
    sources = [recorded.song_items, recorded.single_items, recorded.absent_items]
    if has_rendered(store):
        sources.append(_Builder(store, config or ValidationConfig(), "rendered").song_items)
    for items in sources:
        yield from (item for item in items() if groups is None or item.group in groups)


def recorded_kinds(store: Store) -> list[str]:
    """List the kinds of sounds in a store that were not rendered."""
    return sorted({item.kind for item in store.items} - {"rendered"})


def has_rendered(store: Store) -> bool:
    """Tell whether a store holds rendered songs for validation."""
    return any(item.kind == "rendered" and item.split == "valid" for item in store.items)


@final
class _Builder:
    def __init__(self, store: Store, config: ValidationConfig, group: str) -> None:
        self.config, self.store, self.group = config, store, group
        kinds = ["rendered"] if group == "rendered" else recorded_kinds(store)
        self.held_out = Catalog(store, ("valid",), kinds)
        self.training = Catalog(store, ("train",), kinds)
        self.windows = SongWindows(self.held_out, config.segment_seconds)
        self.n_samples = self.windows.n_samples

    def song_items(self) -> Iterator[ValidationItem]:
        """Yield windows of the held-out songs for every name that offers `n_per_name` of them."""
        n_wanted = self.config.n_per_name
        for name in self._song_names():
            group, windows = self.group, self._windows(name, self.config.max_difference_db - 1)
            if len(windows) < n_wanted and group == "song":
                group, windows = "remix", self._windows(name, np.inf)
            for window in windows if len(windows) >= n_wanted else []:
                stems = self.windows.stems(name, window.song)
                target = self.windows.read(stems.matching, window.start)
                rest = self.windows.read(stems.others + stems.unclear, window.start)
                if group == "remix":
                    target = _levelled(target, rest, self.config.remix_difference_db)
                yield self._item(name, group, window.song, self.group, window.start, target, rest)

    def _song_names(self) -> list[str]:
        """List names the held-out songs answer to; of several that mean the same stems, the shortest."""
        catalogue = self.held_out
        stems = [index for song in catalogue.songs.values() for index in song]
        names = {tag for index in stems for tag in catalogue.tags[index]} - vocabulary.NOT_PROMPTS
        kept: dict[frozenset[int], str] = {}
        for name in sorted(names, key=plain_first):
            kept.setdefault(frozenset(index for index in stems if name in catalogue.tags[index]), name)
        return sorted(kept.values())

    def _windows(self, name: str, within_db: float) -> list[Window]:
        by_song = []
        for song in sorted(self.held_out.songs):
            matching, others, unclear = self.windows.stems(name, song)
            by_song.append(self.windows.between(song, matching, others, within_db, unclear))
        return self.windows.spread(by_song, self.config.n_per_name)

    def single_items(self) -> Iterator[ValidationItem]:
        """Yield held-out single recordings: `n_per_name` windows of each label that several files hold, else one."""
        by_label: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.held_out.items):
            if not item.song:
                by_label[self.held_out.names[index]].append(index)
        for name, indices in sorted(by_label.items()):
            others = {
                index for index, tags in enumerate(self.held_out.tags)
                if name not in tags and not self.held_out.is_unclear(name, index)
            }  # fmt: skip
            n_windows = self.config.n_per_name if len(indices) > 2 else 1
            for number in range(n_windows if others else 0):
                yield self._single_item(name, indices[number % len(indices)], number, others)

    def _single_item(self, name: str, index: int, number: int, others: set[int]) -> ValidationItem:
        """Mix a recording with some of the others, which do not answer to its name."""
        rng = np.random.default_rng((zlib.crc32(name.encode()), number))
        target = sounds.one_sound(self.held_out, index, self.n_samples, UNCHANGED, rng)
        rest = np.zeros_like(target)
        for _ in range(int(rng.integers(*self.config.n_other_sources, endpoint=True))):
            other = -1
            while other not in others:
                other = int(rng.integers(len(self.held_out.items)))
            sound = sounds.one_sound(self.held_out, other, self.n_samples, UNCHANGED, rng)
            rest = rest + sounds.to_level(sound, rng.uniform(-25, -20))
        limit = self.config.single_difference_db
        target = _levelled(target, rest, rng.uniform(-limit, limit))
        item = self.held_out.items[index]
        return self._item(name, "single", item.id, item.kind, 0, target, rest)

    def absent_items(self) -> Iterator[ValidationItem]:
        """Yield windows of held-out songs asked for what is not in them, nor anything of its kind."""
        songs, questions = sorted(self.held_out.songs), []
        for number, name in enumerate(ABSENT_NAMES):
            first = number % max(len(songs), 1)
            kin = {name} | vocabulary.ancestors(name)
            questions += [(song, name) for song in songs[first:] + songs[:first] if not kin & self._tags(song)]
        for number, (song, name) in enumerate(questions[: self.config.n_absent]):
            stems = self.held_out.songs[song]
            start = self.held_out.start(stems[0], self.n_samples, np.random.default_rng((7, number)))
            rest = self.windows.read(stems, start)
            yield self._item(name, "absent", song, "song", start, np.zeros_like(rest), rest)

    def _tags(self, song: str) -> frozenset[str]:
        return frozenset().union(*(self.held_out.tags[index] for index in self.held_out.songs[song]))

    def _item(
        self, name: str, group: str, song: str, kind: str, start: int, target: Sound, rest: Sound
    ) -> ValidationItem:
        """Return the window with an example: a clip of the same name from the training split, where it has one."""
        rng = np.random.default_rng((zlib.crc32(f"{name} {song}".encode()), start))
        rate_hz, training, example = self.store.sample_rate_hz, self.training, None
        if known := training.by_name.get(name) or training.by_tag.get(name):
            n_samples = round(self.config.example_seconds * rate_hz)
            example = sounds.one_sound(training, training.draw(known, rng), n_samples, UNCHANGED, rng).mean(axis=0)
        return ValidationItem(target + rest, target, name, name, group, song, kind, start / rate_hz, example)


def plain_first(name: str) -> tuple[bool, int, str]:
    """Order names: drums, bass and vocals, then short ones, then by letters."""
    return name not in MAIN_NAMES, len(name), name


def _levelled(target: Sound, rest: Sound, difference_db: float) -> Sound:
    """Bring the target to `difference_db` from the rest."""
    return target * sounds.gain(sounds.level_db(rest) + difference_db - sounds.level_db(target))
