"""Open-Unmix as a backend of unisep: the networks of all sources, and the Wiener filter over them."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output
from unisep.errors import OptionError, WeightsError, arg

from .checkpoints import Framing, build_model, find_files, read_checkpoint, read_framing
from .model import OpenUnmix
from .wiener import wiener

# Many times what the networks were trained on (6 s), and a bound for what a segment needs of memory.
_SEGMENT_SECONDS = 30.0


class OpenUnmixBackend(Backend):
    """A backend with one network for each source and, for more than one, the Wiener filter over all of them.

    Legend: b batch, n sources, c channels, f bins, t frames.
    """

    def __init__(self, models: dict[str, OpenUnmix], framing: Framing) -> None:
        shapes = {(model.shape.n_bins, model.shape.n_channels) for model in models.values()}
        if len(shapes) != 1:
            raise WeightsError("The networks differ in bins or channels. Keep those of one model in a folder.")
        self.models = models
        self.framing = framing
        ((_, n_channels),) = shapes
        place = next(next(iter(models.values())).parameters()).device
        self._window = torch.hann_window(framing.nfft, device=place)
        self.info = BackendInfo(
            sources=tuple(models),
            sample_rate_hz=framing.sample_rate,
            channels=n_channels,
            segment_seconds=_SEGMENT_SECONDS,
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`, in the order of `info.sources`."""
        self.check_input(mixture, queries, negatives)
        with torch.no_grad():
            return Output(self._sources(mixture))

    def _sources(self, mixture: Tensor) -> Tensor:
        n_samples = mixture.shape[-1]
        # Both ends are mirrored by half a window, which needs one sample more than that.
        padded = F.pad(mixture.float(), (0, max(0, self.framing.nfft // 2 + 1 - n_samples)))
        spectra = self._spectra(padded)
        magnitudes = spectra.abs()
        estimates = torch.stack([model(magnitudes) for model in self.models.values()], dim=1)
        iterations = 1 if len(self.models) > 1 else 0
        pairs = zip(estimates, spectra, strict=True)
        filtered = torch.stack([wiener(estimate, mixed, iterations=iterations) for estimate, mixed in pairs])
        return self._waveforms(filtered, padded.shape[-1])[..., :n_samples]

    def _spectra(self, signal: Tensor) -> Tensor:
        """Return the complex spectrograms `[b, c, f, t]`."""
        rows = rearrange(signal, "b c samples -> (b c) samples")
        bins = torch.stft(rows, self.framing.nfft, self.framing.nhop, window=self._window, return_complex=True)
        return rearrange(bins, "(b c) f t -> b c f t", b=len(signal))

    def _waveforms(self, spectra: Tensor, n_samples: int) -> Tensor:
        """Return signals `[b, n, c, samples]` of spectrograms `[b, n, c, f, t]`."""
        n_batch, n_sources = spectra.shape[:2]
        rows = rearrange(spectra, "b n c f t -> (b n c) f t")
        signal = torch.istft(rows, self.framing.nfft, self.framing.nhop, window=self._window, length=n_samples)
        return rearrange(signal, "(b n c) samples -> b n c samples", b=n_batch, n=n_sources)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load any Open-Unmix model: a folder with a .pth for each source, or one such file."""
    if weights is None:
        raise WeightsError(
            "Open-Unmix has no weights here. Run `unisep models pull umxhq`, or give a folder of .pth files."
        )
    if dtype == torch.float16:
        raise OptionError(f"Open-Unmix leaves float16's range; use {arg('precision', 'float32')} or 'bfloat16'.")
    files = find_files(weights)
    models = {target: build_model(read_checkpoint(target, path), device, dtype) for target, path in files.items()}
    n_fft = next(iter(models.values())).shape.n_fft
    return OpenUnmixBackend(models, read_framing(weights, n_fft))
