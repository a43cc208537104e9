"""Slakh2100: tracks rendered from MIDI, with a `metadata.yaml` that says which program played each stem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unisep_train.data.layouts import TABLES, stem_row
from unisep_train.data.manifest import ManifestRow, Split
from unisep_train.data.store import StoreError

FACTS = TABLES["slakh"]
SPLITS: dict[str, Split] = {"train": "train", "validation": "valid", "test": "test"}
# The tracks of each split where they are not in folders of their own.
LAST_TRAIN, LAST_VALID = 1500, 1875


class Source(BaseModel):
    """One entry of `stems` in the metadata."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    inst_class: str = ""
    is_drum: bool = False
    plugin_name: str | None = None
    program_num: int | None = None
    audio_rendered: bool = True


class Metadata(BaseModel):
    """What this module needs of `metadata.yaml`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    audio_dir: str = "stems"
    stems: dict[str, Source]


def rows(source: Path) -> Iterator[ManifestRow]:
    """The rows of a Slakh2100 folder; tracks that its authors left out as duplicates (`omitted`) stay out."""
    for path in sorted([*source.glob("*/metadata.yaml"), *source.glob("*/*/metadata.yaml")]):
        track = path.parent
        split = _split(source, track)
        metadata = _metadata(path)
        for name, stem in metadata.stems.items():
            file = _file(track / Path(metadata.audio_dir).name, Path(name).name)
            if split is None or not stem.audio_rendered or file is None:
                continue
            yield stem_row(source, file, track.name, label_of(stem), FACTS["licence"], split)


def label_of(stem: Source) -> str:
    """What plays the stem: by its program, else by the class of instruments it is of.

    >>> label_of(Source(program_num=30)), label_of(Source(inst_class="Pipe")), label_of(Source(is_drum=True))
    ('distorted guitar', 'woodwind', 'drums')
    """
    if stem.is_drum or stem.inst_class.lower() == "drums":
        return "drums"
    if stem.program_num is not None:
        for first, last, label in FACTS["programs"]:
            if first <= stem.program_num <= last:
                return str(label)
    return str(FACTS["classes"].get(stem.inst_class.lower(), "other"))


def _split(source: Path, track: Path) -> Split | None:
    if track.parent != source:
        return SPLITS.get(track.parent.name)
    number = int("".join(c for c in track.name if c.isdigit()) or 0)
    return "train" if number <= LAST_TRAIN else "valid" if number <= LAST_VALID else "test"


def _file(folder: Path, name: str) -> Path | None:
    """The stem's sound, which some conversions of the data set hold as wav. A few were never rendered."""
    return next((path for path in (folder / f"{name}.flac", folder / f"{name}.wav") if path.exists()), None)


def _metadata(path: Path) -> Metadata:
    try:
        return Metadata.model_validate(_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(f"{path} does not describe a track of Slakh2100: {error}") from error


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise StoreError("Slakh2100's metadata needs PyYAML: pip install 'unisep-film[training]'.") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error
