"""How good an estimate is, in decibels: each figure with its formula.

Signals are arrays or tensors `[channels, samples]` (or `[samples]`) of one shape; all channels together are one
vector, no mean is removed, and everything is computed in float64. In the formulas s is the target, e its
estimate, x the mixture, |v|^2 the sum of squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisep.errors import AudioError

NSDR_EPSILON = 1e-7


@dataclass(frozen=True)
class Metric:
    """A figure: its key in JSON, its name in tables, and how it is computed.

    higher: whether more is better; None where neither is.
    """

    key: str
    name: str
    formula: str
    higher: bool | None = True


METRICS = (
    Metric("sdr_db", "SDR", "10 log10(|s|^2 / |s-e|^2), in dB; a silent e scores 0"),
    Metric("mixture_sdr_db", "SDR(x)", "SDR of the mixture taken as the estimate, in dB", None),
    Metric("sdri_db", "SDRi", "SDR of e minus SDR of x, in dB; a silent e can score above 0"),
    Metric(
        "si_sdr_db",
        "SI-SDR",
        "10 log10(|as|^2 / |as-e|^2) with a = <e,s>/|s|^2, in dB; a silent e scores -inf (arXiv:1811.02508)",
    ),
    Metric("si_sdri_db", "SI-SDRi", "SI-SDR of e minus SI-SDR of x, in dB"),
    Metric(
        "nsdr_db",
        "nSDR",
        "10 log10((|s|^2 + 1e-7) / (|s-e|^2 + 1e-7)) over the whole item, in dB; its mean over items is the "
        "score of the Music Demixing Challenge 2021 where items are songs (arXiv:2108.13559)",
    ),
    Metric(
        "bss_sdr_db",
        "BSS SDR",
        "BSSEval v4 by museval: median over frames of 1 s of 10 log10(|s|^2 / |e_spat+e_interf+e_artif|^2)",
    ),
    Metric("bss_isr_db", "BSS ISR", "the same of 10 log10(|s|^2 / |e_spat|^2)"),
    Metric("bss_sir_db", "BSS SIR", "the same of 10 log10(|s+e_spat|^2 / |e_interf|^2)"),
    Metric("bss_sar_db", "BSS SAR", "the same of 10 log10(|s+e_spat+e_interf|^2 / |e_artif|^2)"),
    Metric("absent_level_db", "level", "10 log10(|e|^2 / |x|^2) where nothing of what was asked sounds, in dB", False),
    Metric("presence", "presence", "how sure the backend is that the sound is there, 0 to 1", None),
    Metric("residual_db", "residual", "10 log10(|x - (sum of e + rest)|^2 / |x|^2), in dB", False),
)  # fmt: skip
RUN_METRICS = (
    Metric("presence_auc", "presence AUC", "chance that a present sound's presence exceeds an absent one's, ties half"),
    Metric("real_time_factor", "real-time factor", "seconds of computing / seconds of audio; the models loaded before", False),
    Metric("peak_memory_bytes", "peak memory", "most bytes that torch held on the accelerator, else the process's largest resident size", False),
)  # fmt: skip


def energy_ratio_db(signal: Any, noise: Any) -> float:
    """Energy of `signal` over energy of `noise` in dB: inf without noise, -inf without signal, NaN without both.

    >>> energy_ratio_db([2.0, 0.0], [0.0, 0.2])
    20.0
    """
    return _decibels(_energy(as_vector(signal)), _energy(as_vector(noise)))


def sdr_db(estimate: Any, target: Any) -> float:
    """Plain signal-to-distortion ratio in dB; NaN for a silent target.

    10 log10(|s|^2 / |s-e|^2). An exact estimate scores inf and silence 0.

    >>> sdr_db([0.9, 0.0], [1.0, 0.0]), sdr_db([0.0, 0.0], [1.0, 0.0])
    (20.0, 0.0)
    """
    e, s = _pair(estimate, target)
    return _decibels(_energy(s), _energy(s - e)) if s.any() else math.nan


def si_sdr_db(estimate: Any, target: Any) -> float:
    """Scale-invariant SDR in dB; NaN for a silent target, -inf for a silent estimate.

    10 log10(|as|^2 / |as-e|^2) with a = <e,s>/|s|^2: Le Roux et al. 2019 (arXiv:1811.02508).

    >>> round(si_sdr_db([5.0, 0.5], [1.0, 0.0]), 9)
    20.0
    """
    e, s = _pair(estimate, target)
    if not s.any():
        return math.nan
    if not e.any():
        return -math.inf
    projected = np.dot(e, s) / np.dot(s, s) * s
    return _decibels(_energy(projected), _energy(projected - e))


def nsdr_db(estimate: Any, target: Any) -> float:
    """The SDR of the Music Demixing Challenge 2021 in dB, over whatever stretch is given (there: a song).

    10 log10((|s|^2 + 1e-7) / (|s-e|^2 + 1e-7)): Mitsufuji et al. 2022 (arXiv:2108.13559). Never NaN or infinite;
    for a silent target it falls with the energy of the estimate.
    """
    e, s = _pair(estimate, target)
    return _decibels(_energy(s) + NSDR_EPSILON, _energy(s - e) + NSDR_EPSILON)


def residual_db(mixture: Any, parts: Sequence[Any]) -> float:
    """What is lost or added when `parts` are summed, against the mixture, in dB; -inf when nothing is."""
    x = as_vector(mixture)
    total = np.sum([_pair(part, mixture)[0] for part in parts], axis=0)
    return _decibels(_energy(x - total), _energy(x))


def roc_auc(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Area under the ROC curve: the chance that one of `present` exceeds one of `absent`, ties counted half.

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


def as_vector(signal: Any) -> NDArray[np.float64]:
    """All values of an array, tensor or `Audio`, as one float64 vector."""
    detach = getattr(signal, "detach", None)
    if callable(detach):
        signal = detach().cpu().double()
    return np.asarray(signal, dtype=np.float64).reshape(-1)


def _pair(estimate: Any, target: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if np.shape(estimate) != np.shape(target):
        raise AudioError(
            f"An estimate of shape {np.shape(estimate)} cannot be compared with a target of shape {np.shape(target)}."
            " Give both as [channels, samples], of one rate and length."
        )
    return as_vector(estimate), as_vector(target)


def _energy(vector: NDArray[np.float64]) -> float:
    return float(np.dot(vector, vector))


def _decibels(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return math.inf if numerator > 0 else math.nan
    return 10 * math.log10(numerator / denominator) if numerator / denominator > 0 else -math.inf
