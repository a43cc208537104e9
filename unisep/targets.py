"""What every result is: targets by name, with what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from unisep.errors import suggest
from unisep.plan import Plan

TargetT = TypeVar("TargetT")


class Presence(NamedTuple):
    """How surely a sound is there between two times: 0 to 1."""

    start_seconds: float
    stop_seconds: float
    presence: float


class Targets(Mapping[str, TargetT]):
    """An ordered, read-only mapping of names to targets.

    presence_over_time: how surely each sound is there, segment by segment, in order; nothing where the backend does not
    say. presence: how surely it is there at all, the surest of them, or None. plan: who answered each name and why.
    """

    def __init__(
        self,
        targets: Mapping[str, TargetT],
        presence_over_time: Mapping[str, Sequence[Presence]],
        plan: Plan,
    ) -> None:
        self._targets = MappingProxyType(dict(targets))
        self.presence_over_time: Mapping[str, tuple[Presence, ...]] = MappingProxyType(
            {name: tuple(presence_over_time.get(name, ())) for name in self._targets}
        )
        self.presence: Mapping[str, float | None] = MappingProxyType(
            {name: _surest(said) for name, said in self.presence_over_time.items()}
        )
        self.plan = plan

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: dict(value) if isinstance(value, MappingProxyType) else value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        views = {name: MappingProxyType(value) for name, value in state.items() if isinstance(value, dict)}
        vars(self).update({**state, **views})

    def __getitem__(self, name: str) -> TargetT:
        if name not in self._targets:
            raise KeyError(
                f"No target named {name!r}. {suggest(str(name), self._targets)} `.rest` is the rest."
            )
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    @property
    def target(self) -> TargetT:
        """The first target."""
        return next(iter(self._targets.values()))


def _surest(said: Sequence[Presence]) -> float | None:
    return max((each.presence for each in said), default=None)
