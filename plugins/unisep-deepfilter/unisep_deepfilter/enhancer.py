"""Speech out of noise, frame by frame: spectrogram, features, the network, and back to samples.

Schröter, Rosenkranz, Escalante-B., Maier 2023, arXiv:2305.08227. A frame is 10 ms. Windows of two frames overlap by one, and
the network looks two frames ahead: so the output is three frames, 30 ms, behind the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from unisep.errors import AudioError

from .network import FILTER_FRAMES, N_BANDS, N_FILTERED_BINS, DeepFilterNet, NetworkState

SAMPLE_RATE_HZ = 48_000
FRAME_SAMPLES = 480
N_BINS = FRAME_SAMPLES + 1
_LOOKAHEAD_FRAMES = 2
# Of the running means of features: one second.
_DECAY = 0.99
# Where running means begin, from the lowest band or bin to the highest.
_FIRST_LEVELS_DB = (-60.0, -90.0)
_FIRST_MAGNITUDES = (1e-3, 1e-4)
_LEVEL_RANGE_DB = 40.0
# Far below 16 bits: keeps endless silence from 0 / 0.
_SMALLEST = 1e-12
_MIN_BAND_BINS = 2


@dataclass(frozen=True)
class EnhancerState:
    """All that is remembered between two calls; plain tensors, for each row of its own.

    Attributes:
        frame: The last frame of the input, `[rows, 480]`.
        tail: What the last windows add to the next frame of the output, `[rows, 480]`.
        levels_db: Running mean level of each band, `[rows, 32]`.
        magnitudes: Running mean magnitude of each of the lowest bins, `[rows, 96]`.
        spectra: The last spectra of the input, which the filters reach back to, `[rows, 4, 481]`.
        network: What the network remembers.
    """

    frame: Tensor
    tail: Tensor
    levels_db: Tensor
    magnitudes: Tensor
    spectra: Tensor
    network: NetworkState

    def copied(self) -> EnhancerState:
        """Return a state that shares no memory with this one."""
        return EnhancerState(
            frame=self.frame.clone(),
            tail=self.tail.clone(),
            levels_db=self.levels_db.clone(),
            magnitudes=self.magnitudes.clone(),
            spectra=self.spectra.clone(),
            network=self.network.copied(),
        )


class FrameEnhancer:
    """Takes frames of noisy speech and gives as many frames of speech, `latency_samples` later.

    The state is the caller's: it is given in and comes back, and is never changed in place. So one enhancer serves any
    number of streams and threads, and a state that is kept can be gone back to.

        enhancer = FrameEnhancer(network)
        state = enhancer.initial_state(n_rows=2)
        while True:
            speech, state = enhancer.push(next_frames, state)   # [2, 480], [2, 960], ... each
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_samples = FRAME_SAMPLES
    latency_samples = (1 + _LOOKAHEAD_FRAMES) * FRAME_SAMPLES

    def __init__(self, network: DeepFilterNet) -> None:
        network.fold()
        self.network = network
        place = next(network.parameters()).device
        widths = torch.tensor(band_widths())
        bands = torch.repeat_interleave(torch.arange(N_BANDS), widths)
        means = torch.nn.functional.one_hot(bands, N_BANDS) / widths
        self._window = _window().to(place)
        self._analysis = self._window / (2 * FRAME_SAMPLES)
        self._synthesis = self._window * (2 * FRAME_SAMPLES)
        self._means = means.to(place)
        self._high_bands = bands[N_FILTERED_BINS:].to(place)

    def initial_state(self, n_rows: int) -> EnhancerState:
        """Return the state before the first frame, for `n_rows` channels that are enhanced apart from each other."""
        like = self._window

        def ramp(ends: tuple[float, float], n_values: int) -> Tensor:
            return repeat(torch.linspace(*ends, n_values), "f -> r f", r=n_rows).to(like.device)

        return EnhancerState(
            frame=like.new_zeros(n_rows, FRAME_SAMPLES),
            tail=like.new_zeros(n_rows, FRAME_SAMPLES),
            levels_db=ramp(_FIRST_LEVELS_DB, N_BANDS),
            magnitudes=ramp(_FIRST_MAGNITUDES, N_FILTERED_BINS),
            spectra=torch.zeros(n_rows, FILTER_FRAMES - 1, N_BINS, dtype=torch.complex64, device=like.device),
            network=NetworkState.initial(n_rows, like),
        )

    def push(self, frames: Tensor, state: EnhancerState) -> tuple[Tensor, EnhancerState]:
        """Enhance the next frames.

        Args:
            frames: `[rows, samples]` in float32, one frame of 480 samples or several.
            state: As `initial_state` or the call before gave it.

        Returns:
            The speech of `latency_samples` before, of the same shape, and the state for the next call.

        Raises:
            AudioError: The samples are no whole frames, or the rows not those of the state.
        """
        if (
            frames.ndim != 2
            or not frames.shape[1]
            or frames.shape[1] % FRAME_SAMPLES
            or len(frames) != len(state.frame)
        ):
            raise AudioError(
                f"Got frames of shape {tuple(frames.shape)}; this state takes [{len(state.frame)}, n x {FRAME_SAMPLES}]."
            )
        with torch.no_grad():
            signal = torch.cat([state.frame, frames], dim=1)
            windows = signal.unfold(1, 2 * FRAME_SAMPLES, FRAME_SAMPLES) * self._analysis
            spectra = torch.fft.rfft(windows)
            powers = torch.view_as_real(spectra).square().sum(dim=-1)
            bands, levels_db = self._band_features(powers, state.levels_db)
            means = _running_mean(powers[..., :N_FILTERED_BINS].sqrt(), state.magnitudes)
            bins = spectra[..., :N_FILTERED_BINS] / means.clamp(min=_SMALLEST).sqrt_()
            gains, filters, network = self.network(bands, bins, state.network)
            seen = torch.cat([state.spectra, spectra], dim=1)
            speech, tail = self._synthesised(self._filtered(seen, gains, filters), state.tail)
        after = EnhancerState(
            frame=signal[:, -FRAME_SAMPLES:],
            tail=tail,
            levels_db=levels_db,
            magnitudes=means[:, -1],
            spectra=seen[:, 1 - FILTER_FRAMES :],
            network=network,
        )
        return speech, after

    def _synthesised(self, spectra: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples `[r, t * 480]` by overlap-add, and what is to be added to the next frame."""
        windows = torch.fft.irfft(spectra, 2 * FRAME_SAMPLES) * self._synthesis
        first, second = windows.split(FRAME_SAMPLES, dim=-1)
        shifted = torch.cat([tail[:, None], second[:, :-1]], dim=1)
        return (first + shifted).flatten(1), second[:, -1]

    def _band_features(self, powers: Tensor, mean_db: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels of bands above their running mean `[r, t, 32]`, and the mean after the last frame."""
        levels_db = 10 * torch.log10(powers @ self._means + 1e-10)
        means_db = _running_mean(levels_db, mean_db)
        return (levels_db - means_db) / _LEVEL_RANGE_DB, means_db[:, -1]

    def _filtered(self, spectra: Tensor, gains: Tensor, filters: Tensor) -> Tensor:
        """Return the spectra of speech `[r, t, 481]`, two frames behind the newest ones of `spectra [r, 4 + t, 481]`."""
        around = spectra[..., :N_FILTERED_BINS].unfold(1, FILTER_FRAMES, 1)
        low = (around * filters).sum(dim=-1)
        n_frames = gains.shape[1]
        centre = spectra[:, FILTER_FRAMES - 1 - _LOOKAHEAD_FRAMES :][:, :n_frames, N_FILTERED_BINS:]
        return torch.cat([low, centre * gains[..., self._high_bands]], dim=-1)


def band_widths() -> list[int]:
    """Return how many bins each band holds, two at least, of equal width on the scale of equivalent rectangular bandwidth.

    A frequency f in Hz lies at 9.265 ln(1 + f / (24.7 * 9.265)) on that scale (Glasberg, Moore 1990). A band that takes more
    bins than it spans takes them from the next.

    >>> widths = band_widths()
    >>> widths[:3], widths[-1], sum(widths)
    ([2, 2, 2], 67, 481)
    """
    step = math.log1p(SAMPLE_RATE_HZ / 2 / (24.7 * 9.265)) / N_BANDS
    bin_hz = SAMPLE_RATE_HZ / (2 * FRAME_SAMPLES)
    ends = [round(24.7 * 9.265 * math.expm1(step * (band + 1)) / bin_hz) for band in range(N_BANDS)]
    widths, owed = [], 0
    for start, end in zip([0, *ends], ends, strict=False):
        width = max(_MIN_BAND_BINS, end - start - owed)
        owed = width - (end - start - owed)
        widths.append(width)
    return [*widths[:-1], N_BINS - sum(widths[:-1])]


def _running_mean(values: Tensor, mean: Tensor) -> Tensor:
    """Return for each of `values [r, t, f]` the mean of it and those before it, which count less the older they are."""
    means = []
    for value in values.unbind(dim=1):
        mean = torch.lerp(value, mean, _DECAY)
        means.append(mean)
    return torch.stack(means, dim=1)


def _window() -> Tensor:
    """Return the window of Vorbis, whose squares half a window apart sum to one."""
    phase = math.pi * (torch.arange(2 * FRAME_SAMPLES, dtype=torch.float64) + 0.5) / (2 * FRAME_SAMPLES)
    return torch.sin(0.5 * math.pi * torch.sin(phase).square()).float()
