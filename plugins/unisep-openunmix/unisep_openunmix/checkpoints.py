"""Published Open-Unmix checkpoints: a `.pth` file of parameters for each source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, only_tensors, read_torch_file
from unisep.weights.hashes import sha256_of

from .model import OpenUnmix, Shape

# A source's name, and for published files the first digits of the file's sha256.
_NAME = re.compile(r"(?P<target>[A-Za-z][A-Za-z0-9 _]*?)(?:[-_](?P<sha256>[0-9a-f]{8,64}))?\.pth")
_ORDER = ("vocals", "drums", "bass", "other", "speech", "noise")
# What older versions stored beside the parameters.
_LEFT_OVER = re.compile(r"(stft|transform|spec)\..*|sample_rate")
# The statistics of spectrograms leave the range of half precision.
_ALWAYS_FLOAT32 = frozenset({"input_mean", "input_scale", "output_mean", "output_scale"})


class Framing(BaseModel):
    """The rate, window and hop of the models' spectrograms, named as in a `separator.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_rate: Annotated[int, Field(ge=1000, le=1 << 20)]
    nfft: Annotated[int, Field(ge=4, le=1 << 17, multiple_of=2)]
    nhop: Annotated[int, Field(ge=1, le=1 << 16)]


# The published files have no separator.json: the music models, and the speech model.
_PUBLISHED = {
    4096: Framing(sample_rate=44_100, nfft=4096, nhop=1024),
    1024: Framing(sample_rate=16_000, nfft=1024, nhop=512),
}


@dataclass(frozen=True)
class Checkpoint:
    """One network's file: the source it gives, its sizes and parameters."""

    path: Path
    target: str
    shape: Shape
    state: dict[str, Tensor]


def find_files(place: Path) -> dict[str, Path]:
    """Find the `.pth` file of each source in a folder, or the one that `place` is, in the usual order of sources.

    Raises:
        WeightsError: There is none, or two for one source.
    """
    paths = sorted(place.glob("*.pth")) if place.is_dir() else [place]
    files: dict[str, Path] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise WeightsError(f"{path} is not named after its source, as 'vocals.pth' or 'vocals-b62c91ce.pth'.")
        if match["target"] in files:
            raise WeightsError(f"{place} holds two networks for {match['target']!r}. Keep one of them there.")
        files[match["target"]] = path
    if not files or not all(path.is_file() for path in files.values()):
        raise WeightsError(f"{place} holds no .pth file. Give the folder with one for each source.")
    known = [name for name in _ORDER if name in files]
    return {name: files[name] for name in (*known, *sorted(set(files) - set(known)))}


def read_checkpoint(target: str, path: Path) -> Checkpoint:
    """Read one network's file; nothing that it names is run.

    Raises:
        WeightsError: The file is not what its name promises, damaged, unsafe, or no such network.
    """
    _check_name(path)
    stored = only_tensors(path, read_torch_file(path))
    state = {name: value for name, value in stored.items() if not _LEFT_OVER.fullmatch(name)}
    try:
        shape = _shape(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"{path} does not hold an Open-Unmix network ({error!r:.100}).") from error
    return Checkpoint(path, target, shape, state)


def build_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> OpenUnmix:
    """Build the checkpoint's network, ready to separate, on `device` with parameters of `dtype`.

    Raises:
        WeightsError: Names or shapes do not fit together, or a parameter is not a finite number.
    """

    def placed(name: str, value: Tensor) -> Tensor:
        kept = torch.float32 if name in _ALWAYS_FLOAT32 else dtype
        return value.to(device, kept if value.is_floating_point() else None)

    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in checkpoint.state
        if name.endswith("running_mean")
    }
    state = checkpoint.state | counters
    model = filled(checkpoint.path, lambda: OpenUnmix(checkpoint.shape), state, placed, "together")
    model.lstm.flatten_parameters()
    return model.requires_grad_(False)


def read_framing(place: Path, n_fft: int) -> Framing:
    """Return how spectrograms of `n_fft` samples are made: as a `separator.json` at `place` says, or as published.

    Raises:
        WeightsError: The file says otherwise, or neither is known.
    """
    path = (place if place.is_dir() else place.parent) / "separator.json"
    if path.is_file():
        try:
            framing = Framing(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} does not say how spectrograms are made ({reason}).") from error
    elif n_fft in _PUBLISHED:
        framing = _PUBLISHED[n_fft]
    else:
        raise WeightsError(
            f"{place} needs a separator.json with sample_rate, nfft and nhop: its networks take windows of {n_fft} "
            f"samples, the published ones {' or '.join(map(str, _PUBLISHED))}."
        )
    if framing.nfft != n_fft or 2 * framing.nhop > n_fft:
        raise WeightsError(
            f"{path} asks for windows of {framing.nfft} samples every {framing.nhop}; its networks take {n_fft}, "
            "at most half a window apart."
        )
    return framing


def _shape(state: Mapping[str, Tensor]) -> Shape:
    """Return the sizes of the network that has these parameters, or raise an error of Python's own."""
    (n_input_bins,), (n_bins,) = state["input_mean"].shape, state["output_mean"].shape
    n_out, hidden = state["fc3.weight"].shape
    n_channels, left = divmod(n_out, n_bins)
    n_layers = sum(1 for name in state if re.fullmatch(r"lstm\.weight_ih_l\d+", name))
    bidirectional = "lstm.weight_ih_l0_reverse" in state
    if left or n_channels not in (1, 2) or not n_bins >= 3 or not 1 <= n_input_bins <= n_bins:
        raise ValueError(f"{n_out} outputs for {n_bins} bins, of which it sees {n_input_bins}")
    if not n_layers or hidden < 1 or (bidirectional and hidden % 2):
        raise ValueError(f"{n_layers} recurrent layers of {hidden}")
    return Shape(n_bins, n_input_bins, n_channels, hidden, n_layers, bidirectional)


def _check_name(path: Path) -> None:
    """Compare the file with the digits of its sha256 that its name carries."""
    match = _NAME.fullmatch(path.name)
    if match is None or not match["sha256"]:
        return
    actual = sha256_of(path)
    if not actual.startswith(match["sha256"]):
        raise WeightsError(f"{path} is not the file its name promises: its sha256 is {actual}. Fetch it again.")
