"""Measure a Separator on recordings whose stems are known.

`open_dataset` finds them, `query_items` or `songs` takes what is judged, `evaluate` or `evaluate_stems` asks and
measures, and the `Evaluation` is a table (`lines`), JSON (`save`) and a picture (`plot`).
"""

from __future__ import annotations

from unisep.evaluation.bsseval import bsseval_v4
from unisep.evaluation.datasets import Dataset, Sound, Track, open_dataset
from unisep.evaluation.items import Item, Song, query_items, songs
from unisep.evaluation.metrics import (
    METRICS,
    RUN_METRICS,
    Metric,
    energy_ratio_db,
    nsdr_db,
    residual_db,
    roc_auc,
    sdr_db,
    si_sdr_db,
)
from unisep.evaluation.report import lines
from unisep.evaluation.results import Evaluation, Record, Summary
from unisep.evaluation.runner import ASKS, Asking, evaluate, evaluate_stems
from unisep.evaluation.windows import WindowOptions

__all__ = [
    "ASKS",
    "METRICS",
    "RUN_METRICS",
    "Asking",
    "Dataset",
    "Evaluation",
    "Item",
    "Metric",
    "Record",
    "Song",
    "Sound",
    "Summary",
    "Track",
    "WindowOptions",
    "bsseval_v4",
    "energy_ratio_db",
    "evaluate",
    "evaluate_stems",
    "lines",
    "nsdr_db",
    "open_dataset",
    "query_items",
    "residual_db",
    "roc_auc",
    "sdr_db",
    "si_sdr_db",
    "songs",
]
