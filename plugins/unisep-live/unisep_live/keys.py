"""Keys of the terminal, one by one, without Enter."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key and returns it, or "".

    Where there is no terminal to read from, or none that works so, as on Windows, it only waits.
    """
    try:
        import termios
        import tty
    except ImportError:
        yield _none
        return
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, AttributeError, termios.error):
        yield _none
        return

    def key(seconds: float) -> str:
        return os.read(terminal, 1).decode("ascii", "replace") if select.select([terminal], [], [], seconds)[0] else ""

    tty.setcbreak(terminal)
    try:
        yield key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _none(seconds: float) -> str:
    time.sleep(seconds)
    return ""
