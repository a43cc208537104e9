"""How good an estimate is, in decibels: each figure with its formula; BSSEval v4 by museval.

Signals are arrays or tensors `[channels, samples]` (or `[samples]`) of one shape; all channels together are one vector,
no mean is removed, and everything is computed in float64. In the formulas s is the target, e its estimate, x the
mixture, |v|^2 the sum of squares.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisep.errors import AudioError, OptionError

NSDR_EPSILON = 1e-7
BSSEVAL_KEYS = ("bss_sdr_db", "bss_isr_db", "bss_sir_db", "bss_sar_db")


@dataclass(frozen=True)
class Metric:
    """A figure: its key in JSON, its name in tables, and how it is computed."""

    key: str
    name: str
    formula: str


METRICS = (
    Metric("sdr_db", "SDR", "10 log10(|s|^2 / |s-e|^2), in dB; a silent e scores 0"),
    Metric("mixture_sdr_db", "SDR(x)", "SDR of the mixture taken as the estimate, in dB"),
    Metric("sdri_db", "SDRi", "SDR of e minus SDR of x, in dB; a silent e can score above 0"),
    Metric("si_sdr_db", "SI-SDR", "10 log10(|as|^2 / |as-e|^2) with a = <e,s>/|s|^2, in dB; a silent e scores -inf "
           "(arXiv:1811.02508)"),
    Metric("si_sdri_db", "SI-SDRi", "SI-SDR of e minus SI-SDR of x, in dB"),
    Metric("nsdr_db", "nSDR", "10 log10((|s|^2 + 1e-7) / (|s-e|^2 + 1e-7)) over the whole item, in dB; its mean over "
           "items is the score of the Music Demixing Challenge 2021 where items are songs (arXiv:2108.13559)"),
    Metric("bss_sdr_db", "BSS SDR", "BSSEval v4 by museval: median over frames of 1 s of "
           "10 log10(|s|^2 / |e_spat+e_interf+e_artif|^2)"),
    Metric("bss_isr_db", "BSS ISR", "the same of 10 log10(|s|^2 / |e_spat|^2)"),
    Metric("bss_sir_db", "BSS SIR", "the same of 10 log10(|s+e_spat|^2 / |e_interf|^2)"),
    Metric("bss_sar_db", "BSS SAR", "the same of 10 log10(|s+e_spat+e_interf|^2 / |e_artif|^2)"),
    Metric("absent_level_db", "level", "10 log10(|e|^2 / |x|^2) where nothing of what was asked sounds, in dB"),
    Metric("presence", "presence", "how sure the backend is that the sound is there, 0 to 1"),
    Metric("residual_db", "residual", "10 log10(|x - (sum of e + rest)|^2 / |x|^2), in dB"),
)  # fmt: skip
RUN_METRICS = (
    Metric("presence_auc", "presence AUC", "chance that a present sound's presence exceeds an absent one's, ties half"),
    Metric("real_time_factor", "real-time factor", "seconds of computing / seconds of audio; the models loaded before"),
    Metric("peak_memory_bytes", "peak memory", "most bytes that torch held on the accelerator, else the process's "
           "largest resident size"),
)  # fmt: skip


def energy_ratio_db(signal: Any, noise: Any) -> float:
    """Return the energy of `signal` over that of `noise` in dB: inf without noise, -inf without signal, NaN without both.

    >>> energy_ratio_db([2.0, 0.0], [0.0, 0.2])
    20.0
    """
    return _ratio_db(_vector(signal), _vector(noise))


def sdr_db(estimate: Any, target: Any) -> float:
    """Return the plain signal-to-distortion ratio in dB; NaN for a silent target.

    10 log10(|s|^2 / |s-e|^2). An exact estimate scores inf and silence 0.

    >>> sdr_db([0.9, 0.0], [1.0, 0.0]), sdr_db([0.0, 0.0], [1.0, 0.0])
    (20.0, 0.0)
    """
    e, s = _vectors(estimate, target)
    return _ratio_db(s, s - e) if s.any() else math.nan


def si_sdr_db(estimate: Any, target: Any) -> float:
    """Return the scale-invariant SDR in dB; NaN for a silent target, -inf for a silent estimate.

    10 log10(|as|^2 / |as-e|^2) with a = <e,s>/|s|^2: Le Roux et al. 2019 (arXiv:1811.02508).

    >>> round(si_sdr_db([5.0, 0.5], [1.0, 0.0]), 9)
    20.0
    """
    e, s = _vectors(estimate, target)
    if not s.any():
        return math.nan
    if not e.any():
        return -math.inf
    projected = np.dot(e, s) / np.dot(s, s) * s
    return _ratio_db(projected, projected - e)


def nsdr_db(estimate: Any, target: Any) -> float:
    """Return the SDR of the Music Demixing Challenge 2021 in dB, over the whole stretch (there: a song).

    10 log10((|s|^2 + 1e-7) / (|s-e|^2 + 1e-7)): Mitsufuji et al. 2022 (arXiv:2108.13559). Never NaN or infinite;
    for a silent target it falls with the energy of the estimate.
    """
    e, s = _vectors(estimate, target)
    return _ratio_db(s, s - e, NSDR_EPSILON)


def residual_db(mixture: Any, parts: Sequence[Any]) -> float:
    """Return what is lost or added when `parts` are summed, against the mixture, in dB; -inf when nothing is."""
    x = _vector(mixture)
    total = np.sum([_vectors(part, mixture)[0] for part in parts], axis=0)
    return _ratio_db(x - total, x)


def roc_auc(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Return the area under the ROC curve: the chance that one of `present` exceeds one of `absent`, ties counted half.

    None where one of them is empty. Equals the Mann-Whitney U statistic over the number of pairs.

    >>> roc_auc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    if not len(present) or not len(absent):
        return None
    low = np.sort(np.asarray(absent, dtype=np.float64))
    high = np.asarray(present, dtype=np.float64)
    n_below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(n_below.sum() / (2 * len(high) * len(low)))


def _vector(signal: Any) -> NDArray[np.float64]:
    """Return all values of an array, tensor or `Audio` as one float64 vector."""
    detach = getattr(signal, "detach", None)
    if callable(detach):
        signal = detach().cpu().double()
    return np.asarray(signal, dtype=np.float64).reshape(-1)


def _vectors(estimate: Any, target: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if np.shape(estimate) != np.shape(target):
        raise AudioError(
            f"An estimate of shape {np.shape(estimate)} cannot be compared with a target of shape {np.shape(target)}."
            " Give both as [channels, samples], of one rate and length."
        )
    return _vector(estimate), _vector(target)


def _ratio_db(signal: NDArray[np.float64], noise: NDArray[np.float64], epsilon: float = 0.0) -> float:
    """Return the energy of one vector over that of another in dB, `epsilon` added to both."""
    numerator, denominator = float(np.dot(signal, signal)) + epsilon, float(np.dot(noise, noise)) + epsilon
    if denominator == 0:
        return math.inf if numerator > 0 else math.nan
    return 10 * math.log10(numerator / denominator) if numerator / denominator > 0 else -math.inf


def bsseval_v4(
    estimates: Mapping[str, NDArray[Any]], references: Mapping[str, NDArray[Any]], sample_rate_hz: int
) -> dict[str, dict[str, float]]:
    """Return SDR, ISR, SIR and SAR of each source, in dB: the median over the frames of 1 s that museval could judge.

    Estimates and references are `[channels, samples]` by name; all references together explain interference. One
    distortion filter of 512 taps for the whole stretch, permutations not tried, as SiSEC 2018 did (Stoeter, Liutkus,
    Ito 2018, arXiv:1804.06267). NaN where nothing could be judged: a reference or estimate is silent, in the frame or
    altogether, or filtering makes references of each other.

    Raises:
        OptionError: museval is not installed.
    """
    names = list(references)
    true, estimated = (
        np.stack([signals[name].T for name in names]).astype(np.float64) for signals in (references, estimates)
    )
    if not all(source.any() for source in (*true, *estimated)):  # museval would refuse
        return {name: dict.fromkeys(BSSEVAL_KEYS, np.nan) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no frame could be judged
        medians = np.nanmedian(_bsseval_frames(true, estimated, sample_rate_hz), axis=-1)
    figures = medians.T.tolist()
    return {name: dict(zip(BSSEVAL_KEYS, values, strict=True)) for name, values in zip(names, figures, strict=True)}


@cache
def museval_metrics() -> ModuleType:
    """Load museval's module of metrics by itself. Its package also imports pandas, and a reader that needs ffmpeg.

    Raises:
        OptionError: museval is not installed.
    """
    package = find_spec("museval")
    if package is None or package.origin is None:
        raise OptionError(
            'BSSEval needs museval, which is not installed. Run: pip install "unisep[evaluate]", or leave it out.'
        )
    spec = spec_from_file_location("unisep_museval_metrics", Path(package.origin).with_name("metrics.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bsseval_frames(references: NDArray[Any], estimates: NDArray[Any], frame_samples: int) -> NDArray[Any]:
    """Return SDR, ISR, SIR and SAR `[4, sources, frames]` of signals `[sources, samples, channels]`."""
    try:
        figures = museval_metrics().bss_eval(
            references, estimates, window=frame_samples, hop=frame_samples, compute_permutation=False,
            filters_len=512, framewise_filters=False, bsseval_sources_version=False,
        )  # fmt: skip
        return np.stack(figures[:4])
    except (AttributeError, np.linalg.LinAlgError) as error:
        # museval 0.4.1 looks for LinAlgError where NumPy 2 no longer has it, when references depend on each other
        singular = error if isinstance(error, np.linalg.LinAlgError) else error.__context__
        if not isinstance(singular, np.linalg.LinAlgError):
            raise
        return np.full((4, references.shape[0], 1), np.nan)
