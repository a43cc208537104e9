"""What the community's checkpoints of all kinds have in common: a YAML file that describes the model beside its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from unisep.errors import WeightsError, reasons
from unisep.weights.checkpoints import find_described, read_parameters, read_yaml

_STANDARD_SECONDS = 8.0
_Samples = Annotated[int, Field(ge=1, le=1 << 28)]
_Name = Annotated[str, Field(min_length=1, max_length=60)]


class ModelConfig(BaseModel, ABC):
    """The shape of one model, from the section `model` of a YAML file.

    Attributes:
        without_effect: Options that steer training or speed, and change nothing in what a loaded model computes.
        loaded: Which models are loaded, and which of their variants are not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    without_effect: ClassVar[frozenset[str]] = frozenset()
    loaded: ClassVar[str] = ""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Sources that the network gives."""

    @property
    @abstractmethod
    def n_channels(self) -> int | None:
        """Channels of the mixture and of each source; None where each channel is taken by itself."""

    @property
    @abstractmethod
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""

    @property
    @abstractmethod
    def default_rate_hz(self) -> int:
        """The rate of a model whose file does not say it."""

    @classmethod
    def from_options(cls, options: Mapping[Any, Any]) -> Self:
        """Make the config from the section `model` of a YAML file.

        Raises:
            WeightsError: Options are out of range, or ask for what this implementation lacks.
        """
        known = {name: value for name, value in options.items() if name in cls.model_fields and value is not None}
        # An option that is off asks for nothing, whatever it is.
        rest = {str(name) for name, value in options.items() if value and name not in cls.model_fields}
        if foreign := sorted(rest - cls.without_effect):
            raise WeightsError(
                f"The model asks for {', '.join(foreign)[:200]}, which this model does not have. {cls.loaded}"
            )
        try:
            return cls(**known)
        except ValidationError as error:
            raise WeightsError(f"The model's options cannot be right: {reasons(error)}.") from error


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


class _Section(BaseModel):
    # These sections are mostly about training, which is no matter here.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Audio(_Section):
    sample_rate: Annotated[int, Field(ge=1000, le=1 << 20)] | None = None
    num_channels: Literal[1, 2] | None = None
    chunk_size: _Samples | None = None


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


class Description(_Section, Generic[ConfigT]):
    """What a checkpoint's YAML says: the model's shape, its sources, and how long a stretch it takes."""

    config: ConfigT
    training: _Training
    audio: _Audio = _Audio()
    inference: _Inference = _Inference()

    @model_validator(mode="after")
    def _consistent(self) -> Description[ConfigT]:
        if len(self.computed) != self.config.n_outputs:
            raise ValueError(
                f"num_stems is {self.config.n_outputs}, and the outputs named are {', '.join(self.computed)}"
            )
        if None not in (ours := (self.audio.num_channels, self.config.n_channels)) and ours[0] != ours[1]:
            raise ValueError(f"num_channels is {ours[0]}, and the model has {ours[1]}")
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
        return self.audio.sample_rate or self.config.default_rate_hz

    @property
    def n_channels(self) -> int:
        """Channels of the mixture and of each source."""
        return self.config.n_channels or self.audio.num_channels or 2

    @property
    def segment_samples(self) -> int:
        """The stretch to separate at once: that of the file's inference section, or of its training."""
        frames = self.inference.dim_t
        by_frames = (frames - 1) * self.config.hop_samples if frames and frames > 1 else None
        standard = round(_STANDARD_SECONDS * self.sample_rate_hz)
        return self.inference.chunk_size or self.audio.chunk_size or by_frames or standard


@dataclass(frozen=True)
class Checkpoint(Generic[ConfigT]):
    """A checkpoint's two files: the description, and parameters by name."""

    path: Path
    description: Description[ConfigT]
    state: dict[str, Tensor]


def read_described(place: Path, describe: Callable[[Path], Description[ConfigT]]) -> Checkpoint[ConfigT]:
    """Read the checkpoint in a folder, or in a file whose partner lies beside it. Nothing that a file names is run.

    Raises:
        WeightsError: Files are missing, several could be meant, or one is damaged or unsafe.
    """
    description, parameters = find_described(place)
    return Checkpoint(parameters, describe(description), read_parameters(parameters))


def read_sections(path: Path, configure: Callable[[dict[str, Any]], ConfigT]) -> Description[ConfigT]:
    """Read the description in a YAML file; `configure` turns its section `model` into a config.

    Raises:
        WeightsError: It cannot be right; the message says what is wrong with it.
    """
    values = read_yaml(path)
    if isinstance(values.get("model"), str):
        raise WeightsError(
            f"{path} describes a model of the kind {values['model']!r:.80}, which is not loaded here. The backend 'htdemucs' takes 'htdemucs'."
        )
    for section in ("model", "training"):
        if not isinstance(values.get(section), dict):
            raise WeightsError(f"{path} has no section '{section}', which says what the model is. Is it another file?")
    try:
        config = configure(values["model"])
        sections = {name: values[name] for name in ("training", "audio", "inference") if values.get(name)}
        return Description(config=config, **sections)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except ValidationError as error:
        raise WeightsError(f"{path} cannot be right: {reasons(error)}.") from error
