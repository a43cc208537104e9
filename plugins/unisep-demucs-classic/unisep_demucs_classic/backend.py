"""The models of Demucs v1, v2 and v3 as backends of unisep: one model, or the weighted mean of several."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demucs.demucs import Demucs
from torch import Tensor, nn
from torch.nn import functional
from unisep_htdemucs.bags import Bag, find_bag, mean_of

from unisep import Backend, BackendInfo, Output
from unisep.errors import OptionError, WeightsError, arg

from .checkpoints import build_model, read_checkpoint
from .conv_tasnet import ConvTasNet
from .demucs_v2 import DemucsV2, centred
from .v2_checkpoints import load_v2

SHORTEST_HYBRID_SAMPLES = 4096
# How much each model of `mdx` counts for drums, bass, other and vocals.
_BY_STEM = ((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))
_SEGMENT_SECONDS = 44.0

# The definitions of demucs 4.1.0. It lists the models of the last two twice each; once gives the same mean.
RELEASED: dict[str, Bag] = {
    "hdemucs_mmi": Bag(("75fc33f5",), (), _SEGMENT_SECONDS),
    "mdx": Bag(("0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"), _BY_STEM, _SEGMENT_SECONDS),
    "mdx_extra": Bag(("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"), (), _SEGMENT_SECONDS),
    "repro_mdx_a": Bag(("9a6b4851", "1ef250f1", "fa0cb7f9", "902315c2"), (), _SEGMENT_SECONDS),
    "repro_mdx_a_hybrid_only": Bag(("fa0cb7f9", "902315c2"), (), _SEGMENT_SECONDS),
    "repro_mdx_a_time_only": Bag(("9a6b4851", "1ef250f1"), (), _SEGMENT_SECONDS),
}
# The files of demucs 2.0.3 by the digits in their names, and the segments that its `apply_model` cuts songs in.
_V2_NAMES = "demucs-e07c671f demucs_extra-3646af93 demucs48_hq-28a1282c tasnet-beb46fac tasnet_extra-df3777b2"
V2_FILES: dict[str, str] = {file.split("-")[0]: f"{file}.th" for file in _V2_NAMES.split()}
_V2_SEGMENT_SECONDS = {DemucsV2: 40, ConvTasNet: 8}


class DemucsBackend(Backend):
    """A backend that separates segments with one model of Demucs.

    `separate` takes songs that the host has normalised as a whole (`info.normalisation`), as demucs does.
    """

    def __init__(self, model: nn.Module, segment_samples: int) -> None:
        facts: Any = model
        self._model = model
        self.info = BackendInfo(
            sources=tuple(facts.sources),
            sample_rate_hz=int(facts.samplerate),
            channels=int(facts.audio_channels),
            segment_seconds=segment_samples / int(facts.samplerate),
            normalisation="song",
        )

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of `mixture [batch, channels, samples]`, which is put between silence if it is short.

        Raises:
            BackendError: Queries are given.
            AudioError: The model does not take this shape or length.
        """
        self.check_input(mixture, queries, negatives)
        with torch.no_grad():
            if isinstance(self._model, ConvTasNet):
                return Output(torch.stack([self._between_silence(segment) for segment in mixture]))
            return Output(self._filled_up(mixture))

    def _filled_up(self, mixture: Tensor) -> Tensor:
        n_samples = mixture.shape[-1]
        n_missing = _valid_length(self._model, n_samples) - n_samples
        before = n_missing // 2
        sources: Tensor = self._model(functional.pad(mixture, (before, n_missing - before)))
        return centred(sources, n_samples)

    def _between_silence(self, segment: Tensor) -> Tensor:
        """Separate what lies between the zeros around a recording: a Conv-TasNet's norms are over all that it hears."""
        sounding = segment.abs().amax(0).nonzero()
        if not len(sounding):
            return segment.new_zeros(len(self.info.sources), *segment.shape)
        first, stop = int(sounding[0]), int(sounding[-1]) + 1
        return functional.pad(self._filled_up(segment[None, :, first:stop])[0], (first, segment.shape[-1] - stop))


def _valid_length(model: nn.Module, n_samples: int) -> int:
    """Return what demucs's `apply_model` would fill a segment up to: only its hybrid models ask for no more."""
    if isinstance(model, Demucs | DemucsV2 | ConvTasNet):
        return int(model.valid_length(n_samples))
    return max(n_samples, SHORTEST_HYBRID_SAMPLES)


def _load(name: str, *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `name` from a checkpoint, or from a folder with `name`.yaml or the released checkpoints.

    Raises:
        WeightsError: A file is missing or cannot be used.
        OptionError: Another precision than float32.
    """
    paths, bag = find_bag(name, _checked(name, weights, dtype), RELEASED)
    models = [build_model(read_checkpoint(path), device) for path in paths]
    return mean_of(_backends(models, bag.segment_seconds), bag)


def _load_v2(name: str, *, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the backend `name` of Demucs v2 (or v1) from a checkpoint, or from a folder that holds it.

    Raises:
        WeightsError: The file is missing or cannot be used, or is a Demucs where a Conv-TasNet is asked for.
        OptionError: Another precision than float32.
    """
    weights = _checked(name, weights, dtype)
    path = weights / V2_FILES[name] if weights.is_dir() else weights
    model = load_v2(path, device)
    if isinstance(model, ConvTasNet) != name.startswith("tasnet"):
        raise WeightsError(f"{path} is a {type(model).__name__}, which {name} is not. Use it with another backend.")
    return DemucsBackend(model, _V2_SEGMENT_SECONDS[type(model)] * model.samplerate)


def _checked(name: str, weights: Path | None, dtype: torch.dtype) -> Path:
    if dtype != torch.float32:
        raise OptionError(f"{name} computes in float32 only. Give {arg('precision', 'float32')}.")
    if weights is None:
        raise WeightsError(f"{name} has no weights here. Run `unisep models pull {name}`, or give a file.")
    return weights


def _backends(models: list[nn.Module], bag_seconds: float | None) -> list[DemucsBackend]:
    """Make backends with segments of one length, of which no model has to fill up any.

    demucs fills a segment up with what lies around it in the song. A backend sees nothing around its segments, so
    these are as long as demucs would make them: 44.04 s instead of 44 with time-domain models among them.
    """
    lengths = []
    for model in models:
        facts: Any = model
        seconds = Fraction(bag_seconds if bag_seconds is not None else facts.segment)
        lengths.append(_valid_length(model, int(seconds * int(facts.samplerate))))
    return [DemucsBackend(model, max(lengths)) for model in models]


load_hdemucs_mmi = partial(_load, "hdemucs_mmi")
load_mdx = partial(_load, "mdx")
load_mdx_extra = partial(_load, "mdx_extra")
load_repro_mdx_a = partial(_load, "repro_mdx_a")
load_repro_mdx_a_hybrid_only = partial(_load, "repro_mdx_a_hybrid_only")
load_repro_mdx_a_time_only = partial(_load, "repro_mdx_a_time_only")
load_demucs = partial(_load_v2, "demucs")
load_demucs_extra = partial(_load_v2, "demucs_extra")
load_demucs48_hq = partial(_load_v2, "demucs48_hq")
load_tasnet = partial(_load_v2, "tasnet")
load_tasnet_extra = partial(_load_v2, "tasnet_extra")
