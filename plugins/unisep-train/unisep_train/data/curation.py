"""Judge the stems of a folder of songs with a separator: are they what their names say?

    python -m unisep_train curate FOLDER --backend htdemucs --json verdicts.json
    python -m unisep_train corpus FOLDER STORE --curated verdicts.json

The rule of Rouard et al. 2022 (arXiv:2211.08553), section 4.1: P[i, j] is the share of the one-second segments in which
stem i sounds and output j, of a separator that is given stem i alone, comes within 10 dB of it (or exceeds it). FOLDER is
in any layout; stems of one source are summed first. Any backend with fixed stems will do.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from unisep_evaluate import layouts, vocabulary
from unisep_evaluate.layouts import Layout, ManifestRow

from unisep import Audio, Separator
from unisep.errors import DatasetError, UnisepError
from unisep_train.data.corpus import decode

log = logging.getLogger(__name__)
PROBE_SECONDS = 1.0
Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Rule:
    """The numbers of the rule, as published. Shares are of segments, levels in dB (full scale is 0)."""

    segment_seconds: float = 1.0
    silent_below_db: float = -40.0
    within_db: float = 10.0
    min_sounding_share: float = 0.3
    min_own_share: float = 0.7
    max_other_share: float = 0.3


RULE = Rule()


@dataclass(frozen=True)
class Judgement:
    """The counts of one song, and what follows from them; rows and columns are as `sources`.

    Attributes:
        counts: `[i, 2 + j]`: segments of stem i, those in which it sounds, and those of the latter in which output j comes
            near it; zeros for a stem that is not there.
    """

    song: str
    sources: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """P `[i, j]`; the row of a stem that never sounds is not a number."""
        with np.errstate(invalid="ignore"):
            return self.counts[:, 2:] / self.counts[:, 1:2]

    @property
    def sounding_share(self) -> NDArray[np.float64]:
        """`[i]`: in which share of its segments stem i sounds; 0 for a stem that is not there."""
        return self.counts[:, 1] / np.maximum(self.counts[:, 0], 1)

    @property
    def reasons(self) -> list[str]:
        """Why the song is left out, a reason for every number that breaks the rule; none when it is kept."""
        shares = zip(self.sources, self.sounding_share, strict=True)
        least = RULE.min_sounding_share
        reasons = [
            f"{s} sounds in {share:.0%} of the segments, {least:.0%} are needed" for s, share in shares if share < least
        ]
        for source, row in zip(self.sources, self.matrix, strict=True):
            for other, share in zip(self.sources, row, strict=True):
                if source == other and share <= RULE.min_own_share:
                    reasons.append(f"{source} comes out as {source} in only {share:.0%}")
                elif source != other and share >= RULE.max_other_share:
                    reasons.append(f"{source} comes out as {other} in {share:.0%}")
        return reasons

    def shares(self) -> dict[str, Any]:
        """Return the matrix by name: stem -> output -> share (None for a silent stem), and how much each stem sounds."""

        def named(values: NDArray[np.float64]) -> dict[str, float]:
            return dict(zip(self.sources, np.round(values, 4).tolist(), strict=True))

        rows = zip(self.sources, self.matrix, strict=True)
        matrix = {source: None if np.isnan(row).any() else named(row) for source, row in rows}
        return {"matrix": matrix, "sounding_share": named(self.sounding_share)}

    def table(self) -> str:
        """Return the matrix as text: a row a stem, a column an output, in percent.

        >>> print(Judgement("song", ("low", "high"), np.array([[10, 8, 8, 2], [0, 0, 0, 0]])).table())
                     low    high  sounds
        low         100%     25%     80%
        high           -       -      0%
        """
        width = max(8, *(len(source) + 2 for source in self.sources))
        lines = ["".rjust(width) + "".join(name.rjust(width) for name in (*self.sources, "sounds"))]
        for source, row, share in zip(self.sources, self.matrix, self.sounding_share, strict=True):
            cells = ["-" if np.isnan(value) else f"{value:.0%}" for value in row]
            lines.append(source.ljust(width) + "".join(cell.rjust(width) for cell in (*cells, f"{share:.0%}")))
        return "\n".join(lines)


def levels_db(sound: Sound, sample_rate_hz: int) -> NDArray[np.float64]:
    """Return the mean power in dB of each whole segment of `sound [channels, samples]`; a shorter sound is one segment."""
    n = min(max(round(RULE.segment_seconds * sample_rate_hz), 1), sound.shape[1])
    power = np.square(sound, dtype=np.float64).mean(axis=0)
    whole = power[: len(power) // n * n].reshape(-1, n).mean(axis=1)
    return 10 * np.log10(np.maximum(whole, 1e-20))


def count_row(stem: Sound, outputs: Sequence[Sound], sample_rate_hz: int) -> list[int]:
    """Count segments of the stem, those in which it sounds, and for each output those in which it comes near."""
    own_db = levels_db(stem, sample_rate_hz)
    sounds = own_db >= RULE.silent_below_db
    heard = [int(np.sum(sounds & (levels_db(y, sample_rate_hz) - own_db > -RULE.within_db))) for y in outputs]
    return [len(own_db), int(sounds.sum()), *heard]


def source_of(row: ManifestRow, sources: Sequence[str]) -> str | None:
    """Return which of a backend's sources the sound should come out as; None when none can hold it."""
    tags = vocabulary.tags(row.label, row.synonyms, row.four_stem)
    narrower = [name for name in sources if name in tags and name not in vocabulary.MIXED]
    # "guitar" before "other", where a backend has both
    candidates = (row.label, row.stem, *narrower, row.four_stem, "other")
    return next((name for name in candidates if name in sources), None)


def judge(
    song: str, folder: Path, rows: Sequence[ManifestRow], separator: Separator, sources: Sequence[str], rate_hz: int
) -> Judgement:  # fmt: skip
    """Judge a song by what the separator makes of each of its stems by itself."""
    stems: dict[str, list[Sound]] = defaultdict(list)
    for row in rows:
        if (name := source_of(row, sources)) is not None:
            stems[name].append(decode(folder / row.path, rate_hz).T)
    counts = np.zeros((len(sources), 2 + len(sources)), dtype=np.int64)
    for name, parts in stems.items():
        stem = np.zeros((2, max(part.shape[1] for part in parts)), dtype=np.float32)
        for part in parts:
            stem[:, : part.shape[1]] += part
        outputs = separator.separate(Audio(stem, rate_hz))
        counts[sources.index(name)] = count_row(stem, [outputs[source].samples for source in sources], rate_hz)
    return Judgement(song, tuple(sources), counts)


def judge_all(
    folder: Path, separator: Separator, layout: Layout = "auto", sample_rate_hz: int = 44100
) -> tuple[list[Judgement], dict[str, str]]:
    """Judge all songs of a folder; return what went wrong with songs that could not be judged, too."""
    songs: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in layouts.rows(folder, layout):
        if row.song:
            songs[row.song].append(row)
    if not songs:
        raise DatasetError(f"{folder} holds no songs, only single sounds. Curation compares the stems of songs.")
    noise = 0.01 * np.random.default_rng(0).standard_normal((2, round(PROBE_SECONDS * sample_rate_hz)))
    sources = tuple(separator.separate(Audio(np.float32(noise), sample_rate_hz)))
    judgements, failed = [], {}
    for number, (song, rows) in enumerate(songs.items(), start=1):
        log.info("%d of %d: %s", number, len(songs), song)
        try:
            judgements.append(judge(song, folder, rows, separator, sources, sample_rate_hz))
        except UnisepError as error:
            failed[song] = str(error)
    return judgements, failed


def report(judgements: Sequence[Judgement], failed: Mapping[str, str], backend: str) -> dict[str, Any]:
    """Return the judgements as plain values."""
    songs = [{"song": one.song, "kept": not one.reasons, "reasons": one.reasons, **one.shares()} for one in judgements]
    return {
        "backend": backend, "rule": asdict(RULE), "n_songs": len(songs) + len(failed),
        "n_kept": sum(song["kept"] for song in songs), "songs": songs, "failed": dict(failed),
    }  # fmt: skip


def text(judgements: Sequence[Judgement], failed: Mapping[str, str]) -> str:
    """Return the matrices and verdicts as a person reads them."""
    parts = []
    for one in judgements:
        outcome = "left out: " + "; ".join(one.reasons) if one.reasons else "kept"
        parts.append(f"{one.song}\n{one.table()}\n{outcome}\n")
    parts += [f"{song}\nnot judged: {error}\n" for song, error in failed.items()]
    n_kept, n = sum(not one.reasons for one in judgements), len(judgements) + len(failed)
    return "\n".join([*parts, f"{n_kept} of {n} songs kept\n"])


def curate(
    folder: Path, *, backend: str = "htdemucs", weights: Path | None = None, layout: Layout = "auto", rate_hz: int = 44100,
    device: str = "auto", json_: str | None = None,
) -> None:  # fmt: skip
    """Judge the songs of a folder and print the verdicts; exit with status 1 when one could not be judged.

    Args:
        folder: songs in any layout that the corpus builder takes.
        backend: one with fixed stems.
        weights: a local file or folder of its weights.
        layout: what kind of folder it is.
        rate_hz: sample rate in Hz at which stems are compared.
        device: where the backend computes.
        json_: write the verdicts to this file too; - prints only JSON.
    """
    with Separator(backend, weights=weights, device=device) as separator:
        judgements, failed = judge_all(folder, separator, layout, rate_hz)
    as_json = json.dumps(report(judgements, failed, backend), indent=1)
    print(as_json if json_ == "-" else text(judgements, failed))
    if json_ not in (None, "-"):
        Path(json_).write_text(as_json + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(1)
