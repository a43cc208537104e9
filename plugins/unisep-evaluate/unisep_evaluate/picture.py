"""An evaluation as a picture, drawn with matplotlib (the extra `plot`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unisep.picture import print_to
from unisep_evaluate.metrics import METRICS
from unisep_evaluate.results import Evaluation, Record, median

LOW_DB, HIGH_DB = -30.0, 40.0
LEAST_LEVEL_DB = -100.0
_FORMULAS = {metric.key: metric for metric in METRICS}
_COLOURS = ("#1b6ca8", "#d1582a", "#3d8b4a", "#7b4ba0")


def draw(evaluation: Evaluation, path: Path) -> Path:
    """The picture written to `path`: a row a class; a dot for each window and a bar at their median.

    Below, the level of the output where the sound is absent. Figures beyond the axes are drawn at their ends.
    Uses no global state of matplotlib.
    """
    present = [record for record in evaluation.records if record.group != "absent"]
    absent = [record for record in evaluation.records if record.group == "absent"]
    asks = list(dict.fromkeys(record.ask for record in evaluation.records))
    rows = _rows(present)
    heights = [0.6 + 0.3 * len(rows) * max(1, len(asks) / 2)] * bool(present)
    heights += [0.6 + 0.3 * len(asks)] * bool(absent)
    figure = Figure(figsize=(12, 1.2 + 0.7 * len(heights) + sum(heights)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if present:
        axes = panels.pop(0).subplots(1, 2, sharey=True)
        for axis, key in zip(axes, ("si_sdri_db", "sdr_db"), strict=True):
            _strips(axis, present, rows, asks, key)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(asks))
    if absent:
        _levels(panels.pop(0).subplots(), absent, asks)
    return print_to(path, canvas)


def _rows(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Group and class of each row, in the order met."""
    return list(dict.fromkeys((record.group, record.name) for record in records))


def _strips(
    axis: Axes, records: Sequence[Record], rows: Sequence[tuple[str, str]], asks: Sequence[str], key: str
) -> None:
    for place, row in enumerate(rows):
        for number, ask in enumerate(asks):
            of_row = [r for r in records if (r.group, r.name) == row and r.ask == ask]
            values = [r.figures[key] for r in of_row if not math.isnan(r.figures.get(key, math.nan))]
            label = ask if place == 0 else ""
            _strip(
                axis, _clipped(values, LOW_DB, HIGH_DB), place + _offset(number, len(asks)), number, label, len(asks)
            )
    axis.set_yticks(range(len(rows)), [f"{name} ({group})" for group, name in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    _name(axis, key)


def _levels(axis: Axes, records: Sequence[Record], asks: Sequence[str]) -> None:
    for number, ask in enumerate(asks):
        values = [r.figures["absent_level_db"] for r in records if r.ask == ask and "absent_level_db" in r.figures]
        _strip(axis, _clipped(values, LEAST_LEVEL_DB, HIGH_DB), number, number, "", 1)
    axis.set_yticks(range(len(asks)), [f"absent, by {ask}" for ask in asks])
    axis.set_ylim(len(asks) - 0.5, -0.5)
    _name(axis, "absent_level_db")


def _strip(axis: Axes, values: Sequence[float], height: float, number: int, label: str, n_strips: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    axis.plot(
        values,
        np.full(len(values), height),
        "o",
        color=colour,
        alpha=0.45,
        markersize=4,
        markeredgewidth=0,
        label=label,
    )
    if len(values):
        middle, half = median(values), 0.35 / n_strips
        axis.plot([middle, middle], [height - half, height + half], color=colour, linewidth=2.5, solid_capstyle="butt")


def _offset(number: int, n_asks: int) -> float:
    return (number - (n_asks - 1) / 2) * 0.8 / n_asks


def _clipped(values: Sequence[float], low: float, high: float) -> list[float]:
    return [min(max(value, low), high) for value in values]


def _name(axis: Axes, key: str) -> None:
    metric = _FORMULAS[key]
    axis.set_title(
        metric.name if key != "absent_level_db" else "level of the output where the sound is absent", loc="left"
    )
    axis.set_xlabel(metric.formula.split(";")[0].split("(arXiv")[0], fontsize=8)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
