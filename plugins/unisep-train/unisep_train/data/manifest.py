"""Manifests: one row for each sound of a folder, read from `manifest.jsonl` or made by a layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisep.errors import reasons
from unisep_train.data.store import StoreError

MANIFEST = "manifest.jsonl"
Split = Literal["train", "valid", "test"]


class ManifestRow(BaseModel):
    """One line of a manifest; further keys are allowed and ignored.

    split: where the data set itself puts the sound; without it, the builder's rule decides.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str = Field(min_length=1)
    label: str = Field(min_length=1)
    kind: str = "solo"
    song: str | None = None
    stem: str | None = None
    synonyms: tuple[str, ...] = ()
    family: str = "other"
    four_stem: str = "none"
    licence: str = "not stated"
    repo: str = ""
    source_rate: int = 44100
    split: Split | None = None


def read_manifest(source: Path) -> Iterator[ManifestRow]:
    """The rows of `SOURCE/manifest.jsonl`, each checked; a path may not leave the folder."""
    path = source / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}). SOURCE needs a manifest.jsonl.") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = ManifestRow.model_validate(json.loads(line))
        except ValidationError as error:
            raise StoreError(f"{path}, line {number}: {reasons(error)}.") from error
        except ValueError as error:
            raise StoreError(f"{path}, line {number}: {error}") from error
        if not (source / row.path).resolve().is_relative_to(source.resolve()):
            raise StoreError(f"{path}, line {number}: {row.path!r} lies outside {source}.")
        if row.path in seen:
            raise StoreError(f"{path}, line {number}: {row.path!r} stands in line {seen[row.path]} already.")
        seen[row.path] = number
        yield row
