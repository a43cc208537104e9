"""How the processor is used: segments side by side, one thread each, and freed memory kept for the next buffer."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# Parameters of mallopt(3), and values for them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 1 << 20
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2048 * _MIB - 1}
# Where the library's own thresholds come to rest once a buffer of 32 MiB was freed.
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB}

_MEMORY, _MEMORY_LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")  # of Linux, and of a container there

_this_thread = threading.local()
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


class Workers:
    """Computes calls side by side, in inference mode, and takes what they return in the order in which they began.

    At most `n_workers` run at a time, on threads that compute with one thread each: so the bits do not depend on how many
    there are. With 0 workers calls are computed where they are made, as on an accelerator. Used by one thread.
    """

    def __init__(self, n_workers: int, n_threads: int) -> None:
        self._n_workers, self._n_threads = n_workers, n_threads
        self._pending: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()

    def run(self, call: Callable[[], T], then: Callable[[T], None], *, alone: bool = False) -> None:
        """Compute `call` and hand what it returns to `then`, perhaps later; if `alone`, with all threads inside it."""
        if alone or not self._n_workers:
            self.settle()
            with _computing_with(self._n_threads):
                result = call()
            then(result)
        elif self._n_workers == 1:
            then(in_one_thread(call))
        else:
            self._pending.append((_submit(call), then))
            self.settle(self._n_workers - 1)

    def settle(self, n_left: int = 0) -> None:
        """Wait until at most `n_left` calls are unfinished, handing on what they return. Raise what they raised."""
        while len(self._pending) > n_left:
            future, then = self._pending.popleft()
            then(future.result())

    def drop(self) -> None:
        """Wait for what is being computed, and forget it."""
        for future, _ in self._pending:
            future.cancel()
        wait([future for future, _ in self._pending])
        self._pending.clear()


def in_one_thread(call: Callable[[], T]) -> T:
    """Return what `call` returns, computed with one thread, in inference mode."""
    if torch.get_num_threads() > 1:
        return _submit(call).result()
    with torch.inference_mode():
        return call()


def is_worker() -> bool:
    """Tell whether this thread is a worker. What a plugin separates there waits for no other worker."""
    return getattr(_this_thread, "is_worker", False)


def free_bytes() -> int | None:
    """Return how much memory this process may still take, or None where the system does not say."""
    numbers = []
    with suppress(OSError, TypeError):
        match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMORY.read_text(), re.MULTILINE)
        numbers.append(int(match[1]) * 1024)  # type: ignore[index]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        numbers.append(int(_MEMORY_LIMIT.read_text()))
    return min(numbers, default=None)


@contextmanager
def _computing_with(n_threads: int) -> Iterator[None]:
    """Have torch compute with so many threads here, in inference mode, and as before afterwards."""
    n_before = torch.get_num_threads()
    if n_threads != n_before:
        torch.set_num_threads(n_threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        if n_threads != n_before:
            torch.set_num_threads(n_before)


def _submit(call: Callable[[], T]) -> Future[T]:
    """Run `call` on a thread of the pool, which has one for each core and serves the whole process."""
    global _pool
    with _pool_lock:
        if _pool is None:
            n_threads, n_before = os.cpu_count() or 1, torch.get_num_threads()
            all_here = threading.Barrier(n_threads + 1)
            _pool = ThreadPoolExecutor(n_threads, "unisep", _become_worker)
            for _ in range(n_threads):
                _pool.submit(all_here.wait)
            all_here.wait()
            torch.set_num_threads(n_before)  # threads that begin later take the number that was set last
        return _pool.submit(torch.inference_mode()(call))


def _become_worker() -> None:
    torch.get_num_threads()  # or else the first operation would take the number for new threads
    torch.set_num_threads(1)
    _this_thread.is_worker = True


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
    """Start afresh in a child: no context or thread of the parent goes on, and a lock of another would stay locked."""
    global _lock, _n_keeping, _pool_lock, _pool
    _lock, _n_keeping, _pool_lock, _pool = threading.RLock(), 0, threading.Lock(), None
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
