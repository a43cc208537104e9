"""What a plugin declares: specs, and the hooks that return them. The whole plugin contract on one screen.

A plugin is a distribution with an entry point in the group `unisep` that names a light module. The module implements any
of the hooks below, each marked with `hookimpl`, and imports nothing heavy, since it is read whenever plugins are listed.
Importing this module loads neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pluggy

GROUP = "unisep"
PLUGIN_API = 1
PRECISIONS = frozenset({"float32", "bfloat16", "float16"})
RESERVED_NAMES = ("rest", "mixture")  # of results that unisep gives by itself

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


def is_reserved(name: str) -> bool:
    """Tell whether unisep calls a result of its own so, in whatever case.

    >>> is_reserved("Rest"), is_reserved("restless")
    (True, False)
    """
    return name.casefold() in RESERVED_NAMES


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every spec says; use one of the five kinds below.

    Attributes:
        name: What the user asks for ("htdemucs"). Lower-case letters, digits, `-`, `_`, `.`.
        load: "package.module:function", imported only on use.
        summary: One line for listings.
        plugin_api: The version of this contract that the plugin was written for.
    """

    kind: ClassVar[str]
    name: str
    load: str
    summary: str
    plugin_api: int = PLUGIN_API


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec):
    """What backends and encoders have in common.

    Attributes:
        licence: Of the weights, an SPDX name or "not stated".
        card: "package:path/to/card.toml", the card of the weights; empty for a model without weights.
    """

    licence: str = ""
    card: str = ""


@dataclass(frozen=True, kw_only=True)
class BackendSpec(ModelSpec):
    """What can be known of a backend without importing it.

    `load(weights=Path | None, device=torch.device, dtype=torch.dtype)` returns a `Backend`. `weights` is the user's file or
    folder, or the folder that holds the verified files of the card.

    Attributes:
        stems: The fixed sources it gives, in order; empty for a backend that only answers queries.
        spaces: Embedding spaces it understands; with any of them, it answers queries.
        stem_queries: For a stem, the sounds it answers, by their names in unisep's concepts or by any other words:
            {"vocals": ("vocals", "speech")}. A stem that is left out answers its own name.
        auto_precision: Kind of device -> "bfloat16" or "float16", the type that `precision="auto"` may take there: it is
            faster, and the results agree with float32 by 40 dB or more. Float32 for kinds that are left out.
        only_by_name: Whether a query that names a stem of it is left to others, unless the user names this backend: for
            methods that nobody trained or measured on such sounds. A query model that says so answers others only live.
        differentiable: Whether `separate` lets gradients through from the targets to the queries, where torch records them:
            then `Separator.learn` can tune a query for it.
        live: Whether `load` returns a `LiveBackend`, which `Separator.live` can ask.
        reads_files: Whether stems and spaces are those of a file, whose `info` states them: it is asked for as "name@file" only.
    """

    kind: ClassVar[str] = "backend"
    stems: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    stem_queries: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    auto_precision: Mapping[str, str] = field(default_factory=dict, hash=False)
    only_by_name: bool = False
    differentiable: bool = False
    live: bool = False
    reads_files: bool = False

    def __post_init__(self) -> None:
        for name in ("stems", "spaces"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(ModelSpec):
    """What can be known of a query encoder without importing it.

    `load(weights=Path | None, device=torch.device)` returns a `QueryEncoder`; `weights` is as for a backend.

    Attributes:
        space: The embedding space of its vectors; backends list the spaces they understand.
        modalities: What it encodes, of "text" and "audio".
        same_meaning: The cosine from which two texts mean the same sound, as measured; 0 where it was not: then words are
            known by their letters alone.
    """

    kind: ClassVar[str] = "encoder"
    space: str
    modalities: frozenset[str] = frozenset({"text", "audio"})
    same_meaning: float = 0.0
    summary: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.modalities, tuple | list | set):
            object.__setattr__(self, "modalities", frozenset(self.modalities))


@dataclass(frozen=True, kw_only=True)
class CommandSpec(Spec):
    """A command for the `unisep` program, whose `name` is the word after `unisep`.

    `load(arguments: list[str])`, with the words after the command, returns the exit code, or None for 0. A `UnisepError`
    becomes one line on stderr. Commands of unisep keep their names; "distribution:name" selects a plugin's command whose
    name is taken.
    """

    kind: ClassVar[str] = "command"


@dataclass(frozen=True, kw_only=True)
class RouteSpec(Spec):
    """A rule that may say who answers a query, asked before unisep's own rules.

    `load(question: Question)` returns a `Direction`, or None to leave the query to the next rule, and in the end to
    unisep. It must answer the same each time.
    """

    kind: ClassVar[str] = "route"


@dataclass(frozen=True, kw_only=True)
class ResultSpec(Spec):
    """A step that every result goes through before the caller gets it.

    `load(targets, mixture)`, with a mapping of names to `Audio` and the recording, all read-only, returns a mapping of the
    same names to `Audio` of the same shape and rate. Afterwards the rest is the recording minus the targets again.
    """

    kind: ClassVar[str] = "result"


@dataclass(frozen=True)
class Question:
    """What a routing rule may know of one query.

    Attributes:
        name: Of the result.
        texts: What was asked in words; none for a query by example or vector alone.
        kinds: What the query is made of, of "text", "audio" and "embedding".
        excludes: Whether something is left out.
        stems: For each installed backend with fixed stems, their names.
    """

    name: str
    texts: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset({"text"})
    excludes: bool = False
    stems: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Where a rule sends a query. What the caller chose by name is never overruled.

    Attributes:
        stem: The fixed stem that answers it, of `backend` or of the best one that has it.
        text: Words to ask in instead; the result keeps its name.
        backend: Who answers it; "" leaves the choice to unisep.
        encoder: Who makes the vector; "" leaves the choice to unisep.
        reason: One sentence for the plan.
    """

    stem: str = ""
    text: str = ""
    backend: str = ""
    encoder: str = ""
    reason: str = ""


@hookspec
def unisep_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """Return BackendSpec objects: what this plugin can separate with."""


@hookspec
def unisep_encoders() -> Iterable[EncoderSpec]:  # type: ignore[empty-body]
    """Return EncoderSpec objects: what this plugin can turn into an Embedding."""


@hookspec
def unisep_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Return CommandSpec objects: what this plugin adds to the `unisep` program."""


@hookspec
def unisep_routes() -> Iterable[RouteSpec]:  # type: ignore[empty-body]
    """Return RouteSpec objects: rules that may say who answers a query, asked before unisep's own."""


@hookspec
def unisep_results() -> Iterable[ResultSpec]:  # type: ignore[empty-body]
    """Return ResultSpec objects: steps that every result goes through before the caller gets it."""
