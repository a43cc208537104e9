"""The models of Demucs v3 as backends of unisep: one model, or the weighted mean of several."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import Demucs
from torch import Tensor, nn
from torch.nn import functional
from unisep_htdemucs.bags import find_bag, mean_of

from unisep import Backend, BackendInfo, Output
from unisep.errors import OptionError, WeightsError

from .checkpoints import build_model, read_checkpoint
from .released import RELEASED

ValidLength = Callable[[int], int]
SHORTEST_HYBRID_SAMPLES = 4096


class DemucsBackend(Backend):
    """One model of the demucs package, in segments.

    `separate` takes songs that the host has normalised as a whole (`info.normalisation`), as demucs does.
    """

    def __init__(self, model: nn.Module, segment_samples: int, valid_length: ValidLength) -> None:
        """`valid_length` says how many samples the model needs for so many, at least."""
        facts: Any = model
        self._model = model
        self._valid_length = valid_length
        self.info = BackendInfo(
            sources=tuple(facts.sources),
            sample_rate_hz=int(facts.samplerate),
            channels=int(facts.audio_channels),
            segment_seconds=segment_samples / int(facts.samplerate),
            normalisation="song",
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """The sources of `mixture [batch, channels, samples]`, which is put in the middle of silence if it is short.

        Raises BackendError for queries, AudioError for a shape or length that the model does not take.
        """
        self.check_input(mixture, queries, negatives)
        n_samples = mixture.shape[-1]
        n_missing = self._valid_length(n_samples) - n_samples
        before = n_missing // 2
        with torch.no_grad():
            sources = self._model(functional.pad(mixture, (before, n_missing - before)))
        return Output(sources[..., before : before + n_samples])


def _of_hybrid(n_samples: int) -> int:
    """The hybrid models take any length from a window of their spectrogram on."""
    return max(n_samples, SHORTEST_HYBRID_SAMPLES)


def _valid_length(model: nn.Module) -> ValidLength:
    """What demucs's `apply_model` would fill a segment up to: only its time-domain models ask for more."""
    if not isinstance(model, Demucs):
        return _of_hybrid
    asked: ValidLength = model.valid_length
    return asked


def _load(name: str, *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend `name`.

    weights: a checkpoint, or a folder with `name`.yaml and its checkpoints, or with the released ones.
    Raises WeightsError for what is missing or cannot be used, OptionError for another precision than float32.
    """
    if dtype != torch.float32:
        raise OptionError(f"precision: {name} computes in float32 only. Give precision='float32'.")
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    paths, bag = find_bag(name, weights, RELEASED)
    models = [build_model(read_checkpoint(path), device) for path in paths]
    return mean_of(_backends(models, bag.segment_seconds), bag)


def _backends(models: list[nn.Module], bag_seconds: float | None) -> list[DemucsBackend]:
    """The models as backends with segments of one length, of which no model has to fill up any.

    demucs fills a segment up with what lies around it in the song. A backend sees nothing around its segments, so
    these are as long as demucs would make them: 44.04 s instead of 44 with time-domain models among them.
    """
    lengths = []
    for model in models:
        facts: Any = model
        seconds = Fraction(bag_seconds if bag_seconds is not None else facts.segment)
        lengths.append(_valid_length(model)(int(seconds * int(facts.samplerate))))
    return [DemucsBackend(model, max(lengths), _valid_length(model)) for model in models]


load_hdemucs_mmi = partial(_load, "hdemucs_mmi")
load_mdx = partial(_load, "mdx")
load_mdx_extra = partial(_load, "mdx_extra")
load_repro_mdx_a = partial(_load, "repro_mdx_a")
load_repro_mdx_a_hybrid_only = partial(_load, "repro_mdx_a_hybrid_only")
load_repro_mdx_a_time_only = partial(_load, "repro_mdx_a_time_only")
