"""Who answers each name, and why: known before anything is computed, and kept with the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, final


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
