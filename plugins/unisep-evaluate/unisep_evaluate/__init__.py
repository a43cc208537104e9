"""Measure a Separator on recordings whose stems are known.

`open_dataset` lists the recordings, `query_items` or `songs` reads what is judged, and `evaluate` or `evaluate_stems`
separates and measures it. The resulting `Evaluation` can be printed (`lines`), saved as JSON (`save`) and drawn (`plot`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unisep_evaluate.datasets import Dataset, Sound, Track, open_dataset
    from unisep_evaluate.items import Item, Song, query_items, songs
    from unisep_evaluate.metrics import (
        METRICS,
        RUN_METRICS,
        Metric,
        bsseval_v4,
        energy_ratio_db,
        nsdr_db,
        residual_db,
        roc_auc,
        sdr_db,
        si_sdr_db,
    )  # fmt: skip
    from unisep_evaluate.report import Evaluation, Record, Summary, lines
    from unisep_evaluate.runner import ASKS, Asking, evaluate, evaluate_stems
    from unisep_evaluate.windows import WindowOptions

_MODULES = {
    "datasets": ("Dataset", "Sound", "Track", "open_dataset"),
    "items": ("Item", "Song", "query_items", "songs"),
    "metrics": (
        "METRICS", "RUN_METRICS", "Metric", "bsseval_v4", "energy_ratio_db", "nsdr_db", "residual_db", "roc_auc",
        "sdr_db", "si_sdr_db",
    ),
    "report": ("Evaluation", "Record", "Summary", "lines"),
    "runner": ("ASKS", "Asking", "evaluate", "evaluate_stems"),
    "windows": ("WindowOptions",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ASKS", "METRICS", "RUN_METRICS", "Asking", "Dataset", "Evaluation", "Item", "Metric", "Record", "Song", "Sound",
    "Summary", "Track", "WindowOptions", "bsseval_v4", "energy_ratio_db", "evaluate", "evaluate_stems", "lines",
    "nsdr_db", "open_dataset", "query_items", "residual_db", "roc_auc", "sdr_db", "si_sdr_db", "songs",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # on first use: listing plugins imports this package
    if name not in _HOME:
        raise AttributeError(f"module 'unisep_evaluate' has no attribute {name!r}")
    return getattr(import_module(f"unisep_evaluate.{_HOME[name]}"), name)
