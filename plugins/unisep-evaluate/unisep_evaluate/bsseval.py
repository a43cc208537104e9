"""BSSEval v4 by museval: its own code, its own numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisep.errors import OptionError

FRAME_SECONDS = 1.0
KEYS = ("bss_sdr_db", "bss_isr_db", "bss_sir_db", "bss_sar_db")


@cache
def museval_metrics() -> ModuleType:
    """The module `metrics` of museval, loaded by itself.

    Its package also imports a reader of data sets that refuses to load on a machine without ffmpeg, and
    pandas; the metrics need neither.

    Raises:
        OptionError: museval is not installed.
    """
    package = find_spec("museval")
    if package is None or package.origin is None:
        raise OptionError(
            'BSSEval needs museval, which is not installed. Run: pip install "unisep[evaluate]", or leave it out.'
        )
    path = Path(package.origin).with_name("metrics.py")
    spec = spec_from_file_location("unisep_museval_metrics", path)
    if spec is None or spec.loader is None:
        raise OptionError(f"museval is damaged: {path} cannot be loaded. Install it again.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bsseval_v4(
    estimates: Mapping[str, NDArray[Any]], references: Mapping[str, NDArray[Any]], sample_rate_hz: int
) -> dict[str, dict[str, float]]:
    """SDR, ISR, SIR and SAR of each source, in dB: the median over frames of 1 s that museval could judge.

    estimates, references: name -> [channels, samples]; the references together explain interference. One
    distortion filter of 512 taps for the whole stretch, permutations not tried, as SiSEC 2018 did (Stoeter,
    Liutkus, Ito 2018, arXiv:1804.06267). NaN where nothing could be judged: a reference or estimate is silent,
    in the frame or altogether, or references that filtering makes of each other.

    Raises:
        OptionError: museval is not installed.
    """
    names = list(references)
    true, found = (
        np.stack([signals[name].T for name in names]).astype(np.float64) for signals in (references, estimates)
    )
    frame_samples = round(FRAME_SECONDS * sample_rate_hz)
    if not all(source.any() for signals in (true, found) for source in signals):  # museval would refuse
        return {name: dict.fromkeys(KEYS, np.nan) for name in names}
    figures = _figures(true, found, frame_samples)
    return {
        name: {key: _median(values[index]) for key, values in zip(KEYS, figures, strict=True)}
        for index, name in enumerate(names)
    }


def _figures(references: NDArray[Any], estimates: NDArray[Any], frame_samples: int) -> NDArray[Any]:
    """SDR, ISR, SIR and SAR `[4, sources, frames]` of signals `[sources, samples, channels]`."""
    try:
        found = museval_metrics().bss_eval(
            references, estimates, window=frame_samples, hop=frame_samples, compute_permutation=False,
            filters_len=512, framewise_filters=False, bsseval_sources_version=False,
        )  # fmt: skip
        return np.stack(found[:4])
    except (AttributeError, np.linalg.LinAlgError) as error:
        # museval 0.4.1 looks for LinAlgError where NumPy 2 no longer has it, when references depend on each other
        singular = error if isinstance(error, np.linalg.LinAlgError) else error.__context__
        if not isinstance(singular, np.linalg.LinAlgError):
            raise
        return np.full((4, references.shape[0], 1), np.nan)


def _median(frames: NDArray[Any]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no frame could be judged
        return float(np.nanmedian(frames))
