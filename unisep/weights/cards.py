"""Weight cards: what a model's weights are, whose they are, where they come from, how good they are.

A card is a TOML file inside a plugin's package. It is checked before anything it says is used.
"""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from unisep.errors import WeightsError, reasons

MAX_CARD_CHARACTERS = 2**15
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def checked_url(url: str) -> str:
    """Return the url. Raises ValueError unless it is https without a password, or http to this very machine."""
    parts = urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not safe or not parts.hostname or parts.username or parts.password:
        raise ValueError(f"{url!r} is refused: weights are fetched from https addresses without a user name")
    return url


def _checked_measures(measures: dict[str, Any]) -> dict[str, Any]:
    for key, value in measures.items():
        if isinstance(value, dict):
            _checked_measures(value)
        elif isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{key!r} must be a number, a text or a table of them, not {value!r}")
    return measures


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$")]


class CardFile(BaseModel):
    """One file of a card: downloaded from `url`, or embedded at `resource` inside the package.

    Attributes:
        revision: On a model hub, the commit or branch that `url` names.
        sha256: Over the whole file; empty where it is recorded at the first download.
        n_bytes: Its size, 0 where it is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    url: str = ""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,100}$")] = ""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    n_bytes: NonNegativeInt = 0
    resource: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> CardFile:
        resource = PurePosixPath(self.resource)
        if bool(self.url) == bool(self.resource):
            raise ValueError("give either url (downloaded) or resource (embedded), not both or none")
        if self.url:
            checked_url(self.url)
        elif resource.is_absolute() or ".." in resource.parts or "\\" in self.resource:
            raise ValueError(
                f"{self.resource!r} leaves the package: give a path in it, such as 'weights/a.safetensors'"
            )
        elif resource.name != self.name:
            raise ValueError(f"the resource {self.resource!r} must end in the file's name {self.name!r}")
        return self


class Card(BaseModel):
    """What is known of a set of weights.

    Attributes:
        sources: The model's outputs in order; empty for query models and encoders.
        sample_rate_hz: Of the model; 0 where the card does not say, as for `segment_seconds` and `n_parameters`.
        measured: Figures of quality and speed, free keys to numbers, texts or tables of them.
        package: Where the card was found; not part of the TOML.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    summary: str
    files: Annotated[tuple[CardFile, ...], Field(min_length=1)]
    licence: str = "not stated"
    source: str = ""
    sources: tuple[str, ...] = ()
    sample_rate_hz: NonNegativeInt = 0
    segment_seconds: NonNegativeFloat = 0.0
    n_parameters: NonNegativeInt = 0
    notes: str = ""
    measured: Annotated[dict[str, Any], AfterValidator(_checked_measures)] = Field(default_factory=dict)
    package: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        folders = {PurePosixPath(file.resource).parent if file.resource else None for file in self.files}
        if len(folders) > 1:
            raise ValueError("files must all be downloaded, or all be embedded in one folder")
        if len({file.name.casefold() for file in self.files}) < len(self.files):
            raise ValueError("two files have the same name")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return bool(self.files[0].resource)

    @property
    def n_bytes(self) -> int:
        """Size of all files together; 0 where one is not known."""
        sizes = [file.n_bytes for file in self.files]
        return sum(sizes) if all(sizes) else 0


def read_card(spec: str) -> Card:
    """Read the card at "package:path/to/card.toml". The package is found, not imported.

    Raises:
        WeightsError: No such package or file, or a card that does not hold what a card must.
    """
    package, separator, resource = spec.partition(":")
    if not separator:
        raise WeightsError(f"{spec!r} names no card. Write it as 'package:path/to/card.toml'.")
    path = package_folder(package) / resource
    try:
        return parse_card(path.read_text(encoding="utf-8"), spec, package)
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"The card {spec!r} cannot be read ({error}). Reinstall its package.") from error


def parse_card(text: str, label: str, package: str = "") -> Card:
    """Read a card written in TOML. Raises WeightsError that names `label`, and says which key is wrong, and why."""
    if len(text) > MAX_CARD_CHARACTERS:
        raise WeightsError(
            f"The card {label!r} has {len(text):,} characters; at most {MAX_CARD_CHARACTERS:,} are read."
        )
    try:
        values = tomllib.loads(text)
        if "package" in values:
            raise WeightsError(f"The card {label!r} has the unknown key 'package'.")
        return Card(**values, package=package)
    except ValidationError as error:
        raise WeightsError(f"The card {label!r} is not valid: {reasons(error, 'card')}.") from error
    except (ValueError, TypeError, RecursionError) as error:  # of tomllib: too many digits, or too deep
        raise WeightsError(f"The card {label!r} is no TOML: {error}.") from error


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it. Raises WeightsError where there is none."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError) as error:
        raise WeightsError(f"The package {package!r} of a card cannot be found ({error}).") from error
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"The package {package!r} of a card is not installed.")
    return Path(next(iter(spec.submodule_search_locations)))
