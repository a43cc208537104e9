"""Judges the stems of a folder of songs with a separator, and prints the matrix and verdict of each.

    python -m unisep_train.data.curate FOLDER --backend htdemucs
    python -m unisep_train.data.curate FOLDER --backend htdemucs --json verdicts.json

FOLDER is in any layout of `layouts.py`; stems of one source are summed first. Any backend with fixed stems will do.
`python -m unisep_train.data.corpus FOLDER STORE --curated verdicts.json` then takes the songs that were kept.
The rule is explained in `curation.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unisep import Audio, Separator
from unisep.errors import UnisepError
from unisep_train.data import curation, labels, layouts
from unisep_train.data.corpus import decode
from unisep_train.data.curation import Counts, Sound, Verdict
from unisep_train.data.manifest import ManifestRow
from unisep_train.data.store import StoreError

log = logging.getLogger(__name__)
PROBE_SECONDS = 1.0


def sources_of(separator: Separator, sample_rate_hz: int) -> tuple[str, ...]:
    """The names of the stems that the separator's backend gives, from a second of quiet noise."""
    noise = np.random.default_rng(0).standard_normal((2, round(PROBE_SECONDS * sample_rate_hz)))
    return tuple(separator.separate(Audio(np.float32(0.01 * noise), sample_rate_hz)))


def source_of(row: ManifestRow, sources: Sequence[str]) -> str | None:
    """Which of a backend's sources the sound should come out as; None when none can hold it."""
    own = labels.tags(row.label, row.synonyms, row.four_stem)
    named = [name for name in (row.label, row.stem or "") if name in sources]
    narrower = [name for name in sources if name in own and name not in labels.MIXED]
    # "guitar" before "other", where a backend has both
    return next((name for name in (*named, *narrower, row.four_stem, "other") if name in sources), None)


def songs_of(rows: Iterable[ManifestRow]) -> dict[str, list[ManifestRow]]:
    """The rows of songs, by song."""
    songs: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.song:
            songs[row.song].append(row)
    return dict(songs)


def summed(source: Path, rows: Sequence[ManifestRow], sample_rate_hz: int) -> Sound:
    """The sum `[2, samples]` of the rows' sounds; shorter ones end in silence."""
    sounds = [decode(source / row.path, sample_rate_hz) for row in rows]
    out = np.zeros((2, max(map(len, sounds))), dtype=np.float32)
    for sound in sounds:
        out[:, : len(sound)] += sound.T
    return out


def count_song(
    folder: Path, rows: Sequence[ManifestRow], separator: Separator, sources: Sequence[str], sample_rate_hz: int
) -> Counts:
    """What the separator makes of each stem of a song by itself."""
    stems: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        name = source_of(row, sources)
        if name is not None:
            stems[name].append(row)
    counted = {}
    for name, parts in stems.items():
        stem = summed(folder, parts, sample_rate_hz)
        outputs = separator.separate(Audio(stem, sample_rate_hz))
        counted[name] = curation.count_row(stem, [outputs[s].samples for s in sources], sample_rate_hz)
    return curation.counts_of(sources, counted)


def curate(
    folder: Path, separator: Separator, layout: str = "auto", sample_rate_hz: int = 44100
) -> tuple[list[Verdict], dict[str, str]]:
    """The verdicts on all songs of a folder, and what went wrong with songs that could not be judged."""
    songs = songs_of(layouts.rows(folder, layout))
    if not songs:
        raise StoreError(f"{folder} holds no songs, only single sounds. Curation compares the stems of songs.")
    sources = sources_of(separator, sample_rate_hz)
    verdicts, failed = [], {}
    for number, (song, rows) in enumerate(songs.items(), start=1):
        log.info("%d of %d: %s", number, len(songs), song)
        try:
            verdicts.append(curation.judge(song, count_song(folder, rows, separator, sources, sample_rate_hz)))
        except UnisepError as error:
            failed[song] = str(error)
    return verdicts, failed


def report(verdicts: Sequence[Verdict], failed: Mapping[str, str], backend: str) -> dict[str, Any]:
    """All that was found, as plain values."""
    out: dict[str, Any] = {
        "backend": backend,
        "rule": asdict(curation.PUBLISHED),
        "n_songs": len(verdicts) + len(failed),
        "n_kept": sum(verdict.kept for verdict in verdicts),
        "songs": [curation.to_json(verdict) for verdict in verdicts],
        "failed": dict(failed),
    }
    if verdicts:
        out["overall"] = curation.matrix_json(curation.total([verdict.counts for verdict in verdicts]))
    return out


def text(verdicts: Sequence[Verdict], failed: Mapping[str, str]) -> str:
    """The matrices and verdicts as a person reads them."""
    parts = []
    for verdict in verdicts:
        guesses = [f"{a} sounds like {b}" for a, b in curation.looks_like(verdict.counts).items()]
        said = "kept" if verdict.kept else "left out: " + "; ".join([*verdict.reasons, *guesses])
        parts.append(f"{verdict.song}\n{curation.table(verdict.counts)}\n{said}\n")
    parts += [f"{song}\nnot judged: {error}\n" for song, error in failed.items()]
    if verdicts:
        n_kept, n = sum(verdict.kept for verdict in verdicts), len(verdicts) + len(failed)
        overall = curation.table(curation.total([verdict.counts for verdict in verdicts]))
        parts.append(f"all songs\n{overall}\n{n_kept} of {n} songs kept\n")
    return "\n".join(parts)


def main(arguments: Iterable[str] | None = None) -> int:
    """Exit status of `python -m unisep_train.data.curate`: 1 when a song could not be judged."""
    parser = argparse.ArgumentParser(
        prog="unisep_train.data.curate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="songs in any layout that the corpus builder takes")
    parser.add_argument("--backend", default="htdemucs", help="a backend with fixed stems")
    parser.add_argument("--weights", type=Path, help="a local file or folder of its weights")
    parser.add_argument("--layout", choices=["auto", *layouts.names()], default="auto")
    parser.add_argument("--rate", type=int, default=44100, help="sample rate in Hz at which stems are compared")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", metavar="FILE", help="write the verdicts as JSON too; - prints only JSON")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with Separator(options.backend, weights=options.weights, device=options.device) as separator:
            verdicts, failed = curate(options.folder, separator, options.layout, options.rate)
    except UnisepError as error:
        log.error("%s", error)
        return 1
    found = json.dumps(report(verdicts, failed, options.backend), indent=1)
    print(found if options.json == "-" else text(verdicts, failed))
    if options.json not in (None, "-"):
        Path(options.json).write_text(found + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
