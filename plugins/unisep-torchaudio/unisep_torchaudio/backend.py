"""torchaudio's separators as backends, built without its own downloads, from files that unisep has checked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unisep import Backend, BackendInfo, Output
from unisep.errors import BackendError, OptionError, WeightsError
from unisep.weights.checkpoints import check_finite, only_tensors, read_torch_file

from .plugin import SPEAKERS, STEMS

HDEMUCS_RATE_HZ = 44_100
HDEMUCS_SEGMENT_SECONDS = 10.0
TASNET_RATE_HZ = 8000
TASNET_PART_SECONDS = 60
TASNET_OVERLAP_SECONDS = 10


class HybridDemucsBackend(Backend):
    """Hybrid Demucs in stretches of ten seconds; the host normalises the song as a whole, as in training."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.info = BackendInfo(
            sources=STEMS,
            sample_rate_hz=HDEMUCS_RATE_HZ,
            channels=2,
            segment_seconds=HDEMUCS_SEGMENT_SECONDS,
            normalisation="song",
        )

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the four stems `[batch, 4, 2, samples]` of `mixture [batch, 2, samples]`.

        What is shorter than a second is put in the middle of one, between silence.
        """
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        missing = max(0, HDEMUCS_RATE_HZ - n_samples)
        before = missing // 2
        sources = self.model(F.pad(mixture, (before, missing - before)))
        return Output(sources[..., before : before + n_samples])


class ConvTasNetBackend(Backend):
    """Conv-TasNet on a recording of any length: it gives its speakers in no order, so the host must not cut it.

    Beyond a minute it is cut here. Each part overlaps the one before by ten seconds, in which its speakers are put in
    the order that agrees best with what came before, and one fades into the other.
    """

    def __init__(
        self,
        model: nn.Module,
        part_seconds: float = TASNET_PART_SECONDS,
        overlap_seconds: float = TASNET_OVERLAP_SECONDS,
    ) -> None:
        self.model = model
        self._part_samples = round(part_seconds * TASNET_RATE_HZ)
        self._overlap_samples = round(overlap_seconds * TASNET_RATE_HZ)
        self.info = BackendInfo(sources=SPEAKERS, sample_rate_hz=TASNET_RATE_HZ, channels=1)

    @torch.inference_mode()
    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the two speakers `[batch, 2, 1, samples]` of `mixture [batch, 1, samples]`."""
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        done = self.model(mixture[..., : self._part_samples])
        while done.shape[-1] < n_samples:
            start = done.shape[-1] - self._overlap_samples
            part = self.model(mixture[..., start : start + self._part_samples])
            done = joined(done, part, self._overlap_samples)
        return Output(done[:, :, None])


def joined(done: Tensor, part: Tensor, overlap_samples: int) -> Tensor:
    """Fade `done` into `part`, both `[batch, speakers, samples]`, over the overlap.

    The speakers of `part` are put in the order in which they agree best with those of `done` there.
    """
    before = done[..., -overlap_samples:]
    orders = torch.tensor(list(permutations(range(part.shape[1]))), device=part.device)
    agreement = torch.stack([(part[:, order, :overlap_samples] * before).sum((1, 2)) for order in orders])
    chosen = orders[agreement.argmax(0)]
    ordered = torch.stack([item[order] for item, order in zip(part, chosen, strict=True)])
    rise = torch.linspace(0, 1, overlap_samples, device=part.device, dtype=part.dtype)
    mixed = before + rise * (ordered[..., :overlap_samples] - before)
    return torch.cat([done[..., :-overlap_samples], mixed, ordered[..., overlap_samples:]], dim=-1)


def load_hdemucs(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `hdemucs-high`."""
    models = torchaudio_models()
    return HybridDemucsBackend(build(lambda: models.hdemucs_high(list(STEMS)), weights, "hdemucs-high", device, dtype))


def load_conv_tasnet(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `conv-tasnet`."""
    models = torchaudio_models()
    model = build(lambda: models.conv_tasnet_base(len(SPEAKERS)), weights, "conv-tasnet", device, dtype)
    return ConvTasNetBackend(model)


def torchaudio_models() -> Any:
    """Import `torchaudio.models`.

    Raises:
        BackendError: torchaudio is missing or does not fit torch.
    """
    try:
        return import_module("torchaudio.models")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise BackendError(
            f"This backend needs torchaudio, which cannot be imported here ({type(error).__name__}: {error}). "
            f"Install a torchaudio that fits torch {torch.__version__}: pip install 'unisep-torchaudio[torchaudio]'. "
            "Where torch has no such build, use an environment of its own, or the backend htdemucs."
        ) from error


def build(
    make: Callable[[], nn.Module], weights: Path | None, name: str, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Fill the model that `make` gives from a file or from the one `.pt` in a folder, for the backend `name`.

    Raises:
        WeightsError: There is no file, a damaged or unsafe one, or parameters do not fit.
        OptionError: Another precision than float32, in which torchaudio's models compute.
    """
    if dtype != torch.float32:
        raise OptionError(f"The backend {name!r} computes in float32 only; leave precision at 'auto'.")
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    paths = [weights] if weights.is_file() else sorted(weights.glob("*.pt")) if weights.is_dir() else []
    if len(paths) != 1:
        raise WeightsError(f"{weights} should be a .pt file, or a folder with one; found {len(paths)}.")
    state = only_tensors(paths[0], read_torch_file(paths[0]))
    model = make()
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{paths[0]} does not fit the model of {name!r}: {str(error)[:300]}") from error
    check_finite(paths[0], state)
    return model.to(device).eval().requires_grad_(False)
