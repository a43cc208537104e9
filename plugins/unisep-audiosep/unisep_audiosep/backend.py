"""AudioSep as a query backend of unisep."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor

from unisep import Backend, BackendInfo, Output
from unisep.errors import WeightsError

from .checkpoints import find_file, load_model
from .model import AudioSep

# Twice what the model was trained on: it takes any length, and longer segments have fewer borders.
SEGMENT_SECONDS = 10.0
# No bin loses more than this to an excluded sound: where the model cannot tell two sounds apart, silence would be left.
LEAST_GAIN = 0.1
_FLOOR = 1e-12


class AudioSepBackend(Backend):
    """A backend that isolates one target for each query vector, each channel by itself.

    The model hears one channel. Asked for two, it is run on both with the same query, so that a target keeps its place
    between the loudspeakers; on two equal channels it is run once.
    """

    # Axes: b batch, n queries, c channels, t frames, f bins, s samples.

    def __init__(self, model: AudioSep) -> None:
        self.model = model
        self.info = BackendInfo(
            sources=(), sample_rate_hz=model.config.sample_rate_hz, channels=2, segment_seconds=SEGMENT_SECONDS
        )

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return targets `[batch, queries, channels, samples]`; AudioSep does not say whether they are there.

        What a negative names is isolated like a query of its own, and taken from the target bin by bin.

        Args:
            mixture: `[batch, 2, samples]`.
            queries: `[queries, dim]`.
            negatives: `[queries, dim]`, zeros where nothing is to be left out.
        """
        self.check_input(mixture, queries, negatives, self.model.config.query_dim)
        assert queries is not None
        is_mono = torch.equal(mixture[:, 0], mixture[:, 1])
        channels = mixture[:, :1] if is_mono else mixture
        spectrum = self.model.spectrum(rearrange(channels, "b c s -> (b c) s"))
        rows = [None] * len(queries) if negatives is None else list(negatives)
        # One query after another: nothing of the U-Net can be shared, as the first layer is steered already.
        waves = [
            self.model.waveform(self._target(spectrum, query, negative), mixture.shape[-1])
            for query, negative in zip(queries, rows, strict=True)
        ]
        if not waves:
            return Output(mixture.new_empty(mixture.shape[0], 0, *mixture.shape[1:]))
        targets = rearrange(torch.stack(waves), "n (b c) s -> b n c s", b=mixture.shape[0])
        return Output(repeat(targets, "b n 1 s -> b n c s", c=2) if is_mono else targets)

    def _target(self, spectrum: Tensor, query: Tensor, negative: Tensor | None) -> Tensor:
        target = spectrum * self.model.mask(spectrum, query.to(spectrum.device))
        if negative is None or not bool(negative.any()):
            return target
        return without(target, spectrum * self.model.mask(spectrum, negative.to(spectrum.device)))


def without(target: Tensor, excluded: Tensor) -> Tensor:
    """Return the spectrogram `target [..., frames, bins]` less what `excluded` claims of each bin.

    AudioSep has no such question of its own. With T and E their magnitudes, a bin keeps the Wiener gain
    W^2 / (W^2 + E^2), where W = max(0, T - E) is what the excluded sound leaves of it, but at least a tenth.
    """
    claimed = excluded.abs()
    left = (target.abs() - claimed).clamp_min(0).square()
    share = (left + _FLOOR) / (left + claimed.square() + _FLOOR)
    return target * share.clamp_min(LEAST_GAIN)


def load(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `audiosep` from a checkpoint, or from a folder that holds just that."""
    if weights is None:
        raise WeightsError("AudioSep has no weights here. Run `unisep models pull audiosep`, or give a file.")
    return AudioSepBackend(load_model(find_file(weights), device, dtype))
