"""Five methods that need no weights, as backends. All compute on the CPU.

What a method finds is given as it is; the last source is what the others leave of the recording.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import NMF, FastICA
from torch import Tensor

from unisep import Backend, BackendInfo, Output

Spectrum = NDArray[np.complex64]
Values = NDArray[np.float32]
SAMPLE_RATE_HZ = 44_100
N_FFT = 4096
HOP_SAMPLES = 1024
# Frames and bins that a median looks at; at 23 ms a frame, sounds above 0.4 s count as steady.
HPSS_KERNEL = 31
N_SIMILAR_FRAMES = 30
LEAST_SECONDS_APART = 1.0
_FEWEST_FRAMES = 5
# How narrow the middle is: a source whose channels differ by 4.8 dB keeps a tenth of its amplitude.
CENTRE_SHARPNESS = 16
ICA_MOST_SAMPLES = 1 << 20
_ICA_FEWEST_SAMPLES = 64
_ICA_LEAST_PART_OF_POWER = 1e-9
N_PARTS = 4
N_FACTORS = 16
N_ITERATIONS = 60
_LEAST = 1e-9
_TINY = np.finfo(np.float32).tiny


class Unmixing(Backend):
    """A backend that finds all sources of one recording but the last, which is what they leave over."""

    @abstractmethod
    def unmix(self, mixture: Tensor) -> Tensor:
        """Return all sources but the last, `[sources - 1, channels, samples]`, of `mixture [channels, samples]`."""

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`; they sum to it.

        Raises:
            BackendError: Queries are given.
            AudioError: The mixture has another shape.
        """
        self.check_input(mixture, queries, negatives)
        recordings = mixture.detach().cpu().float()
        sources = torch.stack([self.unmix(recording) for recording in recordings])
        last = recordings[:, None] - sources.sum(1, keepdim=True)
        return Output(torch.cat([sources, last], dim=1).to(mixture.device))


class Masking(Unmixing):
    """A backend that multiplies the mixture's spectrum by masks between 0 and 1."""

    @abstractmethod
    def masks(self, spectrum: Spectrum) -> Values:
        """Return masks `[sources - 1, channels or 1, bins, frames]` for `spectrum [channels, bins, frames]`."""

    def unmix(self, mixture: Tensor) -> Tensor:
        """Mask the spectrum of the mixture; see `Unmixing.unmix`."""
        if not bool(mixture.any()):
            return torch.zeros(len(self.info.sources) - 1, *mixture.shape)
        window = torch.hann_window(N_FFT)
        spectrum = torch.stft(mixture, N_FFT, HOP_SAMPLES, window=window, pad_mode="constant", return_complex=True)
        masked = torch.from_numpy(self.masks(spectrum.numpy())) * spectrum
        rows = rearrange(masked, "source channel bin frame -> (source channel) bin frame")
        samples = torch.istft(rows, N_FFT, HOP_SAMPLES, window=window, length=mixture.shape[-1])
        return rearrange(samples, "(source channel) sample -> source channel sample", channel=mixture.shape[0])


def _joint_magnitude(spectrum: Spectrum) -> Values:
    """Return the magnitude `[bins, frames]` that holds the power of all channels together."""
    magnitude: Values = np.sqrt(np.square(np.abs(spectrum)).sum(0, dtype=np.float32))
    return magnitude


class HarmonicPercussive(Masking):
    """What is steady in time, `harmonic`, and what is spread over frequency, `percussive`.

    Fitzgerald 2010, "Harmonic/percussive separation using median filtering" (DAFx-10): a median along time keeps what
    rings, one along frequency keeps what strikes, and each bin is shared by the squares of the two. Both channels get
    one mask, so that the stereo image stays.
    """

    info = BackendInfo(
        sources=("harmonic", "percussive"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, segment_seconds=20.0
    )

    def masks(self, spectrum: Spectrum) -> Values:
        """Return the share of the harmonic part."""
        harmonic, _ = librosa.decompose.hpss(_joint_magnitude(spectrum), kernel_size=HPSS_KERNEL, power=2.0, mask=True)
        return harmonic[None, None].astype("float32")  # type: ignore[no-any-return]


class Repeating(Masking):
    """What repeats, `repeating`, and what varies over it, `varying`: accompaniment and voice, in music that repeats.

    Rafii and Pardo 2012, "Music/voice separation using the similarity matrix" (ISMIR): each frame is compared with those
    most like it elsewhere in the recording; their median is what repeats, and what rises above it varies.
    """

    info = BackendInfo(sources=("repeating", "varying"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2)

    def masks(self, spectrum: Spectrum) -> Values:
        """Return the share of what repeats; a recording too short to repeat anything counts as repeating."""
        magnitude = _joint_magnitude(spectrum)
        n_frames = magnitude.shape[1]
        if n_frames < _FEWEST_FRAMES:
            return np.ones((1, 1, *magnitude.shape), dtype=np.float32)
        apart = min(int(LEAST_SECONDS_APART * SAMPLE_RATE_HZ / HOP_SAMPLES), (n_frames - 1) // 2 - 1)
        similar = librosa.decompose.nn_filter(
            magnitude, aggregate=np.median, metric="cosine", width=apart, k=N_SIMILAR_FRAMES
        )
        share = np.minimum(similar, magnitude) / np.maximum(magnitude, _TINY)
        return share[None, None].astype(np.float32)  # type: ignore[no-any-return]


class Centre(Masking):
    """What is alike in both channels, in level and in phase, `centre`, and the rest, `sides`. Mono is all centre.

    The similarity of the channels is that of Avendano 2003 (WASPAA, "Frequency-domain source identification and
    manipulation in stereo mixes"), with the sign of the phase kept: 2 Re(L R*) / (|L|^2 + |R|^2).
    """

    info = BackendInfo(sources=("centre", "sides"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, segment_seconds=20.0)

    def masks(self, spectrum: Spectrum) -> Values:
        """Return the similarity of the channels, sharpened."""
        left, right = spectrum
        power = np.maximum(np.square(np.abs(left)) + np.square(np.abs(right)), _TINY)
        alike = np.clip(2 * (left * right.conj()).real / power, 0.0, 1.0)
        return (alike**CENTRE_SHARPNESS)[None, None].astype(np.float32)  # type: ignore[no-any-return]


class Independent(Unmixing):
    """Two parts that are statistically independent, by FastICA on the two channels; `part-1` has more power.

    Hyvarinen and Oja 2000, "Independent component analysis: algorithms and applications". It undoes a mix in which each
    of two sources is only louder or softer in a channel; with delays, reverberation or more than two sources it gives
    the two directions of the stereo image that are least alike in their statistics. A recording whose channels are one
    and the same up to their level is all `part-1`.
    """

    info = BackendInfo(sources=("part-1", "part-2"), sample_rate_hz=SAMPLE_RATE_HZ, channels=2, needs_whole=True)

    def unmix(self, mixture: Tensor) -> Tensor:
        """Return the stereo image of the first part, `[1, channels, samples]`."""
        samples = mixture.double().numpy()
        centred = samples - samples.mean(1, keepdims=True)
        covariance = centred @ centred.T / samples.shape[1]
        powers = np.linalg.eigvalsh(covariance)
        if samples.shape[1] < _ICA_FEWEST_SAMPLES or powers[0] <= _ICA_LEAST_PART_OF_POWER * powers[1]:
            return mixture[None].clone()
        step = -(-samples.shape[1] // ICA_MOST_SAMPLES)
        # The tolerance is on 1 - |cosine| of a direction between two steps; samples are evenly thinned.
        analysis = FastICA(2, whiten="unit-variance", random_state=0, max_iter=1000, tol=1e-5)
        analysis.fit(centred[:, ::step].T)
        images = analysis.mixing_.T[:, :, None] * (analysis.components_ @ centred)[:, None, :]
        loudest = int(np.square(images).sum((1, 2)).argmax())
        return torch.from_numpy(images[loudest : loudest + 1]).float()


class Factors(Masking):
    """Four parts by non-negative matrix factorisation, `part-1` to `part-4`, by the centre of their spectra.

    Lee and Seung 1999; for audio Smaragdis and Brown 2003. The spectra of the channels lie above each other, so that
    each factor has a spectrum for each channel and one course in time: where it is in the stereo image helps to tell it
    apart (a simple case of Ozerov and Fevotte 2010). Nothing tells which factors make one instrument: those whose
    courses in time are most alike are put together. The whole recording is taken at once, so that a part is the same
    all along. Starts from a fixed seed.
    """

    info = BackendInfo(
        sources=tuple(f"part-{number + 1}" for number in range(N_PARTS)),
        sample_rate_hz=SAMPLE_RATE_HZ,
        channels=2,
        needs_whole=True,
    )

    def masks(self, spectrum: Spectrum) -> Values:
        """Return the share of each part but the last, of all factors together, in each channel by itself."""
        magnitude = np.abs(spectrum)
        peak = magnitude.max()
        if peak < _TINY:
            return np.zeros((N_PARTS - 1, *magnitude.shape), dtype=np.float32)
        courses, spectra = _factorised(magnitude / peak)
        products = [courses[:, part] @ spectra[part] for part in _grouped(courses, spectra)]
        legend = "part frame (channel bin) -> part channel bin frame"
        models = rearrange(np.stack(products), legend, channel=magnitude.shape[0])
        share: Values = (models[:-1] / (models.sum(0) + _LEAST)).astype(np.float32)
        return share


def _factorised(magnitude: Values) -> tuple[Values, Values]:
    """Return courses `[frames, factors]` and spectra `[factors, channels * bins]` whose product is like `magnitude`."""
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


def _grouped(courses: Values, spectra: Values) -> list[list[int]]:
    """Return the factors of each part: alike in their courses, ordered by the centre of their spectra."""
    clustering = AgglomerativeClustering(N_PARTS, metric="cosine", linkage="average")
    labels = clustering.fit_predict(courses.T + _LEAST)
    parts = [np.flatnonzero(labels == label).tolist() for label in range(N_PARTS)]

    def centre(part: list[int]) -> float:
        total = (spectra[part] * courses[:, part].sum(0)[:, None]).sum(0)
        power = total.reshape(2, -1).sum(0)
        return float((power * np.arange(power.size)).sum() / (power.sum() + _LEAST))

    return sorted(parts, key=centre)


def _load(backend: type[Unmixing], *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    return backend()


load_hpss = partial(_load, HarmonicPercussive)
load_repet_sim = partial(_load, Repeating)
load_stereo_centre = partial(_load, Centre)
load_ica = partial(_load, Independent)
load_nmf = partial(_load, Factors)
