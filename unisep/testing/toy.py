"""A toy plugin that works: it separates by frequency band or by place in the stereo image.

Small enough to read in a minute, quick enough for tests, and honest: what it promises, it does.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unisep import plugins
from unisep.audio import Audio
from unisep.errors import EmbeddingError
from unisep.plugins.backend import Backend, BackendInfo, Output
from unisep.plugins.encoder import QueryEncoder
from unisep.plugins.specs import BackendSpec, EncoderSpec, hookimpl

SPACE = "toy-bands-1"
EDGES_HZ = (250.0, 1_000.0, 4_000.0)
N_BANDS = len(EDGES_HZ) + 1
N_TAPS = 1023
_WORDS = {"bass": 0, "kick": 0, "low": 0, "vocals": 1, "voice": 1, "drums": 2, "guitar": 1, "hat": 3, "high": 3}


class ToyBackend(Backend):
    """Gives frequency bands: the fixed sources `low` and `high`, or those that a query sounds in.

    The bands are differences of linear-phase low-pass filters, so they sum back to the mixture.
    """

    info = BackendInfo(sources=("low", "high"), sample_rate_hz=44_100, channels=2, segment_seconds=1.0)

    def __init__(self, device: torch.device | None = None) -> None:
        self._filters = torch.stack([_low_pass(edge, self.info.sample_rate_hz) for edge in EDGES_HZ]).to(device)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return sums of bands: halves of the spectrum without queries, else each band by its share of the query."""
        bands = self._bands(mixture)
        if queries is None:
            halves = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).to(bands)
            return Output(torch.einsum("nk,bkcs->bncs", halves, bands))
        if (dim := queries.shape[1]) != N_BANDS:
            complaint = f"Embeddings of the space '{SPACE}' have {N_BANDS} values, this one has {dim}"
            raise EmbeddingError(f"{complaint}. Make it again with the encoder 'toy'.")
        gains = _gains(queries) if negatives is None else _gains(queries) * (1 - _gains(negatives))
        sources = torch.einsum("nk,bkcs->bncs", gains.to(bands), bands)
        energy, whole = sources.square().mean((2, 3)), mixture.square().mean((1, 2))
        return Output(sources, presence=(energy / (whole[:, None] + 1e-12)).clamp(0, 1))

    def _bands(self, mixture: Tensor) -> Tensor:
        """Return `[batch, bands, channels, samples]`, from low to high."""
        n_samples, delay = mixture.shape[-1], N_TAPS // 2
        n_fft = n_samples + N_TAPS - 1
        spectra = torch.fft.rfft(mixture, n_fft)[:, None] * torch.fft.rfft(self._filters, n_fft)[:, None]
        lows = torch.fft.irfft(spectra, n_fft)[..., delay : delay + n_samples]
        steps = [torch.zeros_like(mixture), *lows.unbind(1), mixture]
        return torch.stack([upper - lower for lower, upper in pairwise(steps)], dim=1)


class ToyPanBackend(Backend):
    """Gives the channels as sources: `left` and `right`. Each sample by itself, so segments cannot matter."""

    info = BackendInfo(sources=("left", "right"), sample_rate_hz=44_100, channels=2, segment_seconds=0.5)

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the left channel with silence beside it, and the right one."""
        left = mixture * torch.tensor([[1.0], [0.0]]).to(mixture)
        return Output(torch.stack([left, mixture - left], dim=1))


class ToyEncoder(QueryEncoder):
    """Says in which frequency bands a sound lies: by measuring a clip, or by knowing a few words."""

    space = SPACE
    dim = N_BANDS

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the bands of the words it knows; other words have bands of their own, always the same."""
        return functional.normalize(torch.stack([_text_bands(text) for text in texts]), dim=1)

    def encode_audio(self, clips: Sequence[Audio]) -> Tensor:
        """Return the root of the energy in each band."""
        return functional.normalize(torch.stack([_clip_bands(clip) for clip in clips]), dim=1)


@hookimpl
def unisep_backends() -> list[BackendSpec]:
    """Return `toy`, which answers queries and gives `low` and `high`, and `toy-pan`, which gives `left` and `right`."""
    bands, channels = ToyBackend.info.sources, ToyPanBackend.info.sources
    load, summary = f"{__name__}:load_backend", "Frequency bands, fixed or by query"
    load_pan = f"{__name__}:ToyPanBackend"
    return [
        BackendSpec(
            name="toy", load=load, summary=summary, stems=bands, spaces=(SPACE,), licence="MIT", differentiable=True
        ),
        BackendSpec(name="toy-pan", load=load_pan, summary="Left and right", stems=channels, licence="MIT"),
    ]


@hookimpl
def unisep_encoders() -> list[EncoderSpec]:
    """Return `toy`, which encodes text and audio as frequency bands."""
    return [EncoderSpec(name="toy", load=f"{__name__}:load_encoder", space=SPACE, licence="MIT")]


@contextmanager
def toy_plugin() -> Iterator[None]:
    """Open a `with` block in which the toy plugin counts as installed, as `registered:toy`."""
    with plugins.registered(sys.modules[__name__], "toy"):
        yield


def load_backend(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> ToyBackend:
    """Return the band backend; it has no weights and computes in float32."""
    return ToyBackend(device)


def load_encoder(*, weights: Path | None, device: torch.device) -> ToyEncoder:
    """Return the band encoder."""
    return ToyEncoder()


def _low_pass(edge_hz: float, sample_rate_hz: int) -> Tensor:
    """Return the taps of a windowed-sinc low-pass filter of gain 1 at 0 Hz."""
    times = torch.arange(N_TAPS, dtype=torch.float64) - N_TAPS // 2
    window = torch.hann_window(N_TAPS, periodic=False, dtype=torch.float64)
    taps = torch.sinc(2 * edge_hz / sample_rate_hz * times) * window
    return (taps / taps.sum()).float()


def _gains(vectors: Tensor) -> Tensor:
    """Return `[n, bands]` in 0..1: each vector relative to its largest value; zeros stay zeros."""
    positive = vectors.clamp_min(0)
    return positive / positive.amax(1, keepdim=True).clamp_min(1e-12)


def _text_bands(text: str) -> Tensor:
    bands = torch.full((N_BANDS,), 0.01)
    known = {_WORDS[word] for word in re.findall(r"\w+", text.casefold()) if word in _WORDS}
    for band in known or {hashlib.sha256(text.casefold().encode()).digest()[0] % N_BANDS}:
        bands[band] = 1.0
    return bands


def _clip_bands(clip: Audio) -> Tensor:
    power = np.abs(np.fft.rfft(clip.samples.mean(axis=0), n=max(256, clip.n_samples))) ** 2
    frequencies_hz = np.linspace(0, clip.sample_rate_hz / 2, power.size)
    band_of = np.searchsorted(EDGES_HZ, frequencies_hz)
    energy = np.bincount(band_of, weights=power, minlength=N_BANDS)[:N_BANDS]
    return torch.from_numpy(np.sqrt(energy / max(energy.sum(), 1e-12)) + 1e-3).float()
