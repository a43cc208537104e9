"""Are the stems of a song what their names say? The rule of Rouard et al. 2022 (arXiv:2211.08553), section 4.1.

Every stem i of a song is put through a separator by itself. P[i, j] is the share of the one-second segments in which
stem i sounds and output j comes within 10 dB of it (or exceeds it). Were all labels right and the separator perfect, P would be the
identity. A song is kept if every stem sounds in at least 30 % of its segments, every P[i, i] is above 70 % and every
other P[i, j] below 30 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


PUBLISHED = Rule()


@dataclass(frozen=True)
class Counts:
    """What was counted in one song, or in several: rows and columns in the order of `sources`.

    n_segments: `[i]`, segments of stem i; n_sounding: `[i]`, those in which it sounds; n_heard: `[i, j]`, those
    of the latter in which output j comes near it.
    """

    sources: tuple[str, ...]
    n_segments: NDArray[np.int64]
    n_sounding: NDArray[np.int64]
    n_heard: NDArray[np.int64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """P `[i, j]`; the row of a stem that never sounds is not a number."""
        with np.errstate(invalid="ignore"):
            return self.n_heard / self.n_sounding[:, None]

    @property
    def sounding_share(self) -> NDArray[np.float64]:
        """`[i]`: in which share of its segments stem i sounds; 0 for a stem that is not there."""
        return self.n_sounding / np.maximum(self.n_segments, 1)


@dataclass(frozen=True)
class Verdict:
    """One song: what was counted, and why it is left out (nothing when it is kept)."""

    song: str
    counts: Counts
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the song passes."""
        return not self.reasons


def levels_db(sound: Sound, sample_rate_hz: int, segment_seconds: float = 1.0) -> NDArray[np.float64]:
    """Mean power in dB of each whole segment of `sound [channels, samples]`; a shorter sound is one segment."""
    n = min(max(round(segment_seconds * sample_rate_hz), 1), sound.shape[1])
    power = np.square(sound, dtype=np.float64).mean(axis=0)
    whole = power[: len(power) // n * n].reshape(-1, n).mean(axis=1)
    return 10 * np.log10(np.maximum(whole, 1e-20))


def count_row(
    stem: Sound, outputs: Sequence[Sound], sample_rate_hz: int, rule: Rule = PUBLISHED
) -> tuple[int, int, list[int]]:
    """Segments of the stem, those in which it sounds, and for each output those in which it comes near."""
    own = levels_db(stem, sample_rate_hz, rule.segment_seconds)
    sounds = own >= rule.silent_below_db
    heard = [
        int(np.sum(sounds & (levels_db(y, sample_rate_hz, rule.segment_seconds) - own > -rule.within_db)))
        for y in outputs
    ]
    return len(own), int(sounds.sum()), heard


def counts_of(sources: Sequence[str], rows: Mapping[str, tuple[int, int, Sequence[int]]]) -> Counts:
    """Counts from the rows of `count_row`, by source; a source without a row has no stem."""
    empty = (0, 0, [0] * len(sources))
    found = [rows.get(source, empty) for source in sources]
    n_segments, n_sounding, n_heard = (np.array([row[k] for row in found], dtype=np.int64) for k in range(3))
    return Counts(tuple(sources), n_segments, n_sounding, n_heard)


def total(several: Sequence[Counts]) -> Counts:
    """The counts of several songs together. All must have the same sources."""
    return Counts(
        several[0].sources,
        *(np.sum([getattr(c, name) for c in several], axis=0) for name in ("n_segments", "n_sounding", "n_heard")),
    )


def judge(song: str, counts: Counts, rule: Rule = PUBLISHED) -> Verdict:
    """The verdict on a song, with a reason for every number that breaks the rule."""
    silent = [
        f"{source} sounds in {share:.0%} of the segments, {rule.min_sounding_share:.0%} are needed"
        for source, share in zip(counts.sources, counts.sounding_share, strict=True)
        if share < rule.min_sounding_share
    ]
    return Verdict(song, counts, (*silent, *_confusions(counts, rule)))


def _confusions(counts: Counts, rule: Rule) -> list[str]:
    reasons = []
    for i, source in enumerate(counts.sources):
        row = counts.matrix[i]
        if not counts.n_sounding[i]:
            continue
        others = [j for j in range(len(row)) if j != i]
        if row[i] <= rule.min_own_share:
            reasons.append(f"{source} comes out as {source} in only {row[i]:.0%}")
        reasons += [
            f"{source} comes out as {counts.sources[j]} in {row[j]:.0%}"
            for j in others
            if row[j] >= rule.max_other_share
        ]
    return reasons


def looks_like(counts: Counts, rule: Rule = PUBLISHED) -> dict[str, str]:
    """Stem -> the source it sounds like, for stems that come out as one other source and not as themselves.

    A pair that name each other were swapped.
    """
    found = {}
    for i, source in enumerate(counts.sources):
        row = counts.matrix[i]
        likely = [j for j in range(len(row)) if row[j] > rule.min_own_share]
        if len(likely) == 1 and likely[0] != i and row[i] < rule.max_other_share:
            found[source] = counts.sources[likely[0]]
    return found


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values; rows of stems that never sound are None."""
    counts = verdict.counts
    return {
        "song": verdict.song,
        "kept": verdict.kept,
        "reasons": list(verdict.reasons),
        "looks_like": looks_like(counts),
        **matrix_json(counts),
    }


def matrix_json(counts: Counts) -> dict[str, Any]:
    """The matrix by name: stem -> output -> share, and how much each stem sounds."""
    shares = {
        source: None if np.isnan(row).any() else dict(zip(counts.sources, np.round(row, 4).tolist(), strict=True))
        for source, row in zip(counts.sources, counts.matrix, strict=True)
    }
    sounding = dict(zip(counts.sources, np.round(counts.sounding_share, 4).tolist(), strict=True))
    return {"matrix": shares, "sounding_share": sounding}


def table(counts: Counts) -> str:
    """The matrix as text: a row a stem, a column an output, in percent.

    >>> print(table(counts_of(("low", "high"), {"low": (10, 8, [8, 2])})))
                 low    high  sounds
    low         100%     25%     80%
    high           -       -      0%
    """
    width = max(8, *(len(source) + 2 for source in counts.sources))
    lines = ["".rjust(width) + "".join(name.rjust(width) for name in (*counts.sources, "sounds"))]
    for source, row, share in zip(counts.sources, counts.matrix, counts.sounding_share, strict=True):
        cells = ["-" if np.isnan(value) else f"{value:.0%}" for value in row]
        lines.append(source.ljust(width) + "".join(cell.rjust(width) for cell in (*cells, f"{share:.0%}")))
    return "\n".join(lines)
