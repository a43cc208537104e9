"""Segments are computed side by side on the CPU, and nothing but the time it takes depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Separation, Separator, files, hookimpl, plugins
from unisep.errors import BackendError, Cancelled, OptionError
from unisep.testing import mix, noise, tone

RATE_HZ = 8_000
SEGMENT_SECONDS = 0.25


class Observed(Backend):
    """Depends on the whole segment, gives its outputs in memory that it uses again, and notes how it is called."""

    info = BackendInfo(sources=("a", "b"), sample_rate_hz=RATE_HZ, channels=2, segment_seconds=SEGMENT_SECONDS)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory = threading.local()
        self.n_now = self.n_most = self.n_calls = 0
        self.torch_threads: list[int] = []
        self.before: Callable[[int], None] = lambda _: None

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        with self.lock:
            self.n_calls += 1
            number = self.n_calls
            self.n_now += 1
            self.n_most = max(self.n_most, self.n_now)
            self.torch_threads.append(torch.get_num_threads())
        try:
            self.before(number)
            first = mixture * mixture.abs().mean((1, 2), keepdim=True)
            outputs = torch.stack([first, mixture - first], dim=1)
            if getattr(self.memory, "outputs", outputs[:0]).shape != outputs.shape:
                self.memory.outputs = torch.empty_like(outputs)
            self.memory.outputs.copy_(outputs)
            return Output(self.memory.outputs)
        finally:
            with self.lock:
                self.n_now -= 1


observed = Observed()


def load_observed(**_: object) -> Observed:
    return observed


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        load = f"{__name__}:load_observed"
        return [BackendSpec(name="observed", load=load, summary="", stems=Observed.info.sources)]


@pytest.fixture(autouse=True)
def observed_plugin() -> Iterator[None]:
    observed.__init__()  # type: ignore[misc]
    n_threads = torch.get_num_threads()
    with plugins.registered(Hooks(), "observed"):
        yield
    torch.set_num_threads(n_threads)


def separated(threads: int | None, audio: Audio | None = None, **options: object) -> Separation:
    with Separator("observed", device="cpu", threads=threads, **options) as separator:  # type: ignore[arg-type]
        return separator.separate(audio or noise(4.0, RATE_HZ))


def samples_of(result: Separation) -> dict[str, bytes]:
    return {name: audio.samples.tobytes() for name, audio in {**result, "rest": result.rest}.items()}


def slowly(_: int) -> None:
    time.sleep(0.02)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_so_many_segments_are_computed_at_a_time_with_one_thread_each(threads: int) -> None:
    torch.set_num_threads(2)
    observed.before = slowly
    separated(threads)
    assert observed.n_most == min(threads, os.cpu_count() or 1)
    assert set(observed.torch_threads) == {1}
    assert observed.n_calls > 20


@pytest.mark.parametrize("shifts", [0, 2])
def test_the_bits_do_not_depend_on_the_number_of_threads(shifts: int) -> None:
    wanted = samples_of(separated(1, shifts=shifts))
    observed.before = lambda number: time.sleep(0.01 * (number % 3))  # they end in another order than they began
    for threads in (2, 3, 8):
        assert samples_of(separated(threads, shifts=shifts)) == wanted


def test_the_bits_of_the_embedded_models_do_not_depend_on_it_either() -> None:
    pytest.importorskip("unisep_film")
    pytest.importorskip("unisep_clap")
    song, results = mix(noise(2.2, 44_100), tone(220, 2.2, 44_100)), []
    for threads, n_of_torch in ((1, 1), (1, 2), (2, 1), (2, 3), (None, 2)):
        torch.set_num_threads(n_of_torch)
        models = {"query_backend": "htdemucs-film", "encoder": "clap-mini", "offline": True, "segment_seconds": 1.0}
        with Separator(threads=threads, **models) as separator:  # type: ignore[arg-type]
            result = separator.separate(song, ["electric guitar", {"audio": tone(6_000, 1.0), "name": "bright"}])
        results.append((samples_of(result), result.presence))
    assert all(result == results[0] for result in results[1:])


def test_a_recording_of_one_segment_is_computed_with_all_threads() -> None:
    separated(3, noise(SEGMENT_SECONDS * 0.7, RATE_HZ))
    assert observed.torch_threads == [3]
    assert torch.get_num_threads() != 3 or os.environ.get("OMP_NUM_THREADS") == "3"


def test_a_file_and_a_stream_give_the_same_bits(tmp_path: Path) -> None:
    song = noise(4.0, RATE_HZ)
    wanted = samples_of(separated(1, song))
    source = files.write(tmp_path / "song.wav", song)
    with Separator("observed", device="cpu", threads=3) as separator:
        written = separator.separate_file(source, tmp_path / "out", subtype="FLOAT")
        blocks = np.array_split(song.samples, 7, axis=1)
        parts = list(separator.stream(blocks, sample_rate_hz=RATE_HZ))
    for name, path in written.items():
        assert files.read(path).samples.tobytes() == wanted[name]
    joined = np.concatenate([part["a"].samples for part in parts], axis=1)
    assert joined.tobytes() == wanted["a"]


def test_a_stream_waits_for_no_later_block() -> None:
    with Separator("observed", device="cpu", threads=4) as separator:
        stream = separator.stream(np.split(noise(4.0, RATE_HZ).samples, 40, axis=1), sample_rate_hz=RATE_HZ)
        n_out = 0
        for part in stream:
            n_out += part.rest.n_samples
            n_in = min(observed.n_calls + 3, 40) * 800
            assert n_out >= n_in - stream.delay_samples - 4 * 800


def test_where_memory_is_short_fewer_are_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisep.engine.device.free_bytes", lambda: 1 << 30)
    observed.before = slowly
    separated(4)
    assert observed.n_most == 1


@pytest.mark.parametrize("limit, expected", [("max", 8_000 * 1024), ("4096000", 4_096_000), (None, 8_000 * 1024)])
def test_free_memory_is_that_of_the_machine_or_of_the_container(
    limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unisep.engine import cpu

    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    if limit is not None:
        (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(cpu, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(cpu, "_MEMORY_LIMIT", tmp_path / "limit")
    assert cpu.free_bytes() == expected
    monkeypatch.setattr(cpu, "_MEMORY", tmp_path / "none")
    assert cpu.free_bytes() == (4_096_000 if limit == "4096000" else None)


def test_the_first_segment_that_fails_is_named_and_no_other_goes_on() -> None:
    def fail(number: int) -> None:
        time.sleep(0.05 if number == 6 else 0.01)  # a later one fails first
        if number >= 6:
            raise ZeroDivisionError(f"call {number}")

    observed.before = fail
    with pytest.raises(BackendError, match=r"failed at 0\.9 s: ZeroDivisionError"):
        separated(3)
    n_calls = observed.n_calls
    assert observed.n_now == 0
    time.sleep(0.1)
    assert observed.n_calls == n_calls <= 8


def test_cancelled_no_other_segment_begins() -> None:
    cancel = threading.Event()
    observed.before = lambda number: cancel.set() if number == 5 else slowly(number)
    with pytest.raises(Cancelled), Separator("observed", device="cpu", threads=2) as separator:
        separator.separate(noise(4.0, RATE_HZ), cancel=cancel)
    assert observed.n_calls <= 6 and observed.n_now == 0


def test_progress_is_told_in_order_by_the_callers_thread() -> None:
    told: list[tuple[float, int]] = []
    observed.before = slowly
    with Separator("observed", device="cpu", threads=3) as separator:
        separator.separate(
            noise(4.0, RATE_HZ), on_progress=lambda p: told.append((p.seconds_done, threading.get_ident()))
        )
    assert [seconds for seconds, _ in told] == sorted(seconds for seconds, _ in told)
    assert {thread for _, thread in told} == {threading.get_ident()}
    assert len({seconds for seconds, _ in told}) > 15


def test_a_backend_may_use_a_separator_itself() -> None:
    inner: list[dict[str, bytes]] = []

    def nested(number: int) -> None:
        if not getattr(observed.memory, "is_nested", False):
            observed.memory.is_nested = True
            with Separator("observed", device="cpu", threads=4) as separator:
                inner.append(samples_of(separator.separate(noise(1.0, RATE_HZ))))
            observed.memory.is_nested = False

    wanted = samples_of(separated(1, noise(1.0, RATE_HZ)))
    observed.before = nested
    separated(4)
    assert len(inner) > 15 and all(result == wanted for result in inner)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_threads_is_refused(threads: object) -> None:
    with pytest.raises(OptionError, match=r"threads=.*: give a whole number of 1 or more"):
        Separator("observed", threads=threads)  # type: ignore[arg-type]


NEW_THREADS = """
import threading, torch
from unisep import Separator
from unisep.testing import noise, toy_plugin

def threads_of_a_new_one():
    numbers = []
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start(); thread.join()
    return numbers[0]

torch.set_num_threads(3)
with toy_plugin(), Separator("toy", query_backend="toy", encoder="toy", threads=2, offline=True) as separator:
    separator.separate(noise(3.0))
assert torch.get_num_threads() == threads_of_a_new_one() == 3
"""

# With one thread of torch: the threads of OpenMP are lost in a child, whoever forks.
FORK = """
import os
import numpy as np
from unisep import Separator
from unisep.testing import noise, toy_plugin

with toy_plugin(), Separator("toy", query_backend="toy", encoder="toy", threads=2, offline=True) as separator:
    before = separator.separate(noise(3.0))
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        again = separator.separate(noise(3.0))
        os._exit(not all(np.array_equal(again[name].samples, before[name].samples) for name in before))
"""


@pytest.mark.parametrize("script", [NEW_THREADS, FORK], ids=["threads", "fork"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_threads_that_the_caller_starts_later_and_a_child_work_as_ever(script: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=120)
