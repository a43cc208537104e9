"""What a checkpoint's YAML says: the model's shape, its sources, and how long a stretch it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisep.errors import WeightsError, reasons
from unisep.weights.checkpoints import read_yaml

from .config import RoformerConfig

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
    """One YAML file, checked."""

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


def read_description(path: Path) -> Description:
    """The description in a YAML file, checked. Raises WeightsError that says what is wrong with it."""
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
