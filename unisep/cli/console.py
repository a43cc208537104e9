"""What the program prints: data, tables, progress."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisep.errors import OptionError, UnisepError

if TYPE_CHECKING:
    from unisep.progress import OnProgress, Progress


_CONTROLS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)  # but for tab and newline


class Console:
    """The terminal, as a context manager in which warnings and log lines appear as plain lines on stderr.

    Inside another one, as a plugin's command has it, this one alone speaks. With `as_json`, `data` prints and `lines` does not.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._stack = ExitStack()
        self._warned: set[str] = set()
        self._line_open = False

    def __enter__(self) -> Console:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = self._show_warning
        log = logging.getLogger("unisep")
        self._stack.callback(log.setLevel, log.level)
        self._stack.callback(setattr, log, "handlers", log.handlers)
        log.setLevel(logging.INFO)
        log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Handler)] + [_Handler(self)]
        return self

    def __exit__(self, *_error: object) -> None:
        self._end_line()
        self._stack.close()

    def data(self, value: Any) -> None:
        """Print `value` on stdout as JSON, if JSON was asked for."""
        if self.as_json:
            is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
            text = json.dumps(value, indent=2, ensure_ascii=not is_utf8, default=str)
            print(visible(text), flush=True)

    def lines(self, lines: Sequence[str]) -> None:
        """Print lines on stdout, unless JSON was asked for."""
        if not self.as_json:
            self._end_line()
            for line in lines:
                print(visible(line), flush=True)

    def note(self, text: str) -> None:
        """Say something on stderr that a quiet console keeps to itself."""
        if not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """Say something on stderr."""
        self._end_line()
        print(visible(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Say a warning on stderr, each once for a whole batch."""
        if text not in self._warned:
            self._warned.add(text)
            self.say(f"unisep: warning: {text}")

    def error(self, error: Exception, about: str = "") -> None:
        """Say what went wrong, without a traceback."""
        self.say(f"unisep: error: {about}{describe(error)}")

    def agrees(self, question: str, otherwise: str) -> bool:
        """Ask on the terminal. Raise OptionError, with the command to use `otherwise`, where there is none."""
        if sys.stdin is None or not sys.stdin.isatty():
            raise OptionError(f"There is no terminal to ask on: {question} If so, run: {otherwise}")
        self.say(f"{question} [y/N]")
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks on: stderr is a terminal, and notes are wanted."""
        return not self._quiet and sys.stderr.isatty()

    def progress(self, label: str, more: Callable[[Progress], str] = lambda _: "") -> OnProgress | None:
        """Return a callback that shows stage, fraction and remaining time, then `more`; None where nobody looks."""
        if not self.is_watched:
            return None

        def show(progress: Progress) -> None:
            left = "" if progress.eta_seconds is None else f", {duration(progress.eta_seconds)} left"
            self.rewrite(f"{label}: {progress.stage} {progress.fraction:4.0%}{left}{more(progress)}")

        return show

    def rewrite(self, text: str) -> None:
        """Replace the open line of a terminal by `text`."""
        print(f"\r\x1b[2K{visible(text)}", end="", file=sys.stderr, flush=True)
        self._line_open = True

    def _end_line(self) -> None:
        if self._line_open:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
            self._line_open = False

    def _show_warning(self, message: Warning | str, category: type[Warning], *_place: Any, **_more: Any) -> None:
        if issubclass(category, UserWarning):
            self.warn(str(message))


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._console.warn(record.getMessage())
        else:
            self._console.note(f"unisep: {record.getMessage()}")


class BatchProgress:
    """Shows the fraction and the remaining time of each input and of the batch, in which it counts by its size in bytes."""

    def __init__(
        self, console: Console, inputs: Sequence[Path | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._sizes_bytes = [os.path.getsize(path) if path and os.path.isfile(path) else 0 for path in inputs]
        self._n_bytes_done = 0
        self._started: float | None = None

    def label(self, index: int) -> str:
        """Return the place of an input in the batch, such as "[1/3] "; "" in a batch of one."""
        return f"[{index + 1}/{len(self._sizes_bytes)}] " if len(self._sizes_bytes) > 1 else ""

    def of(self, index: int, name: str) -> OnProgress | None:
        """Return a callback that shows how far the input at `index` and the batch are; None where nobody looks."""
        return self._console.progress(f"{self.label(index)}{name}", lambda progress: self._of_all(index, progress))

    def ended(self, index: int, *, computed: bool) -> None:
        """Count an input as over; one that was not `computed` leaves the sum, so that the rest does not look quick."""
        if computed:
            self._n_bytes_done += self._sizes_bytes[index]
        else:
            self._sizes_bytes[index] = 0

    def _of_all(self, index: int, progress: Progress) -> str:
        if len(self._sizes_bytes) == 1 or progress.stage not in ("separating", "done"):
            return ""
        now = self._clock()
        self._started = now if self._started is None else self._started
        n_bytes_done = self._n_bytes_done + progress.fraction * self._sizes_bytes[index]
        fraction = n_bytes_done / max(1, sum(self._sizes_bytes))
        left = (
            f", {duration((now - self._started) * (1 / fraction - 1))} left" if fraction and now > self._started else ""
        )
        return f"; all: {fraction:4.0%}{left}"


def visible(text: str) -> str:
    r"""Return text that no terminal obeys: with escapes, which JSON understands too, for control characters.

    >>> visible("song\x1b[2J.wav")
    'song\\u001b[2J.wav'
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def describe(error: Exception) -> str:
    """Return the error in one line: its message, or what to do about an error that nobody foresaw."""
    if isinstance(error, UnisepError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory. Use a shorter --segment, or cut the recording."
    if isinstance(error, OSError):
        return f"{error}. Check the disk and the permissions."
    return f"unexpected {type(error).__name__}: {error}. Run again with --debug to see where, and please report it."


def duration(seconds: float) -> str:
    """Return a time to wait, as people say it.

    >>> duration(7.4), duration(185), duration(3720)
    ('7 s', '3:05 min', '1:02 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which the cells of each column stand below each other.

    >>> columns([("a", "long"), ("bcd", "x")])
    ['a    long', 'bcd  x']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]
