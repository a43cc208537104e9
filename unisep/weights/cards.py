"""Weight cards: what a model's weights are, whose they are, where they come from, how good they are.

A card is a TOML file inside a plugin's package. It is checked before anything it says is used.
"""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, ValidationError, model_validator

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


class CardFile(BaseModel, extra="forbid", frozen=True):
    """One file of a card: downloaded from `url`, or embedded at `resource` inside the package.

    `revision` is the commit or branch of a model hub that `url` names; `sha256` is empty where it is recorded at the
    first download, and `n_bytes` 0 where it is not known.
    """

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
            raise ValueError(f"{self.resource!r} leaves the package: give a path in it, such as 'weights/a.bin'")
        elif resource.name != self.name:
            raise ValueError(f"the resource {self.resource!r} must end in the file's name {self.name!r}")
        return self


class Quality(BaseModel, extra="forbid", frozen=True):
    """One figure: the `metric` of one stem on the recordings of `test_set`, and the `source` that states or measures it."""

    stem: str
    figure_db: Annotated[float, Field(allow_inf_nan=False)]
    metric: str
    test_set: str
    source: str


class Card(BaseModel, extra="forbid", frozen=True):
    """What is known of a set of weights, 0 and "" where the card does not say.

    `sources` are the model's outputs in order, none for query models and encoders; `quality` holds the figures that
    compare models; `measured` holds any figures of quality and speed, free keys to numbers, texts or tables of them;
    `package`, where the card was found, is not in the TOML.
    `installed` are files of the package `installed_in` that hold the same weights, and make a download needless.
    """

    name: _Name
    summary: str
    files: Annotated[tuple[CardFile, ...], Field(min_length=1)]
    licence: str = "not stated"
    source: str = ""
    sources: tuple[str, ...] = ()
    sample_rate_hz: NonNegativeInt = 0
    segment_seconds: Annotated[float, Field(ge=0)] = 0.0
    n_parameters: NonNegativeInt = 0
    notes: str = ""
    quality: tuple[Quality, ...] = ()
    measured: Annotated[dict[str, Any], AfterValidator(_checked_measures)] = Field(default_factory=dict)
    package: str = ""
    installed_in: str = Field("", exclude=True)
    installed: tuple[CardFile, ...] = Field((), exclude=True)

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        for files in (self.files, self.installed):
            if len({PurePosixPath(file.resource).parent if file.resource else None for file in files}) > 1:
                raise ValueError("files must all be downloaded, or all be embedded in one folder")
            if len({file.name.casefold() for file in files}) < len(files):
                raise ValueError("two files have the same name")
        if bool(self.installed_in) != bool(self.installed) or any(file.url for file in self.installed):
            raise ValueError("give installed_in, a package, together with installed, files that are resources in it")
        return self

    def where_installed(self) -> Card:
        """Return the card of the files in the package `installed_in` where that is installed, else the card itself."""
        try:
            package_folder(self.installed_in)
        except WeightsError:
            return self
        return self.model_copy(update={"files": self.installed, "package": self.installed_in})

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return bool(self.files[0].resource)

    @property
    def is_fetchable(self) -> bool:
        """Whether the weights can be downloaded, and are known well enough to do so unasked."""
        return all(file.url and file.sha256 and file.n_bytes for file in self.files)

    @property
    def n_bytes(self) -> int:
        """Size of all files together; 0 where one is not known."""
        return sum(file.n_bytes for file in self.files) if all(file.n_bytes for file in self.files) else 0


def read_card(spec: str) -> Card:
    """Read the card at "package:path/to/card.toml". Raises WeightsError if it is not there or not valid."""
    package, _, resource = spec.partition(":")
    path = package_folder(package) / resource
    try:
        return parse_card(path.read_text(encoding="utf-8"), spec, package).where_installed()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"The card {spec!r} cannot be read ({error}). Reinstall its package.") from error


def parse_card(text: str, label: str, package: str = "") -> Card:
    """Read a card written in TOML. Raises WeightsError that names `label`, and says which key is wrong, and why."""
    if len(text) > MAX_CARD_CHARACTERS:
        raise WeightsError(f"The card {label!r} has {len(text):,} characters; {MAX_CARD_CHARACTERS:,} are the most.")
    try:
        return Card(**tomllib.loads(text), package=package)
    except ValidationError as error:
        raise WeightsError(f"The card {label!r} is not valid: {reasons(error, 'card')}.") from error
    except (ValueError, TypeError, RecursionError) as error:  # too many digits, "package" as a key, too deep
        raise WeightsError(f"The card {label!r} is no TOML: {error}.") from error


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"The package {package!r} of a card is not installed. Cards are 'package:path/card.toml'.")
    return Path(next(iter(spec.submodule_search_locations)))
