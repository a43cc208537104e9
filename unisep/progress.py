"""Progress and cancelling: what long work tells its caller, and how the caller stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from unisep.errors import Cancelled, OptionError


@dataclass(frozen=True)
class Progress:
    """State of a long piece of work.

    Attributes:
        fraction: 0 to 1 of the separation, or of a download.
        seconds_done: seconds of audio that are separated.
        seconds_total: seconds of audio to separate in all.
        eta_seconds: estimated seconds of waiting that are left; None until the first segment is done.
        stage: "downloading", "loading", "reading", "encoding", "separating", "learning", "writing" or "done".
    """

    fraction: float
    seconds_done: float
    seconds_total: float
    eta_seconds: float | None
    stage: str


OnProgress = Callable[[Progress], None]


class ProgressReporter:
    """Counts segments and reports `Progress` to `on_progress`, if there is one. Used by one thread."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        if on_progress is not None and not callable(on_progress):
            raise OptionError(f"on_progress={on_progress!r:.80}: give a function that takes a Progress, or None.")
        self._on_progress = on_progress
        self._seconds_total = 0.0
        self._n_segments = 0
        self._n_done = 0
        self._started = 0.0
        self._counted = "separating"

    def stage(self, name: str) -> None:
        """Report that another stage begins."""
        self._report(name)

    def begin(self, n_segments: int, seconds_total: float, stage: str = "separating") -> None:
        """Start the clock on `n_segments`, or steps of another stage, that hold `seconds_total` of audio."""
        self._n_segments, self._seconds_total, self._n_done = n_segments, seconds_total, 0
        self._started, self._counted = time.monotonic(), stage
        self._report(stage)

    def step(self) -> None:
        """Count one more segment."""
        self._n_done += 1
        self._report(self._counted)

    def downloaded(self, n_bytes_done: int, n_bytes_total: int | None) -> None:
        """Report a download; the fraction is that of the file, where its size is known."""
        if self._on_progress is not None:
            fraction = n_bytes_done / n_bytes_total if n_bytes_total else 0.0
            self._on_progress(Progress(fraction, 0.0, 0.0, None, "downloading"))

    def _report(self, stage: str) -> None:
        if self._on_progress is None:
            return
        fraction = 1.0 if stage == "done" else self._n_done / max(1, self._n_segments)
        eta_seconds = None
        if self._n_done:
            elapsed = time.monotonic() - self._started
            eta_seconds = elapsed / self._n_done * (self._n_segments - self._n_done)
        done = fraction * self._seconds_total
        self._on_progress(Progress(fraction, done, self._seconds_total, eta_seconds, stage))


class CancelFlag(Protocol):
    """Anything that tells whether the caller wants to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Tell whether the work is to stop."""


def stop_if(cancel: CancelFlag | None) -> None:
    """Raise Cancelled once the caller wants to stop, and OptionError for what cannot tell."""
    if cancel is None:
        return
    if not callable(getattr(cancel, "is_set", None)):
        raise OptionError(f"cancel={cancel!r:.80}: give something with is_set(), such as a threading.Event, or None.")
    if cancel.is_set():
        raise Cancelled("Cancelled: the separation was stopped on request.")
