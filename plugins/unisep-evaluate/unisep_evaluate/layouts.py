"""Data sets as they are published, read as rows of a manifest, for training as for evaluation; no audio is read.

    manifest    manifest.jsonl
    musdb       MUSDB18-HQ: train/song/drums.wav and so on, test/...
    moisesdb    MoisesDB: song/data.json and song/stem/track.wav, perhaps one level down
    slakh       Slakh2100: Track00001/metadata.yaml and Track00001/stems/S00.flac, perhaps under train
    plain       folders of songs with any stems: song/lead vocal.wav

Labels become those of the vocabulary; a sum of stems (`mixture.wav`) is left off. Where a data set does not say what
is for validation, whole artists or songs are drawn by the md5 of their names.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from unisep.errors import DatasetError
from unisep_evaluate import vocabulary
from unisep_evaluate.datasets import MANIFEST, ManifestLine, md5_digit, read_manifest, song_folders

Split = Literal["train", "valid", "test"]
Layout = Literal["auto", "manifest", "musdb", "moisesdb", "slakh", "plain"]
TABLES: dict[str, Any] = tomllib.loads(
    resources.files(__package__).joinpath("layouts.toml").read_text(encoding="utf-8")
)


class ManifestRow(ManifestLine):
    """One line of a manifest, with what training wants to know of a sound.

    Attributes:
        split: where the data set itself puts the sound; without it, the builder's rule decides.
    """

    kind: str = "solo"
    stem: str | None = None
    family: str = "other"
    four_stem: str = "none"
    licence: str = "not stated"
    repo: str = ""
    source_rate: int | None = None
    split: Split | None = None


def rows(source: Path, layout: Layout = "auto") -> list[ManifestRow]:
    """Read the manifest of a folder in any layout.

    Raises:
        DatasetError: the folder is in no known layout, or a description in it cannot be read, or names a file twice.
    """
    if not source.is_dir():
        raise DatasetError(f"There is no folder {source}.")
    name = next((name for name in LAYOUTS if fits(source, name)), None) if layout == "auto" else layout
    known = f"Known layouts: {', '.join(LAYOUTS)}; or write a {MANIFEST}."
    if name is None:
        raise DatasetError(f"{source} is in no layout known here. {known}")
    listed: dict[str, ManifestRow] = {}
    for row in LAYOUTS[name][1](source):
        if listed.setdefault(row.path, row) is not row:
            raise DatasetError(f"{source} names {row.path!r} twice. Each sound stands in a manifest once.")
    if not listed:
        raise DatasetError(f"{source} holds no stems in the layout {name!r}. {known}")
    return list(listed.values())


def fits(source: Path, layout: str) -> bool:
    """Tell whether what lies in the folder is of the layout."""
    return any(next(source.glob(pattern), None) is not None for pattern in LAYOUTS[layout][0])


def _row(
    source: Path, path: Path, song: str, label: str, licence: str, split: Split, synonyms: Iterable[str] = (),
    stem: str = "", four_stem: str = "",
) -> ManifestRow:  # fmt: skip
    """Return the row of one stem; family and, unless given, role among the four stems follow from its label."""
    tags = vocabulary.tags(label)
    return ManifestRow(
        path=path.relative_to(source).as_posix(), label=label, kind="song", song=song, stem=stem or path.stem,
        synonyms=tuple(synonyms), licence=licence, split=split,
        family=next((family for tag, family in TABLES["families"].items() if tag in tags), "other"),
        four_stem=four_stem or next((role for role in vocabulary.ROLES if role in tags), "other"),
    )  # fmt: skip


def drawn_split(name: str) -> Split:
    """Draw one name in 16 for validation, by the md5 of the name: the same on every machine."""
    return "valid" if md5_digit(name) == "0" else "train"


def _plain(
    source: Path, place: str = "", licence: str = "not stated", split_of: Callable[[str], Split] = drawn_split
) -> Iterator[ManifestRow]:
    facts = TABLES["plain"]
    for folder, files in song_folders(source / place):
        for path, label in ((path, vocabulary.recognised(path.stem)) for path in files):
            if path.suffix.lower().removeprefix(".") in facts["suffixes"] and label not in facts["sums"]:
                yield _row(source, path, folder.name, label, licence, split_of(folder.name))


def _musdb(source: Path) -> Iterator[ManifestRow]:
    facts = TABLES["musdb"]
    yield from _plain(source, "test", facts["licence"], lambda song: "test")
    yield from _plain(source, "train", facts["licence"], lambda song: "valid" if song in facts["valid"] else "train")


class _MoisesTrack(BaseModel, frozen=True):
    id: str = Field(pattern=r"^[\w.-]+$")
    type: str = Field(alias="trackType")
    extension: str = Field("wav", pattern=r"^\w+$")
    has_bleed: bool = False


class _MoisesStem(BaseModel, frozen=True):
    name: str = Field(alias="stemName", pattern=r"^\w+$")
    tracks: tuple[_MoisesTrack, ...] = ()


class _MoisesSong(BaseModel, frozen=True):
    artist: str = ""
    stems: tuple[_MoisesStem, ...]


def _moisesdb(source: Path) -> Iterator[ManifestRow]:
    """Yield the rows of a MoisesDB folder. All songs of an artist are in the same split."""
    for path, song in _described(source, "data.json", json.loads, _MoisesSong):
        folder = path.parent
        for stem, track in ((s, track) for s in song.stems for track in s.tracks):
            label, *synonyms = moises_labels(stem.name, track.type)
            if track.has_bleed:
                # A microphone that hears the whole kit is still drums, but no longer one piece of it; elsewhere
                # the bleeding is of another stem.
                if stem.name != "drums":
                    continue
                label, synonyms = "drums", []
            yield _row(
                source, folder / stem.name / f"{track.id}.{track.extension}", folder.name, label,
                TABLES["moisesdb"]["licence"], drawn_split(song.artist or folder.name), synonyms, stem.name,
                stem.name if stem.name in vocabulary.ROLES else "other",
            )  # fmt: skip


def moises_labels(stem: str, track_type: str) -> list[str]:
    """Return label and synonyms of a MoisesDB track: by the longest known beginning of its type, else by its stem.

    >>> moises_labels("bass", "contrabass/double_bass_(bass_of_instrings)")
    ['double bass']
    >>> moises_labels("guitar", "something_new")
    ['guitar']
    """
    facts, words = TABLES["moisesdb"], re.sub(r"[\W_]+", "_", track_type.lower()).strip("_").split("_")
    beginnings = ("_".join(words[:n_words]) for n_words in range(len(words), 0, -1))
    known = next((facts["tracks"][beginning] for beginning in beginnings if beginning in facts["tracks"]), None)
    return list(known) if known else [facts["stems"].get(stem, "other")]


class _SlakhStem(BaseModel, frozen=True):
    inst_class: str = ""
    is_drum: bool = False
    program_num: int | None = None
    audio_rendered: bool = True


class _SlakhTrack(BaseModel, frozen=True):
    audio_dir: str = "stems"
    stems: dict[str, _SlakhStem]


def _slakh(source: Path) -> Iterator[ManifestRow]:
    """Yield the rows of a Slakh2100 folder; tracks that its authors left out as duplicates (`omitted`) stay out."""
    facts = TABLES["slakh"]
    for path, metadata in _described(source, "metadata.yaml", _yaml, _SlakhTrack):
        track = path.parent
        number = int("".join(filter(str.isdigit, track.name)) or 0)
        by_number = next((split for split, last in facts["last_tracks"].items() if number <= last), "test")
        split: Any = by_number if track.parent == source else facts["splits"].get(track.parent.name)
        for name, stem in metadata.stems.items():
            # Some conversions of the data set hold wav. A few stems were never rendered.
            place = track / Path(metadata.audio_dir).name
            files = (place / f"{Path(name).name}.{suffix}" for suffix in ("flac", "wav"))
            file = next((file for file in files if file.exists()), None)
            if split is not None and stem.audio_rendered and file is not None:
                label = slakh_label(stem.program_num, stem.inst_class, stem.is_drum)
                yield _row(source, file, track.name, label, facts["licence"], split)


def slakh_label(program: int | None = None, instrument_class: str = "", is_drum: bool = False) -> str:
    """Return what plays a Slakh2100 stem: by its program, else by the class of instruments it is of.

    >>> slakh_label(program=30), slakh_label(instrument_class="Pipe"), slakh_label(is_drum=True)
    ('distorted guitar', 'woodwind', 'drums')
    """
    facts = TABLES["slakh"]
    if is_drum or instrument_class.lower() == "drums":
        return "drums"
    for first, last, label in facts["programs"]:
        if program is not None and first <= program <= last:
            return str(label)
    return str(facts["classes"].get(instrument_class.lower(), "other"))


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise DatasetError("Slakh2100's metadata needs PyYAML. Run: pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _described(source: Path, name: str, parse: Callable[[str], Any], kind: type[Any]) -> Iterator[tuple[Path, Any]]:
    """Read the descriptions of all songs, one or two levels down. Raises DatasetError for a damaged one."""
    for path in sorted([*source.glob(f"*/{name}"), *source.glob(f"*/*/{name}")]):
        try:
            yield path, kind.model_validate(parse(path.read_text(encoding="utf-8")))
        except DatasetError:
            raise
        except (OSError, ValueError) as error:  # pydantic's are ValueErrors too
            raise DatasetError(f"{path} does not describe a song: {error}") from error


# What lies in a folder of each layout, and what reads it; the first that fits is taken.
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterable[ManifestRow]]]] = {
    "manifest": ((MANIFEST,), lambda source: read_manifest(source, ManifestRow)),
    "musdb": (
        tuple(f"{split}/*/{stem}.wav" for split in ("train", "test") for stem in (*vocabulary.ROLES, "other")),
        _musdb,
    ),
    "moisesdb": (("*/data.json", "*/*/data.json"), _moisesdb),
    "slakh": (("*/metadata.yaml", "*/*/metadata.yaml"), _slakh),
    "plain": (tuple(f"*/*.{suffix}" for suffix in TABLES["plain"]["suffixes"]), _plain),
}
