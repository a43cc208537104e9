"""Four parts by non-negative matrix factorisation of the magnitudes of both channels.

Lee and Seung 1999; for audio Smaragdis and Brown 2003. The spectra of the channels lie above each other, so that
each factor has a spectrum for each channel and one course in time: where it is in the stereo image helps to tell
it apart (a simple case of Ozerov and Fevotte 2010). Nothing tells which factors make one instrument: those whose
courses in time are most alike are put together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import NMF

from unisep import Backend, BackendInfo

from .masking import SAMPLE_RATE_HZ, Masking, Spectrum, Values

N_PARTS = 4
N_FACTORS = 16
N_ITERATIONS = 60
_LEAST = 1e-9


class Factors(Masking):
    """Gives `part-1` to `part-4`, from the lowest to the highest centre of their spectra.

    The whole recording at once, so that a part is the same all along. Starts from a fixed seed.
    """

    info = BackendInfo(
        sources=tuple(f"part-{number + 1}" for number in range(N_PARTS)),
        sample_rate_hz=SAMPLE_RATE_HZ,
        channels=2,
        needs_whole=True,
    )

    def masks(self, spectrum: Spectrum) -> Values:
        """The share of each part but the last, of all factors together, in each channel by itself."""
        magnitude = np.abs(spectrum)
        peak = magnitude.max()
        if peak < np.finfo(np.float32).tiny:
            return np.zeros((N_PARTS - 1, *magnitude.shape), dtype=np.float32)
        courses, spectra = _factorised(magnitude / peak)
        parts = _together(courses, spectra)
        models = np.stack([_model(courses[:, part], spectra[part], magnitude.shape[0]) for part in parts])
        share: Values = (models[:-1] / (models.sum(0) + _LEAST)).astype(np.float32)
        return share


def _factorised(magnitude: Values) -> tuple[Values, Values]:
    """Courses `[frames, factors]` and spectra `[factors, channels * bins]` whose product is like `magnitude`."""
    rows = rearrange(magnitude, "channel bin frame -> frame (channel bin)")
    # tol=0: a fixed number of steps, so that the result never hangs on when a machine's rounding stops it.
    model = NMF(
        N_FACTORS,
        init="random",
        solver="mu",
        beta_loss="kullback-leibler",
        tol=0,
        max_iter=N_ITERATIONS,
        random_state=0,
    )
    courses = model.fit_transform(rows + _LEAST)
    return courses, model.components_


def _together(courses: Values, spectra: Values) -> list[list[int]]:
    """The factors of each part: alike in their courses, ordered by the centre of their spectra."""
    clustering = AgglomerativeClustering(N_PARTS, metric="cosine", linkage="average")
    labels = clustering.fit_predict(courses.T + _LEAST)
    parts = [np.flatnonzero(labels == label).tolist() for label in range(N_PARTS)]

    def centre(part: list[int]) -> float:
        both = (spectra[part] * courses[:, part].sum(0)[:, None]).sum(0)
        power = both.reshape(2, -1).sum(0)
        return float((power * np.arange(power.size)).sum() / (power.sum() + _LEAST))

    return sorted(parts, key=centre)


def _model(courses: Values, spectra: Values, n_channels: int) -> Values:
    product: Values = courses @ spectra
    return rearrange(product, "frame (channel bin) -> channel bin frame", channel=n_channels)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The `nmf` backend."""
    return Factors()
