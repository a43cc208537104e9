"""Recordings with known stems, from a folder: songs of stems, MUSDB18-HQ, or a manifest.

    song/stem.wav      folders     a folder a song, a file a stem; `mixture.*`, if there, is the mixture
    test/song/*.wav    musdb       MUSDB18-HQ: the same below `train` and `test`
    song/data.json     moisesdb    MoisesDB, and slakh, Slakh2100: read by `layouts`
    manifest.jsonl     manifest    a line a file: path, label, and perhaps song, synonyms, family, four_stem, kind

Opening reads names, no audio.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisep.errors import DatasetError, suggest
from unisep.files.formats import READ_SUFFIXES
from unisep_evaluate import labels
from unisep_evaluate.labels import Kin

Layout = Literal["auto", "folders", "musdb", "moisesdb", "slakh", "manifest"]
MANIFEST = "manifest.jsonl"
MIXTURE = "mixture"


@dataclass(frozen=True)
class Sound:
    """One file: what it is called, and what else it answers to.

    role: drums, bass, vocals or other, "" where nobody said; family: of instruments or sounds, "" likewise.
    """

    path: Path
    label: str
    names: frozenset[str]
    role: str = ""
    family: str = ""

    def answers(self, name: str) -> bool:
        """Whether this sound is (part of) what `name` asks for."""
        return name in self.names

    def might_hold(self, kin: Kin) -> bool:
        """Whether this does not answer to the name, but might hold what it means."""
        return not self.answers(kin.name) and kin.might_hold(self.names, self.role, self.family)

    def is_near(self, kin: Kin) -> bool:
        """Whether this is of the kind that the name means, or might be."""
        return kin.is_near(self.names, self.role, self.family)

    @property
    def undeclared(self) -> bool:
        """Whether this may hold anything that has no stem of its own."""
        return self.label in labels.UNDECLARED


@dataclass(frozen=True)
class Track:
    """A song: its stems, and the file of its mixture (None: the sum of the stems)."""

    name: str
    stems: tuple[Sound, ...]
    mixture: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """What is judged (`tracks`, `singles`), and what is set aside for example queries.

    singles: sounds that belong to no song. aside_tracks, aside_singles: what the selection left out.
    """

    name: str
    tracks: tuple[Track, ...]
    singles: tuple[Sound, ...] = ()
    aside_tracks: tuple[Track, ...] = ()
    aside_singles: tuple[Sound, ...] = ()

    def sounds(self) -> list[Sound]:
        """Everything, selected or set aside."""
        tracks = (stem for track in (*self.tracks, *self.aside_tracks) for stem in track.stems)
        return [*tracks, *self.singles, *self.aside_singles]

    def kin(self, name: str) -> Kin:
        """What the sounds that answer to `name` are otherwise."""
        matching = [sound for sound in self.sounds() if sound.answers(name)]
        return Kin(
            name,
            frozenset[str]().union(*(sound.names for sound in matching)),
            frozenset(sound.role for sound in matching if sound.role),
            frozenset(sound.family for sound in matching if sound.family not in ("", "other")),
        )

    def select(self, songs: Sequence[str] = (), kinds: Sequence[str] = (), hashed: str = "") -> Dataset:
        """The part that was held out of training; the rest is set aside.

        songs: names of songs, all without. kinds: first folders of single sounds' paths, all without.
        hashed: keep single sounds whose path's md5 ends in one of these hexadecimal digits.

        Raises:
            DatasetError: no song of that name, or nothing is left.
        """
        known = {track.name for track in self.tracks}
        for song in songs:
            if song not in known:
                raise DatasetError(f"{self.name} has no song named {song!r}. {suggest(song, known)}")
        tracks = [track for track in self.tracks if not songs or track.name in songs]
        singles = [s for s in self.singles if _is_held_out(s, self.name, kinds, hashed)]
        if not tracks and not singles:
            raise DatasetError(f"Nothing of {self.name} is left to judge. Select more songs or kinds.")
        return replace(
            self,
            tracks=tuple(tracks),
            singles=tuple(singles),
            aside_tracks=tuple(track for track in self.tracks if track not in tracks),
            aside_singles=tuple(single for single in self.singles if single not in singles),
        )


class ManifestLine(BaseModel):
    """One line of a manifest; what else stands there is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str = Field(min_length=1)
    label: str = Field(min_length=1)
    song: str | None = None
    synonyms: tuple[str, ...] = ()
    family: str = ""
    four_stem: str = ""


LineT = TypeVar("LineT", bound=ManifestLine)


def open_dataset(folder: str | Path, layout: Layout = "auto", subset: str = "test") -> Dataset:
    """The recordings below `folder`, found by name.

    layout: one of `Layout`; "auto" looks for a manifest.jsonl, descriptions of songs, then `train` and `test`.
    subset: "test" or "train" of data sets that have both; what is for validation where nothing is kept for testing.

    Raises:
        DatasetError: no folder, no recordings in that layout, or a manifest that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"There is no folder '{folder}'. Give a folder of recordings with their stems.")
    from unisep_evaluate import layouts  # which reads manifests by this module

    if layout == "auto":
        split = any((folder / name).is_dir() for name in ("train", "test"))
        described: tuple[Layout, ...] = ("manifest", "moisesdb", "slakh")
        layout = next((name for name in described if layouts.fits(folder, name)), "musdb" if split else "folders")
    if layout == "manifest":
        return _of_lines(folder, read_manifest(folder, ManifestLine))
    if layout in ("moisesdb", "slakh"):
        lines = layouts.rows(folder, layout)
        in_subset = [line for line in lines if line.split == subset]
        return _of_lines(folder, in_subset or [line for line in lines if line.split == "valid"])
    place = folder / subset if layout == "musdb" else folder
    tracks = [track for folder, files in song_folders(place) if (track := _song(folder, files)) is not None]
    if not tracks:
        raise DatasetError(
            f"'{place}' holds no songs. Expected a folder for each song with an audio file for each stem, "
            f"such as {place.name}/song/drums.wav, or a {MANIFEST}."
        )
    return Dataset(str(folder), tuple(tracks))


def song_folders(place: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the folders in a place by name, each with its audio files; hidden ones are left out."""
    folders = (p for p in place.iterdir() if p.is_dir()) if place.is_dir() else ()
    for folder in sorted(p for p in folders if not p.name.startswith(".")):
        files = (p for p in folder.iterdir() if p.suffix.lower() in READ_SUFFIXES)
        yield folder, sorted(p for p in files if not p.name.startswith("."))


def _song(folder: Path, files: Sequence[Path]) -> Track | None:
    """The song in a folder; None where it has no stems."""
    mixtures = [path for path in files if path.stem.casefold() == MIXTURE]
    stems = tuple(_stem(path) for path in files if path not in mixtures)
    return Track(folder.name, stems, mixtures[0] if mixtures else None) if stems else None


def _stem(path: Path) -> Sound:
    label = labels.canonical(path.stem)
    role = label if label in labels.ROLES else "other" if label in labels.UNDECLARED else ""
    return Sound(path, label, labels.names_of(label, (), role), role)


def _of_lines(folder: Path, lines: Sequence[ManifestLine]) -> Dataset:
    songs: dict[str, list[Sound]] = {}
    singles: list[Sound] = []
    for line in lines:
        place = singles if line.song is None else songs.setdefault(line.song, [])
        role = "" if line.four_stem == "none" else line.four_stem
        label = labels.canonical(line.label)
        place.append(Sound(folder / line.path, label, labels.names_of(label, line.synonyms, role), role, line.family))
    if not songs and not singles:
        raise DatasetError(f"{folder} names no file to judge. Write one into {MANIFEST}, or choose another subset.")
    tracks = (Track(song, tuple(stems)) for song, stems in sorted(songs.items()))
    return Dataset(str(folder), tuple(tracks), tuple(singles))


def read_manifest(folder: Path, kind: type[LineT]) -> list[LineT]:
    """Read the lines of `folder/manifest.jsonl`, each as a `kind`.

    Raises:
        DatasetError: it cannot be read, a line cannot be understood, or names a file outside the folder.
    """
    manifest = folder / MANIFEST
    try:
        texts = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DatasetError(f"Cannot read {manifest}: {error}.") from error
    found = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            values: Any = json.loads(text)
            line = kind.model_validate(values)
        except (ValueError, ValidationError) as error:
            what = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, what["loc"])) or "the line"
            raise DatasetError(f"{manifest}, line {number}: {where}: {what['msg']}. Each line is a JSON object "
                               "with at least path and label.") from error  # fmt: skip
        if Path(line.path).is_absolute() or ".." in Path(line.path).parts:
            raise DatasetError(f"{manifest}, line {number}: path {line.path!r} leaves the folder. Give one inside it.")
        found.append(line)
    return found


def md5_digit(name: str) -> str:
    """Return the last hexadecimal digit of a name's md5, by which sounds are held out alike on every machine.

    >>> md5_digit("voice/speech-0.wav")
    'c'
    """
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[-1]


def _is_held_out(sound: Sound, root: str, kinds: Sequence[str], hashed: str) -> bool:
    path = sound.path.relative_to(root)
    digit = md5_digit(path.as_posix())
    return (not kinds or path.parts[0] in kinds) and (not hashed or digit in hashed.lower())
