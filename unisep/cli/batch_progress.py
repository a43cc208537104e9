"""How far a batch is, in one line: the input at hand, then all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unisep.cli.console import Console, duration, told

if TYPE_CHECKING:
    from unisep.progress import OnProgress, Progress


class BatchProgress:
    """Shows the fraction and the remaining time of each input and of the batch.

    An input counts by the size of its file, which is known without opening it. What was skipped, or
    failed, is taken out of the sum, so that it does not make the rest look quick.
    """

    def __init__(
        self, console: Console, inputs: Sequence[Path | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._sizes = [_size(path) for path in inputs]
        self._clock = clock
        self._n_bytes_done = 0
        self._started: float | None = None

    def label(self, index: int) -> str:
        """What to put before what is said of one input: its place in the batch, or nothing for a batch of one."""
        return f"[{index + 1}/{len(self._sizes)}] " if len(self._sizes) > 1 else ""

    def of(self, index: int, name: str) -> OnProgress | None:
        """A callback that shows how far the input at `index` and the batch are; None where nobody looks."""
        if not self._console.is_watched:
            return None

        def show(progress: Progress) -> None:
            self._console.rewrite(
                f"{self.label(index)}{name}: {told(progress)}{self._of_all(index, progress)}"
            )

        return show

    def ended(self, index: int, *, computed: bool) -> None:
        """Count an input as over; one that was not `computed` no longer belongs to the sum."""
        if computed:
            self._n_bytes_done += self._sizes[index]
        else:
            self._sizes[index] = 0

    def _of_all(self, index: int, progress: Progress) -> str:
        if len(self._sizes) == 1 or progress.stage not in ("separating", "done"):
            return ""
        now = self._clock()
        self._started = now if self._started is None else self._started
        done = self._n_bytes_done + progress.fraction * self._sizes[index]
        fraction = done / max(1, sum(self._sizes))
        if not 0 < fraction <= 1 or now <= self._started:
            return f"; all: {fraction:4.0%}"
        return f"; all: {fraction:4.0%}, {duration((now - self._started) * (1 / fraction - 1))} left"


def _size(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0
