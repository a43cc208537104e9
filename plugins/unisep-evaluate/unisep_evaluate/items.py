"""What is judged, read from the files one song at a time: mixtures with their targets, and clips to ask with."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from unisep.audio import Audio
from unisep.errors import DatasetError
from unisep_evaluate.datasets import ROLES, Dataset, Sound, Track
from unisep_evaluate.passages import Samples, common_format, level_db, levels_of, loudest, read_passages, together_db
from unisep_evaluate.windows import Window, WindowOptions, song_windows

Span = tuple[float, float]  # start and end in seconds
Source = tuple[Sound, ...]  # what sounds together in a clip: one file, or the stems of a song that answer
Place = tuple[Sequence[Sound], Sequence[Track], Span | None]

_SINGLE_RATE_HZ = 44_100
_OTHERS_DB = (-25.0, -20.0)
_TARGET_DB = (-6.0, 6.0)
_N_OTHERS = (1, 3)
_BATCH = 48  # windows of a song that are held at once


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one window, with its answer.

    Attributes:
        track: Name of the song, or of the file of a single sound.
        name: The class, and the text that asks for it.
        group: "song" (a window of a song), "single" (a single sound among others) or "absent" (no such sound).
        target: The answer, samples like the mixture's; zeros if absent.
        example: A clip of another such sound; None where there is none.
    """

    track: str
    name: str
    group: str
    start_seconds: float
    mixture: Audio
    target: Samples
    example: Audio | None = None


@dataclass(frozen=True, eq=False)
class Song:
    """A song from its start, and the stems that are known: name -> samples like the mixture's."""

    track: str
    mixture: Audio
    references: Mapping[str, Samples]


def query_items(dataset: Dataset, options: WindowOptions | None = None) -> Iterator[Item]:
    """Yield windows to ask about: of the songs, then single sounds among others.

    Raises:
        DatasetError: Nothing fits, or nothing answers to a class that was asked for.
        AudioFileError: A file cannot be read.
    """
    options = options or WindowOptions()
    windows = song_windows(dataset, options)
    questions = _single_questions(dataset, options)
    if not windows and not questions:
        raise DatasetError(
            f"No window of {dataset.name} fits: target and rest sound and are within {options.within_db:g} dB of each "
            "other. Allow more, take shorter windows, or other classes."
        )
    examples = Examples(dataset, options)
    for _, group in groupby(windows, key=lambda window: window.track.name):
        of_song = list(group)
        for first in range(0, len(of_song), _BATCH):
            yield from _window_items(of_song[first : first + _BATCH], options, examples)
    yield from _single_items(questions, dataset, options, examples)
    if not dataset.tracks:
        yield from _absent_items(dataset, options, examples)


def songs(dataset: Dataset, seconds: float | None = None) -> Iterator[Song]:
    """Yield every song, or its first `seconds`, with its stems by role, or by label where they have no role.

    Where all stems have roles, and none of them is called "other", a role that no stem has is silence.
    """
    for track in dataset.tracks:
        rate_hz, channels, whole_seconds = _format(track)
        n_samples = round(min(whole_seconds, seconds or math.inf) * rate_hz)
        references: dict[str, Samples] = {}
        for stem in track.stems:
            samples = read_passages(stem.path, [0], n_samples, rate_hz, channels)[0]
            role = stem.role or stem.label
            references[role] = references[role] + samples if role in references else samples
        mixture = np.sum(list(references.values()), axis=0, dtype=np.float32)
        if all(stem.role and not stem.undeclared for stem in track.stems):
            references = {role: references.get(role, np.zeros_like(mixture)) for role in (*ROLES, "other")}
        if track.mixture is not None:
            mixture = read_passages(track.mixture, [0], n_samples, rate_hz, channels)[0]
        yield Song(track.name, Audio(mixture, rate_hz), references)


def _format(track: Track) -> tuple[int, int, float]:
    return common_format([stem.path for stem in track.stems] + ([track.mixture] if track.mixture else []))


def _window_items(windows: Sequence[Window], options: WindowOptions, examples: Examples) -> Iterator[Item]:
    """Yield the items of some windows of one song, each file read once."""
    track = windows[0].track
    rate_hz, channels, _ = _format(track)
    n_samples = round(options.window_seconds * rate_hz)
    starts = sorted({round(window.start_seconds * rate_hz) for window in windows})
    places = [starts.index(round(window.start_seconds * rate_hz)) for window in windows]
    targets = np.zeros((len(windows), channels, n_samples), np.float32)
    mixtures = np.zeros((len(starts), channels, n_samples), np.float32)
    for stem in track.stems:
        passages = read_passages(stem.path, starts, n_samples, rate_hz, channels)
        mixtures += passages
        for target, window, place in zip(targets, windows, places, strict=True):
            if not window.absent and stem.answers(window.name):
                target += passages[place]
    if track.mixture is not None:
        mixtures = read_passages(track.mixture, starts, n_samples, rate_hz, channels)
    for target, window, place in zip(targets, windows, places, strict=True):
        mixture = mixtures[place]
        if window.absent or abs(level_db(target) - level_db(mixture - target)) <= options.within_db:
            span = (window.start_seconds, window.start_seconds + options.window_seconds)
            yield Item(
                track.name, window.name, "absent" if window.absent else "song", window.start_seconds,
                Audio(mixture, rate_hz), target, examples.for_window(window.name, track, span),
            )  # fmt: skip


def _single_questions(dataset: Dataset, options: WindowOptions) -> list[tuple[str, Sound, int]]:
    """Return names with a sound each, numbered; of three sounds and more, some are asked about again."""
    by_label: dict[str, list[Sound]] = {}
    for sound in dataset.singles:
        by_label.setdefault(sound.label, []).append(sound)
    questions: list[tuple[str, Sound, int]] = []
    for name, sounds in sorted(by_label.items()):
        n = options.n_per_class if len(sounds) > 2 else min(options.n_per_class, len(sounds))
        if not options.classes or name in options.classes:
            questions += [(name, sounds[number % len(sounds)], number) for number in range(n)]
    return questions


def _single_items(
    questions: Sequence[tuple[str, Sound, int]], dataset: Dataset, options: WindowOptions, examples: Examples
) -> Iterator[Item]:
    """Yield single sounds, each mixed with one to three others that do not answer to its name."""
    limits_db = np.clip(_TARGET_DB, -options.within_db, options.within_db)
    for name, sound, number in questions:
        rng = np.random.default_rng((options.seed, number, zlib.crc32(name.encode())))
        kin = dataset.kin(name)
        others = [other for other in dataset.singles if not (other.answers(name) or kin.might_hold(other))]
        rest, passage = _mix(others, options, rng), _passage(sound, options)
        if rest is not None and passage.any():
            target = _at_level(passage, level_db(rest) + rng.uniform(*limits_db))
            mixture = Audio((target + rest).astype(np.float32), _SINGLE_RATE_HZ)
            yield Item(sound.path.stem, name, "single", 0.0, mixture, target, examples.for_single(name, sound))


def _absent_items(dataset: Dataset, options: WindowOptions, examples: Examples) -> Iterator[Item]:
    """Yield mixtures of single sounds, asked for a name of which none is near."""
    names = options.absent or tuple(sorted({sound.label for sound in dataset.singles}))
    rng = np.random.default_rng((options.seed, 3))
    for number in range(options.n_absent):
        kin = dataset.kin(names[int(rng.integers(len(names)))])
        rest = _mix([sound for sound in dataset.singles if not kin.is_near(sound)], options, rng)
        if rest is not None:
            mixture, example = Audio(rest, _SINGLE_RATE_HZ), examples.for_single(kin.name, None)
            yield Item(f"mix {number}", kin.name, "absent", 0.0, mixture, np.zeros_like(rest), example)


def _mix(sounds: Sequence[Sound], options: WindowOptions, rng: np.random.Generator) -> Samples | None:
    """Return the sum of one to three of the sounds, each at a level of its own; None where there are no sounds."""
    n_wanted = int(rng.integers(*_N_OTHERS, endpoint=True))
    drawn = [sounds[index] for index in rng.permutation(len(sounds))[:n_wanted]]
    parts = [_at_level(_passage(sound, options), rng.uniform(*_OTHERS_DB)) for sound in drawn]
    return np.sum(parts, axis=0, dtype=np.float32) if parts else None


def _passage(sound: Sound, options: WindowOptions) -> Samples:
    """Return the loudest stretch of a sound, as long as a window (silence after a shorter one), in stereo."""
    levels, seconds = levels_of(sound.path), options.window_seconds
    start = 0.0 if levels.seconds <= seconds else loudest(levels.step_db, seconds) or 0.0
    n_samples = round(seconds * _SINGLE_RATE_HZ)
    return read_passages(sound.path, [round(start * _SINGLE_RATE_HZ)], n_samples, _SINGLE_RATE_HZ, 2)[0]


def _at_level(samples: Samples, wanted_db: float) -> Samples:
    gain = 10 ** ((wanted_db - level_db(samples)) / 20) if samples.any() else 0.0
    return (samples * gain).astype(np.float32)


class Examples:
    """Example clips for audio queries: the same kind of sound from elsewhere, never the target itself.

    A clip comes from what was set aside, else from other files, else from another passage. It is the loudest stretch of
    a single sound labelled as asked, or of all stems of a song that answer together, as a target is; for drums, bass
    and vocals songs go first. Last come single sounds that answer by a synonym. No clip is silent.
    """

    def __init__(self, dataset: Dataset, options: WindowOptions) -> None:
        self._dataset = dataset
        self._options = options
        self._clip = lru_cache(maxsize=128)(_loudest_clip)

    def for_window(self, name: str, track: Track, span: Span) -> Audio | None:
        """Return a clip for the window of a song at `span`; None where there is none."""
        elsewhere = [other for other in self._dataset.tracks if other is not track]
        places = ((self._dataset.singles, elsewhere, None), ((), [track], span))
        return self._first(name, f"{name} {track.name} {span}", places)

    def for_single(self, name: str, target: Sound | None) -> Audio | None:
        """Return a clip for a single sound; None where there is none."""
        others = [sound for sound in self._dataset.singles if sound is not target]
        key = f"{name} {target.path.name if target else ''}"
        return self._first(name, key, ((others, self._dataset.tracks, None),))

    def _first(self, name: str, key: str, places: Iterable[Place]) -> Audio | None:
        """Return the first clip from what was set aside, then from `places`: singles, tracks, and a span to avoid."""
        rng = np.random.default_rng((self._options.seed, zlib.crc32(key.encode())))
        for singles, tracks, avoid in ((self._dataset.aside_singles, self._dataset.aside_tracks, None), *places):
            for source in _sources(name, singles, tracks, rng):
                if (clip := self._clip(source, self._options.example_seconds, avoid)) is not None:
                    return clip
        return None


def _sources(name: str, singles: Sequence[Sound], tracks: Sequence[Track], rng: np.random.Generator) -> list[Source]:
    """Return where a clip could come from, best first, the order of equals drawn."""
    of_songs = [tuple(stem for stem in track.stems if stem.answers(name)) for track in tracks]
    songs: list[Source] = [stems for stems in of_songs if stems]
    exact: list[Source] = [(sound,) for sound in singles if sound.label == name]
    wider: list[Source] = [(sound,) for sound in singles if sound.label != name and sound.answers(name)]
    tiers = [songs, exact, wider] if name in ROLES else [exact + songs, wider]
    return [tier[index] for tier in tiers for index in rng.permutation(len(tier))]


def _loudest_clip(source: Source, seconds: float, avoid: Span | None) -> Audio | None:
    start = loudest(together_db([levels_of(sound.path).step_db for sound in source]), seconds, avoid)
    if start is None:
        return None
    rate_hz, channels, longest_seconds = common_format([sound.path for sound in source])
    n_samples = round(min(seconds, longest_seconds - start) * rate_hz)
    first = [round(start * rate_hz)]
    parts = [read_passages(sound.path, first, n_samples, rate_hz, channels)[0] for sound in source]
    samples = np.sum(parts, axis=0, dtype=np.float32)
    return Audio(samples, rate_hz) if samples.any() else None
