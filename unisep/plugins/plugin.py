"""What is known of one plugin, without importing what it offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from unisep.backend import BackendSpec
from unisep.encoder import EncoderSpec
from unisep.extensions import CommandSpec, ResultSpec, RouteSpec

Spec = BackendSpec | EncoderSpec | CommandSpec | RouteSpec | ResultSpec
SpecT = TypeVar("SpecT", BackendSpec, EncoderSpec, CommandSpec, RouteSpec, ResultSpec)
State = Literal["ok", "broken", "incompatible", "blocked"]
KINDS: dict[type[Spec], str] = {
    BackendSpec: "backend",
    EncoderSpec: "encoder",
    CommandSpec: "command",
    RouteSpec: "route",
    ResultSpec: "result",
}


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `unisep`, or one local file: what it offers, or what went wrong.

    name: of the entry point. state: "ok", "broken" (error holds the traceback), "incompatible" (made for
    another plugin API; error says what to upgrade) or "blocked" (UNISEP_PLUGINS leaves it out; it was not imported).
    """

    name: str
    distribution: str
    version: str
    state: State
    error: str = ""
    specs: tuple[Spec, ...] = ()

    @property
    def backends(self) -> tuple[BackendSpec, ...]:
        """What it can separate with."""
        return self._of(BackendSpec)

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """What it can turn into an Embedding."""
        return self._of(EncoderSpec)

    @property
    def models(self) -> tuple[BackendSpec | EncoderSpec, ...]:
        """What may have weights."""
        return (*self.backends, *self.encoders)

    @property
    def commands(self) -> tuple[CommandSpec, ...]:
        """What it adds to the command line."""
        return self._of(CommandSpec)

    @property
    def routes(self) -> tuple[RouteSpec, ...]:
        """The rules by which it sends queries somewhere."""
        return self._of(RouteSpec)

    @property
    def results(self) -> tuple[ResultSpec, ...]:
        """The steps that it puts results through."""
        return self._of(ResultSpec)

    @property
    def key(self) -> str:
        """The name that no other distribution can claim."""
        return f"{self.distribution}:{self.name}"

    @property
    def is_faulty(self) -> bool:
        """Whether something is wrong with it that somebody should mend."""
        return self.state in ("broken", "incompatible")

    @property
    def complaint(self) -> str:
        """The last line of what went wrong, or ""."""
        return self.error.strip().splitlines()[-1] if self.error.strip() else ""

    def to_json(self) -> dict[str, Any]:
        """The plugin as plain values; keys name, distribution, version, state, error, specs."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "error": self.error or None, "specs": [_spec_json(spec) for spec in self.specs]}

    def _of(self, kind: type[SpecT]) -> tuple[SpecT, ...]:
        return tuple(spec for spec in self.specs if isinstance(spec, kind))


def licence(spec: Spec) -> str:
    """The licence of the spec's weights; "" for what has none to state."""
    return spec.licence if isinstance(spec, BackendSpec | EncoderSpec) else ""


def _spec_json(spec: Spec) -> dict[str, Any]:
    return {
        "kind": KINDS[type(spec)],
        **{each.name: _plain(getattr(spec, each.name)) for each in fields(spec)},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
