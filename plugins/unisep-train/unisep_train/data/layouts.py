"""Data sets as they are published, read as manifests.

| layout     | what lies in the folder                                                                            |
|------------|----------------------------------------------------------------------------------------------------|
| `manifest` | `manifest.jsonl`                                                                                   |
| `musdb`    | MUSDB18-HQ: `train` and `test`, each with folders of songs: `drums.wav`, `bass.wav`, `other.wav`, `vocals.wav` |
| `moisesdb` | MoisesDB: folders of songs, perhaps one level down, with `data.json` and `<stem>/<track>.wav`      |
| `slakh`    | Slakh2100: `Track00001` and so on, perhaps under `train`, with `metadata.yaml` and `stems/S00.flac` |
| `plain`    | folders of songs with any stems: `song/lead vocal.wav`                                             |

Labels become those of the vocabulary; a sum of stems (`mixture.wav`) is left off. What a data set keeps for testing
is marked so and never enters a store. Where it does not say what is for validation, whole artists or songs are drawn
by the md5 of their names.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import soundfile
from pydantic import BaseModel, Field, ValidationError
from unisep_evaluate.datasets import MANIFEST, ManifestLine, md5_digit, read_manifest, song_folders

from unisep.errors import DatasetError
from unisep_train.data import labels

Split = Literal["train", "valid", "test"]
Layout = Literal["auto", "manifest", "musdb", "moisesdb", "slakh", "plain"]
TABLES: dict[str, Any] = tomllib.loads(
    resources.files(__package__).joinpath("layouts.toml").read_text(encoding="utf-8")
)
FOUR_STEMS = ("drums", "bass", "other", "vocals")
SLAKH_SPLITS: dict[str, Split] = {"train": "train", "validation": "valid", "test": "test"}
SLAKH_LAST_TRAIN, SLAKH_LAST_VALID = 1500, 1875  # tracks of each split where they are not in folders of their own


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
    source_rate: int = 44100
    split: Split | None = None


def rows(source: Path, layout: Layout = "auto") -> list[ManifestRow]:
    """Read the manifest of a folder in any layout.

    Raises:
        DatasetError: the folder is in no known layout, or a file it speaks of is missing, unreadable, or named twice.
    """
    name = detect(source) if layout == "auto" else layout
    listed: dict[str, ManifestRow] = {}
    for row in LAYOUTS[name][1](source):
        if listed.setdefault(row.path, row) is not row:
            raise DatasetError(f"{source} names {row.path!r} twice. Each sound stands in a manifest once.")
    if not listed:
        raise DatasetError(f"{source} holds no stems in the layout {name!r}. {_known()}")
    return list(listed.values())


def detect(source: Path) -> str:
    """Return the layout of a folder, by what lies in it. Raises DatasetError when it is none."""
    if not source.is_dir():
        raise DatasetError(f"There is no folder {source}.")
    for layout, (patterns, _) in LAYOUTS.items():
        if any(next(source.glob(pattern), None) is not None for pattern in patterns):
            return layout
    raise DatasetError(f"{source} is in no layout known here. {_known()}")


def _known() -> str:
    return f"Known layouts: {', '.join(LAYOUTS)}; or write a {MANIFEST}."


def stem_row(
    source: Path, path: Path, song: str, label: str, licence: str, split: Split, synonyms: Iterable[str] = (),
    stem: str = "", four_stem: str = "",
) -> ManifestRow:  # fmt: skip
    """Return the row of one stem; family and, unless given, role among the four stems follow from its label."""
    try:
        rate_hz = soundfile.info(str(path)).samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error}). Fetch the data set again, or leave this song out."
        ) from error
    tags = labels.tags(label)
    return ManifestRow(
        path=path.relative_to(source).as_posix(), label=label, kind="song", song=song, stem=stem or path.stem,
        synonyms=tuple(synonyms), licence=licence, source_rate=rate_hz, split=split,
        family=next((family for tag, family in TABLES["families"].items() if tag in tags), "other"),
        four_stem=four_stem or labels.four_stem(label),
    )  # fmt: skip


def drawn_split(name: str) -> Split:
    """Draw one name in 16 for validation, by the md5 of the name: the same on every machine."""
    return "valid" if md5_digit(name) == "0" else "train"


def _musdb(source: Path) -> Iterator[ManifestRow]:
    facts = TABLES["musdb"]
    for folder, files in [*song_folders(source / "test"), *song_folders(source / "train")]:
        split: Split = "test" if folder.parent.name == "test" else "valid" if folder.name in facts["valid"] else "train"
        for path in (folder / f"{stem}.wav" for stem in FOUR_STEMS):
            if path in files:
                yield stem_row(source, path, folder.name, path.stem, facts["licence"], split)


def _plain(source: Path) -> Iterator[ManifestRow]:
    facts = TABLES["plain"]
    for folder, files in song_folders(source):
        for path, label in ((path, labels.recognised(path.stem)) for path in files):
            if path.suffix.lower().removeprefix(".") in facts["suffixes"] and label not in facts["sums"]:
                yield stem_row(source, path, folder.name, label, "not stated", drawn_split(folder.name))


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
    for path in sorted([*source.glob("*/data.json"), *source.glob("*/*/data.json")]):
        folder, song = path.parent, _described(path, json.loads, _MoisesSong, "a song of MoisesDB")
        tracks = [(stem, track) for stem in song.stems for track in stem.tracks]
        for stem, track in tracks:
            label, *synonyms = moises_labels(stem.name, track.type)
            if track.has_bleed:
                # A microphone that hears the whole kit is still drums, but no longer one piece of it; elsewhere
                # the bleeding is of another stem.
                if stem.name != "drums":
                    continue
                label, synonyms = "drums", []
            yield stem_row(
                source, folder / stem.name / f"{track.id}.{track.extension}", folder.name, label,
                TABLES["moisesdb"]["licence"], drawn_split(song.artist or folder.name), synonyms, stem.name,
                stem.name if stem.name in ("drums", "bass", "vocals") else "other",
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
    for path in sorted([*source.glob("*/metadata.yaml"), *source.glob("*/*/metadata.yaml")]):
        track, metadata = path.parent, _described(path, _yaml, _SlakhTrack, "a track of Slakh2100")
        number = int("".join(filter(str.isdigit, track.name)) or 0)
        by_number: Split = "train" if number <= SLAKH_LAST_TRAIN else "valid" if number <= SLAKH_LAST_VALID else "test"
        split = by_number if track.parent == source else SLAKH_SPLITS.get(track.parent.name)
        for name, stem in metadata.stems.items():
            # Some conversions of the data set hold wav. A few stems were never rendered.
            files = (
                track / Path(metadata.audio_dir).name / f"{Path(name).name}{suffix}" for suffix in (".flac", ".wav")
            )
            file = next((file for file in files if file.exists()), None)
            if split is not None and stem.audio_rendered and file is not None:
                label = slakh_label(stem.program_num, stem.inst_class, stem.is_drum)
                yield stem_row(source, file, track.name, label, TABLES["slakh"]["licence"], split)


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
        raise DatasetError("Slakh2100's metadata needs PyYAML: pip install 'unisep-train[slakh]'.") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _described(path: Path, parse: Callable[[str], Any], kind: type[Any], what: str) -> Any:
    """Read the description of a song, checked by its model `kind`. Raises DatasetError when it is none."""
    try:
        return kind.model_validate(parse(path.read_text(encoding="utf-8")))
    except DatasetError:
        raise
    except (OSError, ValueError, ValidationError) as error:
        raise DatasetError(f"{path} does not describe {what}: {error}") from error


# What lies in a folder of each layout, and what reads it; the first that fits is taken.
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterable[ManifestRow]]]] = {
    "manifest": ((MANIFEST,), lambda source: read_manifest(source, ManifestRow)),
    "musdb": (tuple(f"{split}/*/{stem}.wav" for split in ("train", "test") for stem in FOUR_STEMS), _musdb),
    "moisesdb": (("*/data.json", "*/*/data.json"), _moisesdb),
    "slakh": (("*/metadata.yaml", "*/*/metadata.yaml"), _slakh),
    "plain": (tuple(f"*/*.{suffix}" for suffix in TABLES["plain"]["suffixes"]), _plain),
}
