"""Freed memory is kept while a recording is separated, and goes back to the system after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack

import pytest

from unisep import Separator
from unisep.engine import cpu
from unisep.errors import BackendError
from unisep.testing import noise, toy_plugin

needs_switch = pytest.mark.skipif(cpu._library() is None, reason="this C library has no such switch")


class Library:
    """Stands for the C library; keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.told.append((parameter, value))

    def malloc_trim(self, pad: int) -> None:
        self.told.append("trim")


KEPT, USUAL = list(cpu._KEEP.items()), [*cpu._USUAL.items(), "trim"]


def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(cpu, "_library", lambda: found)
    _unset(monkeypatch)
    return found


def test_told_before_and_after_a_separation(library: Library) -> None:
    with toy_plugin(), Separator("toy-pan") as separator:
        library.told.clear()
        separator.separate(noise(2.0))
        assert library.told == KEPT + USUAL


def test_told_after_a_separation_that_failed(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with toy_plugin(), Separator("toy-pan") as separator:
        separator.separate(noise(2.0))
        library.told.clear()
        monkeypatch.setattr("unisep.engine.runner.BackendRunner._kept", lambda *_: 1 / 0)
        with pytest.raises(BackendError, match="ZeroDivisionError"):
            separator.separate(noise(2.0))
        assert library.told == KEPT + USUAL


def test_the_last_of_several_gives_back(library: Library) -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(cpu.keeping_freed_memory())
    other = threading.Thread(target=lambda: second.enter_context(cpu.keeping_freed_memory()))
    other.start()
    other.join()
    first.close()
    assert library.told == KEPT
    second.close()
    assert library.told == KEPT + USUAL


@pytest.mark.parametrize("name, value", [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.perturb=1")])
def test_what_the_environment_says_stays(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with cpu.keeping_freed_memory():
        pass
    assert library.told == ["trim"]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_library", lambda: None)
    with cpu.keeping_freed_memory():
        pass
    cpu.give_back()


CHILD = """
import resource
from contextlib import nullcontext
import numpy as np
from unisep.engine.cpu import keeping_freed_memory

def held_kib():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])

def n_faults(context):
    with context:
        before = 0
        for index in range(20):
            if index == 2:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(12_000_000, np.float32)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = held_kib()
print(n_faults(nullcontext()), n_faults(keeping_freed_memory()), n_faults(nullcontext()), held_kib() - before)
"""


@needs_switch
def test_large_buffers_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _unset(monkeypatch)
    done = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True)
    before, within, after, grown_kib = map(int, done.stdout.split())
    assert within < before / 4 and within < after / 4
    assert grown_kib < 20_000  # one buffer is 48 MB


def test_an_interrupt_on_the_way_in_is_forgotten(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "mallopt", interrupt)
        with pytest.raises(KeyboardInterrupt), cpu.keeping_freed_memory():
            pass
    with cpu.keeping_freed_memory():
        assert library.told == KEPT
    assert library.told == KEPT + USUAL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_busy_process_is_free(library: Library) -> None:
    with ExitStack() as stack:
        stack.enter_context(cpu.keeping_freed_memory())
        held = threading.Thread(target=cpu._lock.acquire)
        held.start()
        held.join()
        library.told.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            signal.alarm(5)
            with cpu.keeping_freed_memory():
                pass
            os._exit(0 if library.told == USUAL + KEPT + USUAL else 1)
        status = os.waitpid(child, 0)[1]
        cpu._lock = threading.RLock()
    assert status == 0
