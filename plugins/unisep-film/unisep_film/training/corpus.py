"""Build the `corpus` part of a training store from a folder of sounds with a manifest.

    python -m unisep_film.training.corpus SOURCE STORE --rate 44100

SOURCE holds `manifest.jsonl`, one JSON object a sound: path, label, and as far as known kind, song, stem,
synonyms, family, four_stem, licence, repo and source_rate. Sounds are decoded, resampled once and written as int16.
An interrupted build continues where it stopped; a finished one is not touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisep_film.training.store import PartWriter, StoreError

log = logging.getLogger(__name__)

HASHED_KINDS = frozenset({"solo", "voice", "universal"})


class ManifestRow(BaseModel):
    """One line of a manifest; further keys are allowed and ignored."""

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


@dataclass(frozen=True)
class SplitRule:
    """Which sounds are held out: whole songs by name, single files by the md5 of their path.

    Sounds of `excluded_repos` are kept out of training and validation: the shipped demo is made of them.
    So are paths with `excluded_prefixes`: the same recordings, found again in another collection.
    """

    valid_songs: frozenset[str] = frozenset({"eif-sodium", "lmms-capdan-reggaetry", "lmms-oglsdl-pptrip"})
    valid_digits: frozenset[str] = frozenset("01")
    excluded_repos: frozenset[str] = frozenset({"sonic-pi-net/sonic-pi"})
    excluded_prefixes: tuple[str, ...] = ("notes/mer-tabla-",)

    def split(self, row: ManifestRow) -> str:
        """train, valid or excluded."""
        if row.repo in self.excluded_repos or row.path.startswith(self.excluded_prefixes):
            return "excluded"
        if row.song:
            return "valid" if row.song in self.valid_songs else "train"
        digit = hashlib.md5(row.path.encode(), usedforsecurity=False).hexdigest()[-1]
        return "valid" if row.kind in HASHED_KINDS and digit in self.valid_digits else "train"


def read_manifest(source: Path) -> Iterator[ManifestRow]:
    """The rows of `SOURCE/manifest.jsonl`, each checked; a path may not leave the folder."""
    path = source / "manifest.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}). SOURCE needs a manifest.jsonl."
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = ManifestRow.model_validate(json.loads(line))
        except (ValidationError, ValueError) as error:
            raise StoreError(f"{path}, line {number}: {error}") from error
        if not (source / row.path).resolve().is_relative_to(source.resolve()):
            raise StoreError(f"{path}, line {number}: {row.path!r} lies outside {source}.")
        yield row


def decode(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """The file's samples `[samples, channels]` at `sample_rate_hz`, one or two channels."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise StoreError(
            f"{path} cannot be decoded ({error}). Repair it or take it off the manifest."
        ) from error
    if not len(samples):
        raise StoreError(f"{path} holds no samples. Take it off the manifest.")
    samples = samples[:, :2]
    if rate != sample_rate_hz:
        samples = soxr.resample(samples, rate, sample_rate_hz, quality="HQ")
    return samples.astype(np.float32, copy=False)


def build(
    source: Path,
    store: Path,
    sample_rate_hz: int = 44100,
    rule: SplitRule | None = None,
    part: str = "corpus",
) -> int:
    """The number of sounds written by this run into `STORE/<part>`; earlier ones are kept."""
    rule = rule or SplitRule()
    rows = list(read_manifest(source))
    with PartWriter(store, part, sample_rate_hz) as writer:
        todo = [row for row in rows if row.path not in writer.done]
        for count, row in enumerate(todo, start=1):
            writer.add(
                decode(source / row.path, sample_rate_hz),
                id=row.path, kind=row.kind, song=row.song or "", stem=row.stem or "", label=row.label.lower(),
                synonyms=tuple(s.lower() for s in row.synonyms), family=row.family, four_stem=row.four_stem,
                split=rule.split(row), licence=row.licence, source_rate_hz=row.source_rate,
            )  # fmt: skip
            if count % 250 == 0:
                log.info("%d of %d sounds", count, len(todo))
    return len(todo)


def main(arguments: Iterable[str] | None = None) -> int:
    """Exit status of `python -m unisep_film.training.corpus`."""
    parser = argparse.ArgumentParser(
        prog="unisep_film.training.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="folder with manifest.jsonl")
    parser.add_argument("store", type=Path, help="folder of the training store")
    parser.add_argument("--rate", type=int, default=44100, help="sample rate of the store in Hz")
    parser.add_argument("--part", default="corpus", help="name of the part inside the store")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        n_written = build(options.source, options.store, options.rate, part=options.part)
    except StoreError as error:
        log.error("%s", error)
        return 1
    log.info("%d sounds written to %s", n_written, options.store / options.part)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
