"""The fixed validation windows: the same list for the same store and config, however often it is asked.

Five groups: `song` (a held-out song's stems as its own mixture), `remix` (the same with the target near the rest's level,
for stems the song holds too quiet), `single` (a held-out recording among others), `absent` (a held-out song asked for
what it does not hold) and `rendered` (a rendered song of a held-out score). In all but `absent`, target and rest are
within 10 dB of each other. Clips for example queries come from the training split.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate import vocabulary
from unisep_evaluate.passages import power_db
from unisep_evaluate.windows import quota

from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import ACTIVITY_SECONDS, Store
from unisep_train.mixing import sounds
from unisep_train.mixing.config import UNCHANGED
from unisep_train.mixing.sounds import Sound

LEAST_DB = -55  # what is quieter, over a window, is not heard
LEAST_SHARE = 0.3  # of a window in which the target sounds
MAX_DIFFERENCE_DB = 10.0  # of target and rest, where both are as in the song
REMIX_DIFFERENCE_DB = -3.0
SINGLE_DIFFERENCE_DB, N_OTHERS = 6.0, (1, 3)  # at most, of a single sound and so many others
MAIN_NAMES = ("drums", "bass", "vocals")
ABSENT_NAMES = ("vocals", "violin", "trumpet", "acoustic guitar", "flute", "dog bark", "piano", "saxophone", "speech",
                "electric guitar", "water", "cello", "distorted guitar", "accordion", "church bells")  # fmt: skip


class Window(NamedTuple):
    """The window of a song that begins at sample `start`."""

    song: str
    start: int


Groups = tuple[list[int], ...]  # a song's stems, by what they are to a question


@final
class SongWindows:
    """Finds and reads windows of so many seconds in the songs of a catalogue, two to a window's length."""

    def __init__(self, catalogue: Catalog, seconds: float) -> None:
        self.catalogue = catalogue
        self.n_samples = round(seconds * catalogue.store.sample_rate_hz)
        self._step_samples = ACTIVITY_SECONDS * catalogue.store.sample_rate_hz

    def stems(self, name: str, song: str) -> Groups:
        """Return the song's stems by whether they answer to `name`: surely, surely not, or perhaps."""
        tags, is_unclear = self.catalogue.tags, self.catalogue.is_unclear
        matching = [i for i in self.catalogue.songs[song] if name in tags[i]]
        unclear = [i for i in self.catalogue.songs[song] if i not in matching and is_unclear(name, i)]
        return matching, [i for i in self.catalogue.songs[song] if i not in {*matching, *unclear}], unclear

    def chosen(
        self, groups_of: Callable[[str], Groups], within_db: float, n_windows: int
    ) -> list[tuple[Window, Groups]]:
        """Choose windows in which the first two groups of a song's stems sound, near each other, and none of the last.

        Up to `n_windows`, as even over the songs and over time as there is material; of those of a song that overlap
        not both. Each comes with the groups of its song.
        """
        groups = {song: groups_of(song) for song in sorted(self.catalogue.songs)}
        apart = [self._apart(self._near(song, of, within_db)) for song, of in groups.items()]
        quotas = quota([len(windows) for windows in apart], n_windows)
        return [
            (windows[int(position)], groups[windows[0].song])
            for windows, n in zip(apart, quotas, strict=True)
            for position in np.linspace(0, len(windows) - 1, n)
        ]

    def _near(self, song: str, groups: Groups, within_db: float) -> list[Window]:
        """Find windows in which the first two groups sound, within `within_db` of each other, and none of the last."""
        target, rest, without = groups[0], groups[1], groups[-1]
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
            levels_db = power_db(target_db), power_db(rest_db)
            if abs(levels_db[0] - levels_db[1]) < within_db and min(levels_db) > LEAST_DB:
                windows.append(Window(song, start))
        return windows

    def read(self, indices: Sequence[int], start: int) -> Sound:
        """Return the sum `[2, samples]` of stems in a window, as they are in the song."""
        return sounds.stems(self.catalogue, indices, start, self.n_samples, np.random.default_rng(0), 0.0)

    def _apart(self, windows: list[Window]) -> list[Window]:
        """Leave out windows on the odd half of a length that overlap with the one before."""
        n = self.n_samples
        before = [-n, *(window.start for window in windows)]
        return [
            w for w, last in zip(windows, before, strict=False) if w.start // (n // 2) % 2 == 0 or w.start - last >= n
        ]

    def _activity(self, indices: Sequence[int], start: int) -> NDArray[np.float64]:
        """Return the level in dB `[stems, steps]` of each 0.1 s of the window."""
        first, store = int(start / self._step_samples), self.catalogue.store
        steps = slice(first, first + int(self.n_samples / self._step_samples))
        return np.array([store.activity(self.catalogue.items[index])[steps] for index in indices], dtype=np.float64)


@dataclass(frozen=True)
class ValidationConfig:
    """Which windows are taken: their length, how many of a name and how many absent ones, and the length of examples."""

    segment_seconds: float = 6.0
    n_per_name: int = 8
    n_absent: int = 45
    example_seconds: float = 3.0


@dataclass(frozen=True)
class ValidationItem:
    """One window.

    Attributes:
        mixture: `[2, samples]`, as is `target`.
        name: the class, and the text that asks for it.
        group: song, remix, single, absent or rendered.
        song: the song, or the file of a single sound.
        kind: what was recorded: song, rendered, solo, notes, voice or universal.
        example: a mono clip `[samples]` of the same name, or None.
    """

    mixture: NDArray[np.float32]
    target: NDArray[np.float32]
    name: str
    group: str
    song: str
    kind: str
    example: NDArray[np.float32] | None


def validation_items(
    store: Store, config: ValidationConfig | None = None, groups: Sequence[str] | None = None
) -> Iterator[ValidationItem]:
    """Read all validation windows, songs first, one at a time; `groups` leaves the others out."""
    for group, (held_out, training) in catalogues(store).items():
        builder = _Builder(held_out, training, config or ValidationConfig(), group)
        sources = [builder.song_items, builder.single_items, builder.absent_items]
        for items in sources if group == "song" else sources[:1]:
            yield from (item for item in items() if groups is None or item.group in groups)


def catalogues(store: Store) -> dict[str, tuple[Catalog, Catalog]]:
    """Return what is held out and what is for training: recordings ("song"), and "rendered" songs if some are held out."""
    kinds = {"song": sorted({item.kind for item in store.items} - {"rendered"})}
    if any(item.kind == "rendered" and item.split == "valid" for item in store.items):
        kinds["rendered"] = ["rendered"]
    return {group: (Catalog(store, ("valid",), of), Catalog(store, ("train",), of)) for group, of in kinds.items()}


def example_clip(
    catalogue: Catalog, indices: Sequence[int], seconds: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a mono clip `[samples]` of one of the sounds."""
    index, n_samples = catalogue.draw(indices, rng), round(seconds * catalogue.store.sample_rate_hz)
    return sounds.one_sound(catalogue, index, n_samples, UNCHANGED, rng).mean(axis=0)


@final
class _Builder:
    def __init__(self, held_out: Catalog, training: Catalog, config: ValidationConfig, group: str) -> None:
        self.held_out, self.training, self.config, self.group = held_out, training, config, group
        self.windows = SongWindows(held_out, config.segment_seconds)
        self.n_samples = self.windows.n_samples

    def song_items(self) -> Iterator[ValidationItem]:
        """Yield windows of the held-out songs for every name that offers `n_per_name` of them."""
        n_wanted = self.config.n_per_name
        for name in self._song_names():
            stems_of = partial(self.windows.stems, name)
            group, windows = self.group, self.windows.chosen(stems_of, MAX_DIFFERENCE_DB - 1, n_wanted)
            if len(windows) < n_wanted and group == "song":
                group, windows = "remix", self.windows.chosen(stems_of, np.inf, n_wanted)
            for window, (matching, others, unclear) in windows if len(windows) >= n_wanted else []:
                target = self.windows.read(matching, window.start)
                rest = self.windows.read(others + unclear, window.start)
                if group == "remix":
                    target = _levelled(target, rest, REMIX_DIFFERENCE_DB)
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
        for _ in range(int(rng.integers(*N_OTHERS, endpoint=True))):
            other = -1
            while other not in others:
                other = int(rng.integers(len(self.held_out.items)))
            sound = sounds.one_sound(self.held_out, other, self.n_samples, UNCHANGED, rng)
            rest = rest + sounds.to_level(sound, rng.uniform(-25, -20))
        target = _levelled(target, rest, rng.uniform(-SINGLE_DIFFERENCE_DB, SINGLE_DIFFERENCE_DB))
        item = self.held_out.items[index]
        return self._item(name, "single", item.id, item.kind, 0, target, rest)

    def absent_items(self) -> Iterator[ValidationItem]:
        """Yield windows of held-out songs asked for what is not in them, nor anything of its kind."""
        songs, questions, tags = sorted(self.held_out.songs), [], self.held_out.tags
        for number, name in enumerate(ABSENT_NAMES):
            first = number % max(len(songs), 1)
            kin = {name} | vocabulary.ancestors(name)
            for song in songs[first:] + songs[:first]:
                if all(kin.isdisjoint(tags[i]) for i in self.held_out.songs[song]):
                    questions.append((song, name))
        for number, (song, name) in enumerate(questions[: self.config.n_absent]):
            stems = self.held_out.songs[song]
            start = self.held_out.start(stems[0], self.n_samples, np.random.default_rng((7, number)))
            rest = self.windows.read(stems, start)
            yield self._item(name, "absent", song, "song", start, np.zeros_like(rest), rest)

    def _item(
        self, name: str, group: str, song: str, kind: str, start: int, target: Sound, rest: Sound
    ) -> ValidationItem:
        """Return the window with an example: a clip of the same name from the training split, where it has one."""
        rng = np.random.default_rng((zlib.crc32(f"{name} {song}".encode()), start))
        training, example = self.training, None
        if known := training.by_name.get(name) or training.by_tag.get(name):
            example = example_clip(training, known, self.config.example_seconds, rng)
        return ValidationItem(target + rest, target, name, group, song, kind, example)


def plain_first(name: str) -> tuple[bool, int, str]:
    """Order names: drums, bass and vocals, then short ones, then by letters."""
    return name not in MAIN_NAMES, len(name), name


def _levelled(target: Sound, rest: Sound, difference_db: float) -> Sound:
    """Bring the target to `difference_db` from the rest."""
    return target * sounds.gain(sounds.level_db(rest) + difference_db - sounds.level_db(target))
