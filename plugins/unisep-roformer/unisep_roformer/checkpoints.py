"""Published RoFormer checkpoints: a YAML file beside the parameters, in torch's format or safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from unisep.errors import WeightsError, reasons
from unisep.weights.checkpoints import filled, find_described, read_parameters, read_yaml

from .config import RoformerConfig
from .model import Roformer

# Kept in float32 whatever the precision: angles in half precision lose the position.
_ALWAYS_FLOAT32 = "rotary_embed.freqs"
_STANDARD_SECONDS = 8.0
_Samples = Annotated[int, Field(ge=1, le=1 << 28)]
_Name = Annotated[str, Field(min_length=1, max_length=60)]


class _Section(BaseModel):
    # These sections are mostly about training, which is no matter here.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Audio(_Section):
    sample_rate: Annotated[int, Field(ge=1000, le=1 << 20)] | None = None
    num_channels: Literal[1, 2] | None = None
    chunk_size: _Samples | None = None
    hop_length: _Samples | None = None


class _Training(_Section):
    instruments: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=256)]
    target_instrument: _Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Training:
        if len(set(self.instruments)) < len(self.instruments):
            raise ValueError("an instrument is named twice")
        if self.target_instrument is not None and self.target_instrument not in self.instruments:
            raise ValueError(f"target_instrument {self.target_instrument!r} is none of the instruments")
        return self


class _Inference(_Section):
    chunk_size: _Samples | None = None
    dim_t: _Samples | None = None
    normalize: bool = False


class Description(_Section):
    """What a checkpoint's YAML says: the model's shape, its sources, and how long a stretch it takes."""

    config: RoformerConfig
    training: _Training
    audio: _Audio = _Audio()
    inference: _Inference = _Inference()

    @model_validator(mode="after")
    def _consistent(self) -> Description:
        if len(self.computed) != self.config.num_stems:
            raise ValueError(
                f"num_stems is {self.config.num_stems}, and the outputs named are {', '.join(self.computed)}"
            )
        if self.audio.num_channels not in (None, self.config.n_channels):
            raise ValueError(f"num_channels is {self.audio.num_channels}, and stereo {self.config.stereo}")
        return self

    @property
    def computed(self) -> tuple[str, ...]:
        """The sources that the network gives, in its order."""
        target = self.training.target_instrument
        return self.training.instruments if target is None else (target,)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources to offer: those computed, and the remainder where two are named and one is computed."""
        return self.training.instruments if self.remainder else self.computed

    @property
    def remainder(self) -> str | None:
        """The source that is the mixture less the one computed, or None."""
        others = [name for name in self.training.instruments if name not in self.computed]
        return others[0] if len(others) == 1 and len(self.computed) == 1 else None

    @property
    def sample_rate_hz(self) -> int:
        """The rate the model was trained at."""
        return self.audio.sample_rate or self.config.sample_rate

    @property
    def segment_samples(self) -> int:
        """The stretch to separate at once: that of the file's inference section, or of its training."""
        frames = self.inference.dim_t
        by_frames = (frames - 1) * self.config.stft_hop_length if frames and frames > 1 else None
        standard = round(_STANDARD_SECONDS * self.sample_rate_hz)
        return self.inference.chunk_size or self.audio.chunk_size or by_frames or standard


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's two files: the description, and parameters by name."""

    path: Path
    description: Description
    state: dict[str, Tensor]


def read_checkpoint(place: Path) -> Checkpoint:
    """Read the checkpoint in a folder, or in a file whose partner lies beside it. Nothing that a file names is run.

    Raises:
        WeightsError: Files are missing, several could be meant, or one is damaged or unsafe.
    """
    description, parameters = find_described(place)
    return Checkpoint(parameters, read_description(description), read_parameters(parameters))


def build_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Roformer:
    """Build the checkpoint's model, ready to separate, on `device` with parameters of `dtype`.

    Raises:
        WeightsError: Names or shapes do not fit the description, or a parameter is not a finite number.
    """
    advice = "The .yaml is another model's, or it is no plain RoFormer."
    if any("lora_" in name for name in checkpoint.state):
        advice = "It is an addition to another model (LoRA). Use a merged checkpoint."

    def placed(name: str, value: Tensor) -> Tensor:
        return value.to(device, torch.float32 if name.endswith(_ALWAYS_FLOAT32) else dtype)

    model = filled(
        checkpoint.path,
        lambda: Roformer(checkpoint.description.config),
        checkpoint.state,
        placed,
        "its description",
        advice,
    )
    return model.to(device).requires_grad_(False)


def read_description(path: Path) -> Description:
    """Read the description in a YAML file.

    Raises:
        WeightsError: It cannot be right; the message says what is wrong with it.
    """
    values: dict[str, Any] = read_yaml(path)
    if isinstance(values.get("model"), str):
        raise WeightsError(
            f"{path} describes a model of the kind {values['model']!r:.80}, no RoFormer. The backend 'htdemucs' takes 'htdemucs'."
        )
    for section in ("model", "training"):
        if not isinstance(values.get(section), dict):
            raise WeightsError(f"{path} has no section '{section}', which says what the model is. Is it another file?")
    try:
        config = RoformerConfig.from_options(values["model"])
        sections = {name: values[name] for name in ("training", "audio", "inference") if values.get(name)}
        return Description(config=config, **sections)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except ValidationError as error:
        raise WeightsError(f"{path} cannot be right: {reasons(error)}.") from error
