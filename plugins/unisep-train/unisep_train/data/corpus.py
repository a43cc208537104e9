"""Build a part of a training store from a folder of sounds with a manifest, or from a published data set.

    python -m unisep_train corpus SOURCE STORE --rate 44100
    python -m unisep_train corpus MOISESDB STORE --part moisesdb --curated verdicts.json

SOURCE is in a layout of `unisep_evaluate.layouts`. Sounds are decoded, resampled once and written as int16. An interrupted
build continues where it stopped; a finished one is not touched.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from unisep_evaluate import layouts
from unisep_evaluate.datasets import md5_digit
from unisep_evaluate.layouts import Layout, ManifestRow

from unisep.errors import DatasetError
from unisep_train.data.store import PartWriter

log = logging.getLogger(__name__)

# Held out where the data set does not say: these songs, and single sounds by the md5 of their path.
VALID_SONGS = frozenset({"eif-sodium", "lmms-capdan-reggaetry", "lmms-oglsdl-pptrip"})
HASHED_KINDS = frozenset({"solo", "voice", "universal"})
VALID_DIGITS = "01"
# Kept out of training and validation: what the shipped demo is made of, and the same recordings found elsewhere.
EXCLUDED_REPOS = frozenset({"sonic-pi-net/sonic-pi"})
EXCLUDED_PREFIXES = ("notes/mer-tabla-",)


def split_of(row: ManifestRow) -> str:
    """Return train, valid, test or excluded."""
    if row.repo in EXCLUDED_REPOS or row.path.startswith(EXCLUDED_PREFIXES):
        return "excluded"
    if row.split:
        return row.split
    if row.song:
        return "valid" if row.song in VALID_SONGS else "train"
    return "valid" if row.kind in HASHED_KINDS and md5_digit(row.path) in VALID_DIGITS else "train"


def decode(path: Path, sample_rate_hz: int, mono: bool = False) -> NDArray[np.float32]:
    """Return the file's samples at `sample_rate_hz`: `[samples, 1 or 2]`, or their mean `[samples]` over channels.

    Raises:
        DatasetError: the file cannot be decoded, or is empty.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DatasetError(f"{path} cannot be decoded ({error}). Repair it or take it off the manifest.") from error
    if not len(samples):
        raise DatasetError(f"{path} holds no samples. Take it off the manifest.")
    samples = samples.mean(1) if mono else samples[:, :2]
    if rate_hz != sample_rate_hz:
        samples = soxr.resample(samples, rate_hz, sample_rate_hz, quality="HQ")
    return samples.astype(np.float32, copy=False)


def build(
    source: Path, store: Path, *, rate_hz: int = 44100, part: str = "corpus", layout: Layout = "auto",
    curated: Path | None = None,
) -> int:  # fmt: skip
    """Write the sounds of a folder into a part of a store, but for those that an earlier call wrote; return their number.

    What is for testing is never written.

    Args:
        source: folder with manifest.jsonl, or a published data set.
        store: folder of the training store.
        rate_hz: sample rate of the store in Hz.
        part: name of the part inside the store.
        layout: what kind of folder the source is.
        curated: verdicts (JSON) of `curate`: take only the songs that it kept.

    Raises:
        DatasetError: nothing is to be written, or the source or the part cannot be used.
    """
    listed = layouts.rows(source, layout)
    rows = [row for row in listed if split_of(row) != "test"]
    if curated is not None:
        songs = curated_songs(curated)
        rows = [row for row in rows if row.song is None or row.song in songs]
    log.info("%d of %d sounds are for training or validation", len(rows), len(listed))
    if not rows:
        raise DatasetError(f"No sound of {source} is for training or validation.")
    with PartWriter(store, part, rate_hz, f"{source.resolve()} ({layout})") as writer:
        gone = writer.done - {row.path for row in rows}
        if gone:
            raise DatasetError(
                f"{writer.folder} holds {len(gone)} sounds that {source} no longer offers, such as {min(gone)!r}. Delete "
                "that folder to build it again."
            )
        todo = [row for row in rows if row.path not in writer.done]
        for count, row in enumerate(todo, start=1):
            writer.add(
                decode(source / row.path, rate_hz), id=row.path, kind=row.kind, song=row.song or "",
                stem=row.stem or "", label=row.label.lower(), synonyms=tuple(name.lower() for name in row.synonyms),
                family=row.family, four_stem=row.four_stem, split=split_of(row), licence=row.licence,
                source_rate_hz=row.source_rate or soundfile.info(source / row.path).samplerate,
            )  # fmt: skip
            if count % 250 == 0:
                log.info("%d of %d sounds", count, len(todo))
    log.info("%d new sounds in %s", len(todo), store / part)
    return len(todo)


def curated_songs(path: Path) -> frozenset[str]:
    """Read the songs that a curation kept, from the JSON that `curate` writes."""
    try:
        return frozenset(song["song"] for song in json.loads(path.read_text())["songs"] if song["kept"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} holds no verdicts of `unisep_train curate` ({error}).") from error
