"""Recordings with known stems: songs of stems, MUSDB18-HQ, or a manifest; and which sounds answer to a name.

    song/stem.wav      folders     a folder a song, a file a stem; `mixture.*`, if there, is the mixture
    test/song/*.wav    musdb       MUSDB18-HQ: the same below `train` and `test`
    song/data.json     moisesdb    MoisesDB, and slakh, Slakh2100: read by `layouts`
    manifest.jsonl     manifest    a line a file: path, label, and perhaps song, synonyms, family, four_stem

Opening reads names, no audio.

A sound answers to its label, its synonyms and its role among the four stems. Other sounds might hold what is asked for
without saying so: a drum loop may hold a hi-hat, one synthesizer may be an analog one. Where such a sound is heard, a
window says nothing about the name, so it is not taken.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unisep.errors import DatasetError, reasons, suggest
from unisep.files.formats import READ_SUFFIXES

Layout = Literal["auto", "folders", "musdb", "moisesdb", "slakh", "manifest"]
MANIFEST = "manifest.jsonl"
MIXTURE = "mixture"
ROLES = ("drums", "bass", "vocals")
# Stems that may hold anything that has no stem of its own.
UNDECLARED = frozenset({"other", "others", "accompaniment", "instrumental", "backing track", "residual"})
# A label with one of these words is of several things together.
_COMPOUND = frozenset({"beat", "build", "ensemble", "fill", "groove", "kit", "loop", "mix", "sequence", "tops"})
# A family that some would count to a role and others not.
_NEAR_ROLE = {"drums": "percussion", "vocals": "speech"}


def canonical(name: str) -> str:
    """Return the name in lower case with single spaces; "_" counts as a space.

    >>> canonical(" Electric_Guitar ")
    'electric guitar'
    """
    return " ".join(name.casefold().replace("_", " ").split())


@dataclass(frozen=True)
class Sound:
    """One audio file and what it is called, in canonical form.

    Attributes:
        path: The file.
        label: Its name.
        names: All names that it answers to: label, synonyms and role.
        role: "drums", "bass", "vocals" or "other"; "" where the data state none.
        family: Family of instruments or sounds; "" where the data state none.
    """

    path: Path
    label: str
    names: frozenset[str]
    role: str = ""
    family: str = ""

    @classmethod
    def named(cls, path: Path, label: str, synonyms: Iterable[str] = (), role: str = "", family: str = "") -> Sound:
        """Return a sound with its names in canonical form.

        >>> sorted(Sound.named(Path("1.wav"), "kick_drum", ["Kick"], "drums").names)
        ['drums', 'kick', 'kick drum']
        """
        names = frozenset(canonical(name) for name in (label, *synonyms, *({role} & set(ROLES))))
        return cls(path, canonical(label), names, role, family)

    def answers(self, name: str) -> bool:
        """Tell whether this sound is (part of) what `name` asks for."""
        return name in self.names

    @property
    def undeclared(self) -> bool:
        """Whether this may hold anything that has no stem of its own."""
        return self.label in UNDECLARED


@dataclass(frozen=True)
class Kin:
    """A name, and the names, roles and families of all sounds of a data set that answer to it."""

    name: str
    names: frozenset[str]
    roles: frozenset[str]
    families: frozenset[str]

    def might_hold(self, sound: Sound) -> bool:
        """Tell whether a sound does not answer to the name, but might hold it without saying so.

        >>> hats = Kin("hi-hat", frozenset({"hi-hat", "drums"}), frozenset({"drums"}), frozenset())
        >>> [hats.might_hold(Sound.named(Path("1.wav"), label, (), "drums")) for label in ("drum loop", "kick")]
        [True, False]
        """
        if sound.answers(self.name):
            return False
        if self.name in ROLES:
            return sound.family == _NEAR_ROLE.get(self.name)
        shares_a_name = bool((self.names & sound.names) - set(ROLES))
        is_compound = any(_COMPOUND & set(re.findall(r"\w+", name)) for name in sound.names)
        return shares_a_name or (sound.role in self.roles and is_compound)

    def is_near(self, sound: Sound) -> bool:
        """Tell whether a sound is of the same kind as the name, or might hold it: then the name is not called absent."""
        same_kind = sound.role in self.roles & set(ROLES) or sound.family in self.families
        return same_kind or sound.answers(self.name) or self.might_hold(sound)


@dataclass(frozen=True)
class Track:
    """A song: its stems, and the file of its mixture (None: the sum of the stems)."""

    name: str
    stems: tuple[Sound, ...]
    mixture: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """The recordings of a folder: songs and single sounds to judge, and those set aside for example queries."""

    name: str
    tracks: tuple[Track, ...]
    singles: tuple[Sound, ...] = ()
    aside_tracks: tuple[Track, ...] = ()
    aside_singles: tuple[Sound, ...] = ()

    def kin(self, name: str) -> Kin:
        """Return what the sounds that answer to `name` are called otherwise, those set aside included."""
        stems = (stem for track in (*self.tracks, *self.aside_tracks) for stem in track.stems)
        matching = [sound for sound in (*stems, *self.singles, *self.aside_singles) if sound.answers(name)]
        return Kin(
            name,
            frozenset[str]().union(*(sound.names for sound in matching)),
            frozenset(sound.role for sound in matching if sound.role),
            frozenset(sound.family for sound in matching if sound.family not in ("", "other")),
        )

    def select(self, songs: Sequence[str] = (), kinds: Sequence[str] = (), hashed: str = "") -> Dataset:
        """Return the part that was held out of training; the rest is set aside.

        Args:
            songs: Names of songs; without, all.
            kinds: First folders of the paths of single sounds; without, all.
            hashed: Keep the single sounds whose path's md5 ends in one of these hexadecimal digits.

        Raises:
            DatasetError: There is no song of that name, or nothing is left.
        """
        known = {track.name for track in self.tracks}
        for song in songs:
            if song not in known:
                raise DatasetError(f"{self.name} has no song named {song!r}. {suggest(song, known)}")

        def is_held_out(single: Sound) -> bool:
            path = single.path.relative_to(self.name)
            is_drawn = not hashed or md5_digit(path.as_posix()) in hashed.lower()
            return is_drawn and (not kinds or path.parts[0] in kinds)

        tracks = tuple(track for track in self.tracks if not songs or track.name in songs)
        singles = tuple(filter(is_held_out, self.singles))
        if not tracks and not singles:
            raise DatasetError(f"Nothing of {self.name} is left to judge. Select more songs or kinds.")
        return replace(
            self, tracks=tracks, aside_tracks=tuple(track for track in self.tracks if track not in tracks),
            singles=singles, aside_singles=tuple(single for single in self.singles if single not in singles),
        )  # fmt: skip


class ManifestLine(BaseModel):
    """One line of a manifest; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str = Field(min_length=1)
    label: str = Field(min_length=1)
    song: str | None = None
    synonyms: tuple[str, ...] = ()
    family: str = ""
    four_stem: str = ""

    @field_validator("path")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"{path!r} leaves the folder, give a path inside it")
        return path


LineT = TypeVar("LineT", bound=ManifestLine)


def open_dataset(folder: str | Path, layout: Layout = "auto", subset: str = "test") -> Dataset:
    """List the recordings below `folder` by their names.

    Args:
        folder: Where the recordings are.
        layout: One of `Layout`; "auto" looks for a manifest.jsonl, descriptions of songs, then `train` and `test`.
        subset: "test" or "train" of data sets that have both; what is for validation where nothing is kept for testing.

    Raises:
        DatasetError: There is no folder, no recording in that layout, or the manifest cannot be read.
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
    songs = (_track(song.name, files) for song, files in song_folders(place))
    tracks = tuple(track for track in songs if track.stems)
    if not tracks:
        raise DatasetError(
            f"'{place}' holds no songs. Expected a folder for each song with an audio file for each stem, "
            f"such as {place.name}/song/drums.wav, or a {MANIFEST}."
        )
    return Dataset(str(folder), tracks)


def song_folders(place: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the folders in a place by name, each with its audio files; hidden ones are left out."""
    folders = (path for path in place.iterdir() if path.is_dir()) if place.is_dir() else ()
    for folder in sorted(path for path in folders if not path.name.startswith(".")):
        files = (path for path in folder.iterdir() if path.suffix.lower() in READ_SUFFIXES)
        yield folder, sorted(path for path in files if not path.name.startswith("."))


def _track(name: str, files: Sequence[Path]) -> Track:
    mixture, stems = None, []
    for path in files:
        label = canonical(path.stem)
        if label == MIXTURE:
            mixture = mixture or path
        else:
            role = label if label in ROLES else "other" if label in UNDECLARED else ""
            stems.append(Sound.named(path, label, role=role))
    return Track(name, tuple(stems), mixture)


def _of_lines(folder: Path, lines: Sequence[ManifestLine]) -> Dataset:
    songs: dict[str, list[Sound]] = {}
    singles: list[Sound] = []
    for line in lines:
        role = "" if line.four_stem == "none" else line.four_stem
        sound = Sound.named(folder / line.path, line.label, line.synonyms, role, line.family)
        (singles if line.song is None else songs.setdefault(line.song, [])).append(sound)
    if not songs and not singles:
        raise DatasetError(f"{folder} names no file to judge. Write one into {MANIFEST}, or choose another subset.")
    tracks = (Track(song, tuple(stems)) for song, stems in sorted(songs.items()))
    return Dataset(str(folder), tuple(tracks), tuple(singles))


def read_manifest(folder: Path, kind: type[LineT]) -> list[LineT]:
    """Read the lines of `folder/manifest.jsonl`, each as a `kind`.

    Raises:
        DatasetError: It cannot be read, a line cannot be understood, or names a file outside the folder.
    """
    manifest = folder / MANIFEST
    lines = []
    try:
        texts = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DatasetError(f"Cannot read {manifest}: {error}.") from error
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                lines.append(kind.model_validate_json(text))
            except ValidationError as error:
                raise DatasetError(
                    f"{manifest}, line {number}: {reasons(error, 'the line')}. Each line is a JSON object with at least "
                    "path and label."
                ) from error
    return lines


def md5_digit(name: str) -> str:
    """Return the last hexadecimal digit of a name's md5, by which sounds are held out alike on every machine.

    >>> md5_digit("voice/speech-0.wav")
    'c'
    """
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[-1]
