"""What was measured: a record for each question, medians over them, and the whole as JSON, as text and as a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unisep.errors import OptionError
from unisep.files.paths import write_whole
from unisep_evaluate.metrics import METRICS, RUN_METRICS, roc_auc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = "all"
_METRICS = {metric.key: metric for metric in METRICS}
_ABSENT_KEYS = ("absent_level_db", "presence", "nsdr_db", "residual_db")
_MEAN_KEY = "nsdr_db"  # what its challenge ranked by; tables show medians of all others
LOW_DB, HIGH_DB = -30.0, 40.0
LEAST_LEVEL_DB = -100.0
_COLOURS = ("#1b6ca8", "#d1582a", "#3d8b4a", "#7b4ba0")


@dataclass(frozen=True)
class Record:
    """One question, as in `Item`, and how good its answer is.

    Attributes:
        ask: "text", "audio", "vector", "combined" or "stems"; for stems `name` is that of the stem.
        audio_seconds: Length of the mixture.
        computing_seconds: How long its separation took.
        figures: Keys of `METRICS` -> values; infinite and NaN are kept.
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
    """Records of one way of asking, one group and one class, taken together.

    Attributes:
        group: The group; "all" for those where the sound is there.
        name: The class; "all" for all of the group.
        n_tracks: Number of songs or files they come from.
        median: Median of each figure, over the records where it is defined.
        mean: Mean of each figure, over the same.
        presence_auc: Of these against the absent ones of the same class (of all, for "all").
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
    """Everything that was measured, in `mode` "query" or "stems"; `about` holds data, options, machine and memory."""

    mode: str
    records: tuple[Record, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio, over all separations; loading is not in it."""
        runs = {(r.track, r.start_seconds, r.ask, r.computing_seconds): r.audio_seconds for r in self.records}
        return sum(key[3] for key in runs) / sum(runs.values())

    def summaries(self) -> list[Summary]:
        """Summarise each way of asking: over all, over each group, then a class at a time."""
        summaries = []
        for ask in dict.fromkeys(record.ask for record in self.records):
            records = [record for record in self.records if record.ask == ask]
            absent = [record for record in records if record.group == "absent"]
            for group, name in _classes(records):
                part = [r for r in records if group in (r.group, ALL) and name in (r.name, ALL)]
                if group == ALL:
                    part = [r for r in part if r.group != "absent"]
                rivals = [r for r in absent if name in (r.name, ALL)] if group != "absent" else []
                summaries.append(_summary(ask, group, name, part, rivals))
        return summaries

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values: infinite figures as "inf" and "-inf", undefined ones as None."""
        values = {
            "mode": self.mode,
            "about": {"real_time_factor": self.real_time_factor, **self.about},
            "formulas": {metric.key: f"{metric.name} = {metric.formula}" for metric in (*METRICS, *RUN_METRICS)},
            "summaries": [asdict(summary) for summary in self.summaries()],
            "records": [asdict(record) for record in self.records],
        }
        return dict(_plain(values))

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a file and return its path.

        Raises:
            OptionError: It cannot be written there.
        """
        path = Path(path)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_whole(path, text.encode())
        except (OSError, ValueError) as error:
            raise OptionError(f"Cannot write {path}: {error}. Choose another place.") from error

    def plot(self, path: str | Path) -> Path:
        """Draw the figures of every window by class and return the path of the picture.

        Raises:
            OptionError: matplotlib is not installed, or the suffix is no picture format.
        """
        try:
            return _draw(self, Path(path))
        except ImportError as error:
            raise OptionError(
                'plot() needs matplotlib, which is not installed. Run: pip install "unisep[plot]"'
            ) from error


def median(values: Sequence[float]) -> float:
    """Return the median; infinities are ordered like other numbers. NaN without values.

    >>> median([1.0, float("-inf"), 3.0])
    1.0
    """
    return statistics.median(values) if values else math.nan


def _classes(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield group and class of each summary."""
    groups = dict.fromkeys(record.group for record in records if record.group != "absent")
    if groups:
        yield ALL, ALL
    for group in groups:
        if len(groups) > 1:
            yield group, ALL
        yield from dict.fromkeys((group, record.name) for record in records if record.group == group)
    if any(record.group == "absent" for record in records):
        yield "absent", ALL


def _summary(ask: str, group: str, name: str, records: Sequence[Record], absent: Sequence[Record]) -> Summary:
    keys = [metric.key for metric in METRICS if any(metric.key in record.figures for record in records)]
    values = {key: _defined(records, key) for key in keys}
    return Summary(
        ask, group, name, len(records), len({record.track for record in records}),
        {key: median(figures) for key, figures in values.items()},
        {key: sum(figures) / len(figures) if figures else math.nan for key, figures in values.items()},
        roc_auc(_defined(records, "presence"), _defined(absent, "presence")),
    )  # fmt: skip


def _defined(records: Sequence[Record], key: str) -> list[float]:
    """Return the figures of the records that have one under `key` which is not NaN."""
    return [r.figures[key] for r in records if not math.isnan(r.figures.get(key, math.nan))]


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


def lines(evaluation: Evaluation, *, formulas: bool = False) -> list[str]:
    """Return the whole report as lines of text, for a terminal of about 120 columns; with the formula of each figure if asked."""
    summaries = evaluation.summaries()
    present = [summary for summary in summaries if summary.group != "absent"]
    absent = [summary for summary in summaries if summary.group == "absent"]
    keys = [metric.key for metric in METRICS if any(metric.key in s.median for s in present)]
    report: list[str] = []
    if present:
        report += ["Where the sound is there: medians (nSDR: mean)", *_table(present, keys), ""]
    if absent:
        report += ["Where it is not: medians (nSDR: mean)", *_table(absent, _ABSENT_KEYS), ""]
    if not formulas:
        return [*report, *_facts(evaluation)]
    shown = {*keys, *(_ABSENT_KEYS if absent else ())}
    metrics = [metric for metric in METRICS if metric.key in shown] + list(RUN_METRICS)
    return [*report, *_facts(evaluation), "", *(f"{metric.name}: {metric.formula}" for metric in metrics)]


def _table(summaries: Sequence[Summary], keys: Sequence[str]) -> list[str]:
    used = [key for key in keys if any(key in summary.median for summary in summaries)]
    with_auc = any(summary.presence_auc is not None for summary in summaries)
    rows = [["ask", "what", "n", "songs", *(_METRICS[key].name for key in used), *["AUC"] * with_auc]]
    for summary in summaries:
        what = ALL if summary.name == ALL and summary.group in (ALL, "absent") else f"{summary.group}: {summary.name}"
        cells = [number((summary.mean if key == _MEAN_KEY else summary.median).get(key), key) for key in used]
        auc = [number(summary.presence_auc, "presence")] * with_auc
        rows.append([summary.ask, what, str(summary.n), str(summary.n_tracks), *cells, *auc])
    columns = []
    for place, column in enumerate(zip(*rows, strict=True)):
        align = str.ljust if place < 2 else str.rjust  # numbers to the right
        columns.append([align(cell, max(map(len, column))) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def number(value: float | None, key: str) -> str:
    """Return a figure as it stands in a table; "-" where there is none.

    >>> number(9.876, "sdr_db"), number(0.5, "presence"), number(None, "sdr_db")
    ('9.88', '0.500', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.3f}" if key == "presence" else f"{value:.2f}"


def _facts(evaluation: Evaluation) -> list[str]:
    about, speed = evaluation.about, evaluation.real_time_factor
    answered = sorted({f"{r.backend} with {r.encoder}" if r.encoder else r.backend for r in evaluation.records})
    facts = [
        f"Answered by {', '.join(answered)}.",
        f"Real-time factor {speed:.3f} ({1 / speed:.1f} times real time); loading and first run "
        f"{about.get('loading_seconds', math.nan):.1f} s; peak memory {about.get('peak_memory_bytes', 0) / 1e6:,.0f} MB "
        f"({about.get('peak_memory_of', 'not known')}).",
    ]
    if about.get("n_left_out_without_example"):
        facts.append(f"{about['n_left_out_without_example']} windows without an example clip are left out.")
    return facts


def _draw(evaluation: Evaluation, path: Path) -> Path:
    """Draw a row a class, and below the levels where the sound is absent. Uses no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from unisep.picture import print_to

    present = [record for record in evaluation.records if record.group != "absent"]
    absent = [record for record in evaluation.records if record.group == "absent"]
    asks = list(dict.fromkeys(record.ask for record in evaluation.records))
    rows = {f"{name} ({group})": (group, name) for group, name in dict.fromkeys((r.group, r.name) for r in present)}
    heights = [0.6 + 0.3 * len(rows) * max(1, len(asks) / 2)] * bool(present)
    heights += [0.6 + 0.3 * len(asks)] * bool(absent)
    figure = Figure(figsize=(12, 1.2 + 0.7 * len(heights) + sum(heights)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if present:
        axes = panels.pop(0).subplots(1, 2, sharey=True)
        strips = {
            row: {ask: [r for r in present if (r.group, r.name, r.ask) == (*place, ask)] for ask in asks}
            for row, place in rows.items()
        }
        for axis, key in zip(axes, ("si_sdri_db", "sdr_db"), strict=True):
            axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
            _draw_strips(axis, strips, key, asks, LOW_DB, _METRICS[key].name)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(asks))
    if absent:
        strips = {f"absent, by {ask}": {ask: [r for r in absent if r.ask == ask]} for ask in asks}
        title = "level of the output where the sound is absent"
        _draw_strips(panels.pop(0).subplots(), strips, "absent_level_db", asks, LEAST_LEVEL_DB, title)
    return print_to(path, canvas)


def _draw_strips(
    axis: Axes, rows: Mapping[str, Mapping[str, list[Record]]], key: str, asks: list[str], low_db: float, title: str
) -> None:
    """Draw a dot for each record and a bar at their median; figures beyond the axis at its ends."""
    for place, strips in enumerate(rows.values()):
        for number, (ask, records) in enumerate(strips.items()):
            values = np.clip(_defined(records, key), low_db, HIGH_DB).tolist()
            height = place + (number - (len(strips) - 1) / 2) * 0.8 / len(strips)
            colour = _COLOURS[asks.index(ask) % len(_COLOURS)]
            axis.plot(
                values, np.full(len(values), height), "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0,
                label=ask if place == 0 else "",
            )  # fmt: skip
            if values:
                bar = [height - 0.35 / len(strips), height + 0.35 / len(strips)]
                axis.plot([median(values)] * 2, bar, color=colour, linewidth=2.5, solid_capstyle="butt")
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_title(title, loc="left")
    axis.set_xlabel(_METRICS[key].formula.split(";")[0].split("(arXiv")[0], fontsize=8)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
