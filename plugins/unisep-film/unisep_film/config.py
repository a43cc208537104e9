"""The shape of a FiLM HT Demucs model, as written into its weights file."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from unisep_htdemucs.config import HTDemucsConfig

from unisep.errors import WeightsError

# What a weights file may set of the separator's shape; all else is fixed by the code.
_DEMUCS_FIELDS = {field.name for field in dataclasses.fields(HTDemucsConfig)}


class FilmConfig(BaseModel):
    """The shape of one model: an HT Demucs, what it puts out, and how it listens to a query.

    demucs: fields of `HTDemucsConfig` that differ from its defaults.
    output: "spectrogram" puts out every source's spectrogram and waveform, as HT Demucs does, and
        mixes them; "mask" multiplies the mixture's spectrogram by one complex mask.
    bands: for "mask", (bins, merged) from low to high: groups of `merged` neighbouring bins count as one.
    spaces: embedding spaces the model understands, with the length of their vectors.
    condition_channels: width of the vector that all FiLM layers read.
    film: where the query enters the cross-transformer: in what its layers read, and once behind them, or ("stream", as older
        weights have it) in the residual stream behind each layer, where it drowns the sound (docs/training-history.md).
    gated: whether presence turns the output down: a sound that is not there is silenced as a whole.
    calibration: for spaces whose presence was compared with what is there: a scale and a bias of its log-odds, and a
        direction whose product with the query vector is added. It changes no target.

    >>> FilmConfig(spaces={"toy-1": 8}).separator.sources
    ('target',)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    demucs: dict[str, Any] = Field(default_factory=dict)
    output: Literal["spectrogram", "mask"] = "spectrogram"
    bands: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    spaces: dict[str, PositiveInt]
    condition_channels: PositiveInt = 256
    film: Literal["layers", "stream"] = "stream"
    gated: bool = False
    calibration: dict[str, tuple[Annotated[float, Field(ge=-1000, le=1000)], ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> FilmConfig:
        unknown = set(self.demucs) - _DEMUCS_FIELDS
        if unknown:
            raise ValueError(f"demucs has no field {sorted(unknown)}")
        try:
            shape = self.separator
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"demucs: {error}") from error
        if not self.spaces:
            raise ValueError("a model without an embedding space can answer no query")
        for space, numbers in self.calibration.items():
            if len(numbers) != 2 + self.spaces.get(space, -2):
                raise ValueError(f"calibration of {space!r:.80}: 2 numbers and one for each of the space are needed")
        if shape.t_layers < 1:
            raise ValueError("t_layers must be 1 or more: the query enters after the first transformer layer")
        n_bins = shape.nfft // 2
        if self.output == "mask" and self.bands:
            if sum(n for n, _ in self.bands) != n_bins or any(n % merged for n, merged in self.bands):
                raise ValueError(f"bands must cover {n_bins} bins in whole groups")
            self.core_config()
        return self

    @property
    def separator(self) -> HTDemucsConfig:
        """The HT Demucs underneath. Raises OptionError when its numbers make no model."""
        values = {"sources": ("target",), **self.demucs}
        values["sources"] = tuple(values["sources"])
        if "segment" in values:
            values["segment"] = _seconds(values["segment"])
        return HTDemucsConfig(**values)

    @property
    def n_bands(self) -> int:
        """Frequencies the U-Net sees: the bins of half a window, or fewer after merging."""
        return sum(n // merged for n, merged in self.bands) or self.separator.nfft // 2

    def core_config(self) -> HTDemucsConfig:
        """Return the HT Demucs shape that tiles the merged bands instead of the bins (for "mask")."""
        return dataclasses.replace(self.separator, nfft=2 * self.n_bands)

    @classmethod
    def from_json(cls, text: str) -> FilmConfig:
        """Parse the config in a weights file's metadata. Raise WeightsError when it describes no model."""
        try:
            return cls.model_validate_json(text)
        except (ValidationError, ValueError) as error:
            raise WeightsError(f"The weights describe no FiLM HT Demucs model: {error}") from error


def _seconds(value: object) -> Fraction:
    """Parse a length like 6, "39/5" or 7.8; an exponent could ask for more digits than there is memory."""
    if not re.fullmatch(r"\d{1,9}(?:/\d{1,9}|\.\d{1,9})?", str(value), flags=re.ASCII):
        raise ValueError(f"segment={value!s:.80} is not a number of seconds")
    return Fraction(str(value))
