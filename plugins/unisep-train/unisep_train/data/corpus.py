"""Build a part of a training store from a folder of sounds with a manifest, or from a published data set.

    python -m unisep_train.data.corpus SOURCE STORE --rate 44100
    python -m unisep_train.data.corpus MUSDB18-HQ STORE --part musdb          # see layouts.py
    python -m unisep_train.data.corpus MOISESDB STORE --part moisesdb --curated verdicts.json

SOURCE holds `manifest.jsonl`, one JSON object a sound: path, label, and as far as known kind, song, stem,
synonyms, family, four_stem, licence, repo, source_rate and split; or it is in a layout of `layouts.py`.
Sounds are decoded, resampled once and written as int16. An interrupted build continues where it stopped; a
finished one is not touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unisep_train.data import layouts
from unisep_train.data.manifest import ManifestRow
from unisep_train.data.part_writer import PartWriter
from unisep_train.data.store import StoreError

log = logging.getLogger(__name__)

HASHED_KINDS = frozenset({"solo", "voice", "universal"})


@dataclass(frozen=True)
class SplitRule:
    """Which sounds are held out: as their data set says, else whole songs by name and single files by md5 of path.

    Sounds of `excluded_repos` are kept out of training and validation: the shipped demo is made of them.
    So are paths with `excluded_prefixes`: the same recordings, found again in another collection.
    """

    valid_songs: frozenset[str] = frozenset({"eif-sodium", "lmms-capdan-reggaetry", "lmms-oglsdl-pptrip"})
    valid_digits: frozenset[str] = frozenset("01")
    excluded_repos: frozenset[str] = frozenset({"sonic-pi-net/sonic-pi"})
    excluded_prefixes: tuple[str, ...] = ("notes/mer-tabla-",)

    def split(self, row: ManifestRow) -> str:
        """train, valid, test or excluded."""
        if row.repo in self.excluded_repos or row.path.startswith(self.excluded_prefixes):
            return "excluded"
        if row.split:
            return row.split
        if row.song:
            return "valid" if row.song in self.valid_songs else "train"
        digit = hashlib.md5(row.path.encode(), usedforsecurity=False).hexdigest()[-1]
        return "valid" if row.kind in HASHED_KINDS and digit in self.valid_digits else "train"


def decode(path: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    """The file's samples `[samples, channels]` at `sample_rate_hz`, one or two channels."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise StoreError(f"{path} cannot be decoded ({error}). Repair it or take it off the manifest.") from error
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
    layout: str = "auto",
    songs: frozenset[str] | None = None,
) -> int:
    """The number of sounds written by this run into `STORE/<part>`; earlier ones are kept.

    songs: the only songs to take, such as those a curation kept. What is for testing is never written.
    """
    rule = rule or SplitRule()
    offered = layouts.rows(source, layout)
    rows = [row for row in offered if rule.split(row) != "test" and _wanted(row, songs)]
    log.info("%d of %d sounds are for training or validation", len(rows), len(offered))
    if not rows:
        raise StoreError(f"No sound of {source} is for training or validation.")
    with PartWriter(store, part, sample_rate_hz, f"{source.resolve()} ({layout})") as writer:
        gone = writer.done - {row.path for row in rows}
        if gone:
            raise StoreError(
                f"{writer.folder} holds {len(gone)} sounds that {source} no longer offers, such as {min(gone)!r}. Delete "
                "that folder to build it again."
            )
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


def _wanted(row: ManifestRow, songs: frozenset[str] | None) -> bool:
    return songs is None or row.song is None or row.song in songs


def curated_songs(path: Path) -> frozenset[str]:
    """The songs that a curation kept, from the JSON that `unisep_train.data.curate` writes."""
    try:
        return frozenset(song["song"] for song in json.loads(path.read_text())["songs"] if song["kept"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} holds no verdicts of unisep_train.data.curate ({error}).") from error


def main(arguments: Iterable[str] | None = None) -> int:
    """Exit status of `python -m unisep_train.data.corpus`."""
    parser = argparse.ArgumentParser(
        prog="unisep_train.data.corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with manifest.jsonl, or a published data set")
    parser.add_argument("store", type=Path, help="folder of the training store")
    parser.add_argument("--rate", type=int, default=44100, help="sample rate of the store in Hz")
    parser.add_argument("--part", default="corpus", help="name of the part inside the store")
    parser.add_argument(
        "--layout", choices=["auto", *layouts.names()], default="auto", help="what kind of folder it is (%(default)s)"
    )
    parser.add_argument("--curated", type=Path, metavar="JSON", help="take only the songs that a curation kept")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        songs = None if options.curated is None else curated_songs(options.curated)
        n_written = build(
            options.source, options.store, options.rate, part=options.part, layout=options.layout, songs=songs
        )
    except StoreError as error:
        log.error("%s", error)
        return 1
    log.info("%d new sounds in %s", n_written, options.store / options.part)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
