"""MoisesDB: songs with a `data.json` that lists stems, and in each the tracks it is the sum of.

A song lies in `<provider>/<song>`, its tracks in `<stem>/<track id>.<extension>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisep_train.data.layouts import TABLES, drawn_split, stem_row
from unisep_train.data.manifest import ManifestRow
from unisep_train.data.store import StoreError

FACTS = TABLES["moisesdb"]
FOUR_STEMS = frozenset({"drums", "bass", "vocals"})


class Track(BaseModel):
    """One recorded track. Its id is the name of its file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(pattern=r"^[\w.-]+$")
    type: str = Field(alias="trackType")
    extension: str = Field("wav", pattern=r"^\w+$")
    has_bleed: bool = False


class Stem(BaseModel):
    """A stem: tracks of one family."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(alias="stemName", pattern=r"^\w+$")
    tracks: tuple[Track, ...] = ()


class Song(BaseModel):
    """What `data.json` says of a song."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    artist: str = ""
    title: str = Field("", alias="song")
    stems: tuple[Stem, ...]


def rows(source: Path) -> Iterator[ManifestRow]:
    """The rows of a MoisesDB folder. All songs of an artist are in the same split."""
    for path in sorted([*source.glob("*/data.json"), *source.glob("*/*/data.json")]):
        song = _song(path)
        for stem in song.stems:
            for track in stem.tracks:
                yield from _rows_of(source, path.parent, song, stem, track)


def _song(path: Path) -> Song:
    try:
        return Song.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(f"{path} does not describe a song of MoisesDB: {error}") from error


def _rows_of(source: Path, folder: Path, song: Song, stem: Stem, track: Track) -> Iterator[ManifestRow]:
    label, *synonyms = labels_of(stem.name, track.type)
    if track.has_bleed:
        # A microphone that hears the whole kit is still drums, but no longer one piece of it; elsewhere
        # the bleeding is of another stem.
        if stem.name != "drums":
            return
        label, synonyms = "drums", []
    yield stem_row(
        source, folder / stem.name / f"{track.id}.{track.extension}", folder.name, label, FACTS["licence"],
        drawn_split(song.artist or folder.name),
        synonyms=tuple(synonyms), four_stem=stem.name if stem.name in FOUR_STEMS else "other", stem=stem.name,
    )  # fmt: skip


def labels_of(stem: str, track_type: str) -> list[str]:
    """The label and synonyms of a track: those of the longest known beginning of its type, else of its stem.

    >>> labels_of("bass", "contrabass/double_bass_(bass_of_instrings)")
    ['double bass']
    >>> labels_of("guitar", "something_new")
    ['guitar']
    """
    words = re.sub(r"[\W_]+", "_", track_type.lower()).strip("_").split("_")
    for n_words in range(len(words), 0, -1):
        found = FACTS["tracks"].get("_".join(words[:n_words]))
        if found:
            return list(found)
    return [FACTS["stems"].get(stem, "other")]
