"""Data sets as they are published, read as manifests: MUSDB18-HQ, MoisesDB, Slakh2100, and folders of stems.

| layout     | what lies in the folder                                                                   |
|------------|-------------------------------------------------------------------------------------------|
| `manifest` | `manifest.jsonl`                                                                          |
| `musdb`    | `train` and `test`, each with folders of songs: `drums.wav`, `bass.wav`, `other.wav`, `vocals.wav` |
| `moisesdb` | folders of songs, perhaps one level down, with `data.json` and `<stem>/<track>.wav`       |
| `slakh`    | `Track00001` and so on, perhaps under `train`, with `metadata.yaml` and `stems/S00.flac`  |
| `plain`    | folders of songs with any stems: `song/lead vocal.wav`                                    |

Labels become those of the vocabulary; a sum of stems (`mixture.wav`) is left off. What a data set keeps for testing
is marked so and never enters a store. Where it does not say what is for validation, whole artists or songs are drawn
by the md5 of their names.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import soundfile

from unisep_train.data import labels
from unisep_train.data.manifest import MANIFEST, ManifestRow, Split, read_manifest
from unisep_train.data.store import StoreError

TABLES: dict[str, Any] = tomllib.loads(
    resources.files(__package__).joinpath("layouts.toml").read_text(encoding="utf-8")
)
FOUR = ("drums", "bass", "other", "vocals")
FAMILIES = {"drums": "drums", "percussion": "percussion", "bass": "bass", "vocals": "vocals", "guitar": "guitar",
            "keyboard": "keys", "strings": "strings", "brass": "brass", "woodwind": "woodwind",
            "synthesizer": "synth", "sound effect": "fx"}  # fmt: skip
VALID_DIGITS = "0"


def rows(source: Path, layout: str = "auto") -> list[ManifestRow]:
    """The manifest of a folder in any layout.

    Raises StoreError when the folder is in no known layout, or a file it speaks of is missing or unreadable.
    """
    name = detect(source) if layout == "auto" else layout
    found = list(_reader(name)(source))
    if not found:
        raise StoreError(f"{source} holds no stems in the layout {name!r}. {_known()}")
    return found


def detect(source: Path) -> str:
    """The layout of a folder, by what lies in it. Raises StoreError when it is none."""
    if not source.is_dir():
        raise StoreError(f"There is no folder {source}.")
    signs = {
        "manifest": (MANIFEST,),
        "musdb": tuple(f"{split}/*/{stem}.wav" for split in ("train", "test") for stem in FOUR),
        "moisesdb": ("*/data.json", "*/*/data.json"),
        "slakh": ("*/metadata.yaml", "*/*/metadata.yaml"),
        "plain": tuple(f"*/*.{suffix}" for suffix in TABLES["plain"]["suffixes"]),
    }
    for layout, patterns in signs.items():
        if any(next(source.glob(pattern), None) is not None for pattern in patterns):
            return layout
    raise StoreError(f"{source} is in no layout known here. {_known()}")


def names() -> tuple[str, ...]:
    """The layouts by name."""
    return ("manifest", "musdb", "moisesdb", "slakh", "plain")


def _known() -> str:
    return f"Known layouts: {', '.join(names())}; or write a {MANIFEST}."


def _reader(layout: str) -> Callable[[Path], Iterator[ManifestRow]]:
    from unisep_train.data import moisesdb, slakh  # they use this module

    readers = {"manifest": read_manifest, "musdb": musdb_rows, "moisesdb": moisesdb.rows, "slakh": slakh.rows,
               "plain": plain_rows}  # fmt: skip
    if layout not in readers:
        raise StoreError(f"There is no layout {layout!r}. {_known()}")
    return readers[layout]


def stem_row(source: Path, path: Path, song: str, label: str, licence: str, split: Split, **more: Any) -> ManifestRow:
    """The row of one stem, with family and role among the four stems from its label unless given."""
    try:
        rate_hz = soundfile.info(str(path)).samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}). Fetch the data set again, or leave this song out."
        ) from error
    own = labels.tags(label)
    facts = {"family": next((family for tag, family in FAMILIES.items() if tag in own), "other"),
             "four_stem": labels.four_stem(label), "stem": path.stem}  # fmt: skip
    return ManifestRow(
        path=path.relative_to(source).as_posix(), label=label, kind="song", song=song, licence=licence,
        source_rate=rate_hz, split=split, **(facts | more),
    )  # fmt: skip


def drawn_split(name: str) -> Split:
    """One name in 16 is for validation, by the md5 of the name: the same on every machine."""
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    return "valid" if digest[-1] in VALID_DIGITS else "train"


def musdb_rows(source: Path) -> Iterator[ManifestRow]:
    """The rows of a MUSDB18-HQ folder: its test songs for testing, its 14 validation songs for validation."""
    facts = TABLES["musdb"]
    for folder in sorted(path for path in source.glob("t*/*") if path.parent.name in ("train", "test")):
        split: Split = "test" if folder.parent.name == "test" else "valid" if folder.name in facts["valid"] else "train"
        for stem in FOUR:
            if (folder / f"{stem}.wav").exists():
                yield stem_row(source, folder / f"{stem}.wav", folder.name, stem, facts["licence"], split)


def plain_rows(source: Path) -> Iterator[ManifestRow]:
    """The rows of folders of stems: the folder is the song, the file's name the label."""
    facts = TABLES["plain"]
    for path in sorted(source.glob("*/*")):
        if path.suffix.lower().removeprefix(".") not in facts["suffixes"]:
            continue
        label = labels.recognised(path.stem)
        if label not in facts["sums"]:
            song = path.parent.name
            yield stem_row(source, path, song, label, "not stated", drawn_split(song))
