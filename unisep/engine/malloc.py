"""Have the C library keep freed memory for the next buffer, or give it back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Parameters of mallopt(3), and values for them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 1 << 20
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2048 * _MIB - 1}
# Where the library's own thresholds come to rest once a buffer of 32 MiB was freed.
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB}

_lock = threading.RLock()  # a generator that is collected meanwhile leaves its context in the same thread
_n_keeping, _is_keeping = 0, False


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Use large buffers again while this lasts, in any thread; at its end what is free goes to the system.

    Otherwise large buffers go back to the system whenever they are freed, and come anew page by page, each page filled
    with zeros: a sixth of the time that HT Demucs takes on a CPU. Only the GNU C library can be told to keep them, and
    where the environment (`MALLOC_...`, `GLIBC_TUNABLES`) has told it something already, that stays as it is.
    """
    global _n_keeping
    with _lock:
        _n_keeping += 1
    try:
        _adjust()
        yield
    finally:
        with _lock:
            _n_keeping -= 1
        _adjust()


def _adjust() -> None:
    """Tell the library to keep memory as long as any context goes on."""
    global _is_keeping
    with _lock:
        if _is_keeping == (_n_keeping > 0):
            return
        _is_keeping = _n_keeping > 0
        _tell(_KEEP if _is_keeping else _USUAL)
        if not _is_keeping:
            give_back()


def _after_fork() -> None:
    """Start afresh in a child: no context of the parent goes on, and a lock of another thread would stay locked."""
    global _lock, _n_keeping
    _lock, _n_keeping = threading.RLock(), 0
    _adjust()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def give_back() -> None:
    """Give what the C library keeps free back to the system."""
    if (library := _library()) is not None:
        library.malloc_trim(0)


def _tell(thresholds: dict[int, int]) -> None:
    library = _library()
    if library is None or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    if not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, value in thresholds.items():
            library.mallopt(parameter, value)


@cache
def _library() -> ctypes.CDLL | None:
    """Return the C library of this process, if it has what is used here; only the GNU one keeps so much."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
