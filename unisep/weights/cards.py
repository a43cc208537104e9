"""Weight cards: what a model's weights are, whose they are, where they come from, how good they are.

A card is a TOML file inside a plugin's package. It is checked before anything it says is used.
"""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisep.errors import WeightsError, reasons

MAX_CARD_CHARACTERS = 2**15


_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,149}$"


def checked_url(url: str) -> str:
    """The url itself. ValueError unless it is https without a password, or http to this very machine."""
    parts = urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not safe or not parts.hostname or parts.username or parts.password:
        raise ValueError(f"{url!r} is refused: weights are fetched from https addresses without a user name")
    return url


def _checked_resource(resource: str) -> str:
    path = PurePosixPath(resource)
    if path.is_absolute() or ".." in path.parts or "\\" in resource:
        raise ValueError(f"{resource!r} leaves the package: give a path inside it, such as 'weights/a.safetensors'")
    return resource


def _checked_measure(measures: dict[str, Any]) -> dict[str, Any]:
    for key, value in measures.items():
        if isinstance(value, dict):
            _checked_measure(value)
        elif isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{key!r} must be a number, a text or a table of them, not {value!r}")
    return measures


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardFile(_Strict):
    """One file of a card: downloaded from `url`, or embedded at `resource` inside the package.

    sha256: over the whole file, 64 hex digits; empty where it is recorded at the first download.
    n_bytes: its size, 0 where it is not known.
    revision: on a model hub, the commit or branch that `url` names.
    """

    name: Annotated[str, Field(pattern=_PLAIN_NAME)]
    url: str = ""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,100}$")] = ""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    n_bytes: Annotated[int, Field(ge=0)] = 0
    resource: Annotated[str, AfterValidator(_checked_resource)] = ""

    @model_validator(mode="after")
    def _one_origin(self) -> CardFile:
        if bool(self.url) == bool(self.resource):
            raise ValueError("give either url (downloaded) or resource (embedded), not both or none")
        if self.url:
            checked_url(self.url)
        elif PurePosixPath(self.resource).name != self.name:
            raise ValueError(f"the resource {self.resource!r} must end in the file's name {self.name!r}")
        return self


class Card(_Strict):
    """What is known of a set of weights. `package` is where the card was found, not part of the TOML.

    sources: the model's outputs in order; empty for query models and encoders.
    sample_rate_hz, segment_seconds, n_parameters: of the model, 0 where the card does not say.
    measured: figures of quality and speed, free keys to numbers, texts or tables of them.
    """

    name: Annotated[str, Field(pattern=_PLAIN_NAME)]
    summary: str
    files: Annotated[tuple[CardFile, ...], Field(min_length=1)]
    licence: str = "not stated"
    source: str = ""
    sources: tuple[str, ...] = ()
    sample_rate_hz: Annotated[int, Field(ge=0)] = 0
    segment_seconds: Annotated[float, Field(ge=0)] = 0.0
    n_parameters: Annotated[int, Field(ge=0)] = 0
    notes: str = ""
    measured: Annotated[dict[str, Any], AfterValidator(_checked_measure)] = Field(default_factory=dict)
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
    """The card at "package:path/to/card.toml". The package is found, not imported.

    Raises:
        WeightsError: no such package or file, or a card that does not hold what a card must.
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
    """The card written in `text` (TOML). Raises WeightsError that says which key is wrong, and why."""
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
    """The folder of an installed package, without importing it. Raises WeightsError where there is none."""
    try:
        found = find_spec(package)
    except (ImportError, ValueError) as error:
        raise WeightsError(f"The package {package!r} of a card cannot be found ({error}).") from error
    if found is None or not found.submodule_search_locations:
        raise WeightsError(f"The package {package!r} of a card is not installed.")
    return Path(next(iter(found.submodule_search_locations)))
