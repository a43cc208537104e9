"""What was measured: a record for each question, and medians over them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unisep.errors import OptionError
from unisep.files.paths import write_whole
from unisep_evaluate.metrics import METRICS, RUN_METRICS, roc_auc

ALL = "all"


@dataclass(frozen=True)
class Record:
    """One question and what its answer is worth.

    track, name, group, start_seconds: as in `Item`; for a fixed stem `name` is the stem. ask: "text", "audio",
    "vector", "combined" or "stems". audio_seconds, computing_seconds: length of the mixture, and how long its
    separation took. figures: keys of `METRICS` to values; infinite and NaN are kept.
    """

    track: str
    name: str
    group: str
    ask: str
    start_seconds: float
    audio_seconds: float
    computing_seconds: float
    figures: dict[str, float]
    backend: str
    encoder: str | None


@dataclass(frozen=True)
class Summary:
    """Records taken together: of one way of asking, one group ("all": those where the sound is there), one class.

    n: records; n_tracks: songs or files they come from. median, mean: of each figure, over the records where it
    is defined. presence_auc: of these against the absent ones of the same class (of all, for "all").
    """

    ask: str
    group: str
    name: str
    n: int
    n_tracks: int
    median: dict[str, float]
    mean: dict[str, float]
    presence_auc: float | None


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured. mode: "query" or "stems"; about: data, options, machine, memory."""

    mode: str
    records: tuple[Record, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio, over all separations; loading is not in it."""
        runs = {(r.track, r.start_seconds, r.ask, r.computing_seconds): r.audio_seconds for r in self.records}
        return sum(key[3] for key in runs) / sum(runs.values())

    def summaries(self) -> list[Summary]:
        """For each way of asking: over all, over each group, then a class at a time."""
        found = []
        for ask in dict.fromkeys(record.ask for record in self.records):
            of_ask = [record for record in self.records if record.ask == ask]
            absent = [record for record in of_ask if record.group == "absent"]
            present = [record for record in of_ask if record.group != "absent"]
            for group, name, records in _parts(present, absent):
                rivals = [r for r in absent if name in (ALL, r.name)] if group != "absent" else []
                found.append(_summary(ask, group, name, records, rivals))
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values: infinite figures as "inf" and "-inf", undefined ones as None."""
        run = {"real_time_factor": self.real_time_factor, **self.about}
        values = {
            "mode": self.mode,
            "about": run,
            "formulas": {metric.key: f"{metric.name} = {metric.formula}" for metric in (*METRICS, *RUN_METRICS)},
            "summaries": [asdict(summary) for summary in self.summaries()],
            "records": [asdict(record) for record in self.records],
        }
        return dict(_plain(values))

    def save(self, path: str | Path) -> Path:
        """The file written: `to_json` as JSON. Raises OptionError when it cannot be written."""
        path = Path(path)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_whole(path, text.encode())
        except (OSError, ValueError) as error:
            raise OptionError(f"Cannot write {path}: {error}. Choose another place.") from error

    def plot(self, path: str | Path) -> Path:
        """The picture written: figures of every window by class.

        Raises:
            OptionError: matplotlib is not installed, or the suffix is no picture format.
        """
        try:
            from unisep_evaluate.picture import draw
        except ImportError as error:
            raise OptionError(
                'plot() needs matplotlib, which is not installed. Run: pip install "unisep[plot]"'
            ) from error
        return draw(self, Path(path))


def _parts(present: Sequence[Record], absent: Sequence[Record]) -> Iterable[tuple[str, str, list[Record]]]:
    if present:
        yield ALL, ALL, list(present)
    groups = dict.fromkeys(record.group for record in present)
    for group in groups:
        of_group = [record for record in present if record.group == group]
        if len(groups) > 1:
            yield group, ALL, of_group
        by_name: dict[str, list[Record]] = defaultdict(list)
        for record in of_group:
            by_name[record.name].append(record)
        yield from ((group, name, records) for name, records in by_name.items())
    if absent:
        yield "absent", ALL, list(absent)


def _summary(ask: str, group: str, name: str, records: Sequence[Record], absent: Sequence[Record]) -> Summary:
    keys = [metric.key for metric in METRICS if any(metric.key in record.figures for record in records)]
    values = {key: [r.figures[key] for r in records if not math.isnan(r.figures.get(key, math.nan))] for key in keys}
    present_scores, absent_scores = _presence(records), _presence(absent)
    return Summary(
        ask, group, name, len(records), len({record.track for record in records}),
        {key: median(found) for key, found in values.items()},
        {key: sum(found) / len(found) if found else math.nan for key, found in values.items()},
        roc_auc(present_scores, absent_scores),
    )  # fmt: skip


def _presence(records: Sequence[Record]) -> list[float]:
    return [record.figures["presence"] for record in records if "presence" in record.figures]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two; infinities are ordered like other numbers. NaN without values.

    >>> median([1.0, float("-inf"), 3.0])
    1.0
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
