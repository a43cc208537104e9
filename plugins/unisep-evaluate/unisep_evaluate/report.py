"""An evaluation as lines of text: tables, facts of the run, and the formula of each figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unisep_evaluate.metrics import METRICS, RUN_METRICS
from unisep_evaluate.results import ALL, Evaluation, Summary

_ABSENT = ("absent_level_db", "presence", "nsdr_db", "residual_db")
_MEAN = "nsdr_db"  # what its challenge ranked by; all others are medians
_NAMES = {metric.key: metric.name for metric in METRICS}


def lines(evaluation: Evaluation) -> list[str]:
    """The whole report, for a terminal of about 120 columns."""
    summaries = evaluation.summaries()
    present = [summary for summary in summaries if summary.group != "absent"]
    absent = [summary for summary in summaries if summary.group == "absent"]
    keys = [metric.key for metric in METRICS if any(metric.key in s.median for s in present)]
    found: list[str] = []
    if present:
        found += ["Where the sound is there: medians (nSDR: mean)", *_table(present, keys), ""]
    if absent:
        found += ["Where it is not: medians (nSDR: mean)", *_table(absent, _ABSENT), ""]
    shown = {*keys, *(_ABSENT if absent else ())}
    formulas = [m for m in METRICS if m.key in shown] + list(RUN_METRICS)
    return [*found, *_facts(evaluation), "", *(f"{m.name}: {m.formula}" for m in formulas)]


def _table(summaries: Sequence[Summary], keys: Sequence[str]) -> list[str]:
    used = [key for key in keys if any(key in summary.median for summary in summaries)]
    with_auc = any(summary.presence_auc is not None for summary in summaries)
    head = ["ask", "what", "n", "songs", *(_NAMES[key] for key in used), *(["AUC"] if with_auc else [])]
    rows = [
        [
            summary.ask,
            _what(summary),
            str(summary.n),
            str(summary.n_tracks),
            *(number(summary.mean.get(key) if key == _MEAN else summary.median.get(key), key) for key in used),
            *([number(summary.presence_auc, "presence")] if with_auc else []),
        ]
        for summary in summaries
    ]
    return _aligned([head, *rows])


def _what(summary: Summary) -> str:
    if summary.group == ALL or (summary.group == "absent" and summary.name == ALL):
        return ALL
    return f"{summary.group}: {summary.name}"


def number(value: float | None, key: str) -> str:
    """A figure as it stands in a table; "-" where there is none.

    >>> number(9.876, "sdr_db"), number(0.5, "presence"), number(None, "sdr_db")
    ('9.88', '0.500', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.3f}" if key == "presence" else f"{value:.2f}"


def _facts(evaluation: Evaluation) -> list[str]:
    about = evaluation.about
    answered = sorted({f"{r.backend} with {r.encoder}" if r.encoder else r.backend for r in evaluation.records})
    speed = evaluation.real_time_factor
    n_bytes = about.get("peak_memory_bytes", 0)
    found = [
        f"Answered by {', '.join(answered)}.",
        f"Real-time factor {speed:.3f} ({1 / speed:.1f} times real time); loading and first run "
        f"{about.get('loading_seconds', math.nan):.1f} s; peak memory {n_bytes / 1e6:,.0f} MB "
        f"({about.get('peak_memory_of', 'not known')}).",
    ]
    if about.get("n_left_out_without_example"):
        found.append(f"{about['n_left_out_without_example']} windows without an example clip are left out.")
    return found


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns below each other: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
