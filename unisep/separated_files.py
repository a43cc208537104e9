"""What a separation from disk to disk gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import final

from unisep.errors import suggest
from unisep.formats import Encoding
from unisep.recording import Layout
from unisep.separation import Plan, Presence


@final
class SeparatedFiles(Mapping[str, Path]):
    """An ordered, read-only mapping of names to the files written: the targets.

    rest: the file of what is left of the mixture; paths: all of them. gain: what all files were multiplied
    by so that no integer file clips, 1.0 as a rule. encoding, layout: how and how much was written.
    presence, presence_over_time, plan: as in `Separation`.
    """

    def __init__(
        self,
        targets: Mapping[str, Path],
        rest: Path,
        *,
        gain: float,
        encoding: Encoding,
        layout: Layout,
        presence: Mapping[str, float | None],
        presence_over_time: Mapping[str, Sequence[Presence]],
        plan: Plan,
    ) -> None:
        self._targets = MappingProxyType(dict(targets))
        self.rest = rest
        self.gain = gain
        self.encoding = encoding
        self.layout = layout
        self.presence = MappingProxyType(dict(presence))
        self.presence_over_time = MappingProxyType(
            {name: tuple(presence_over_time.get(name, ())) for name in self._targets}
        )
        self.plan = plan

    def __getitem__(self, name: str) -> Path:
        if name not in self._targets:
            raise KeyError(
                f"No target named {name!r}. {suggest(str(name), self._targets)} `.rest` is the rest."
            )
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __repr__(self) -> str:
        return f"SeparatedFiles({', '.join(map(str, self.paths))})"

    @property
    def target(self) -> Path:
        """The file of the first target."""
        return next(iter(self._targets.values()))

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files: the targets in order, then the rest."""
        return (*self._targets.values(), self.rest)

    @property
    def seconds(self) -> float:
        """The length of each file."""
        return (self.layout.n_samples or 0) / self.layout.sample_rate_hz
