"""What a separation from disk to disk gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from unisep.formats import Encoding
from unisep.plan import Plan
from unisep.recording import Layout
from unisep.targets import Presence, Targets


@final
class SeparatedFiles(Targets[Path]):
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
        presence_over_time: Mapping[str, Sequence[Presence]],
        plan: Plan,
    ) -> None:
        super().__init__(targets, presence_over_time, plan)
        self.rest = rest
        self.gain = gain
        self.encoding = encoding
        self.layout = layout

    def __repr__(self) -> str:
        return f"SeparatedFiles({', '.join(map(str, self.paths))})"

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files: the targets in order, then the rest."""
        return (*self._targets.values(), self.rest)

    @property
    def seconds(self) -> float:
        """The length of each file."""
        return (self.layout.n_samples or 0) / self.layout.sample_rate_hz
