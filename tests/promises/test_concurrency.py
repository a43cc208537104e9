"""One Separator for many threads: loaded once, the same results, freed when closed, stopped within a segment."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from unisep import Audio, Backend, BackendInfo, BackendSpec, EncoderSpec, Output, Separator, hookimpl, plugins
from unisep.errors import Cancelled
from unisep.testing import mix, noise, tone
from unisep.testing.toy import SPACE, ToyBackend, ToyEncoder

N_THREADS = 8
QUESTIONS: list[object] = [None, "bass", "hat", ["bass", "hat"], {"text": "oboe", "exclude": "hat"}]


class Counted:
    """How often each thing was loaded, and weak references to what was."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.alive: list[weakref.ref[object]] = []

    def loaded(self, name: str, made: object) -> None:
        self.loads.append(name)
        self.alive.append(weakref.ref(made))

    def n_alive(self) -> int:
        gc.collect()
        return sum(reference() is not None for reference in self.alive)


counted = Counted()
on_segment: Callable[[int], None] = lambda _: None  # noqa: E731


class Watched(ToyBackend):
    """The toy, with weights that take memory, that says when it computes a segment."""

    n_segments = 0

    def __init__(self) -> None:
        super().__init__()
        self.weights = self.make_weights()

    def make_weights(self) -> list[torch.Tensor]:
        return [torch.zeros(2**22)]

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        type(self).n_segments += mixture.shape[0]
        on_segment(type(self).n_segments)
        return super().separate(mixture, queries, negatives)


class Plain(Backend):
    """A fixed backend beside it, so that there are two to load."""

    info = BackendInfo(sources=("plain",), sample_rate_hz=44_100, channels=2)

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        return Output(mixture[:, None] / 2)


def load_watched(**_: object) -> Backend:
    made = Watched()
    counted.loaded("backend", made)
    return made


def load_plain(**_: object) -> Backend:
    made = Plain()
    counted.loaded("plain", made)
    return made


def load_encoder(**_: object) -> ToyEncoder:
    made = ToyEncoder()
    counted.loaded("encoder", made)
    return made


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        stems = Watched.info.sources
        return [
            BackendSpec(name="watched", load=f"{__name__}:load_watched", summary="", stems=stems, spaces=(SPACE,)),
            BackendSpec(name="plain", load=f"{__name__}:load_plain", summary="", stems=Plain.info.sources),
        ]

    @hookimpl
    def unisep_encoders(self) -> list[EncoderSpec]:
        return [EncoderSpec(name="watched", load=f"{__name__}:load_encoder", space=SPACE)]


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISEP_PLUGINS", "-*")
    counted.__init__()  # type: ignore[misc]
    Watched.n_segments = 0
    plugins.refresh()
    with plugins.registered(Hooks(), "watched"):
        yield
    monkeypatch.undo()
    plugins.refresh()


def separator() -> Separator:
    return Separator("watched", query_backend="watched", encoder="watched", offline=True)


def song(seed: int) -> Audio:
    return mix(noise(1.2, seed=seed), tone(100 + 10 * seed, 1.2))


def tasks() -> list[tuple[Audio, object]]:
    return [(song(index), QUESTIONS[index % len(QUESTIONS)]) for index in range(2 * N_THREADS)]


def bits(one: Separator, task: tuple[Audio, object]) -> dict[str, bytes]:
    found = one.separate(*task)
    return {name: audio.samples.tobytes() for name, audio in {**found, "rest": found.rest}.items()}


# threads


def test_eight_threads_get_what_one_would_and_everything_is_loaded_once() -> None:
    sequential = [bits(separator(), task) for task in tasks()]
    counted.loads.clear()
    start = threading.Barrier(N_THREADS)
    with separator() as shared, ThreadPoolExecutor(N_THREADS, initializer=start.wait) as pool:
        together = list(pool.map(lambda task: bits(shared, task), tasks()))
    assert together == sequential
    assert sorted(counted.loads) == ["backend", "encoder"]


def test_threads_with_different_backends_load_each_once() -> None:
    with separator() as shared, ThreadPoolExecutor(N_THREADS) as pool:
        stems = list(pool.map(lambda n: list(shared.separate(song(n), route="auto")), range(N_THREADS)))
        plain = Separator("plain", offline=True)
        halves = list(pool.map(lambda n: plain.separate(song(n))["plain"].samples, range(N_THREADS)))
    assert stems == [["low", "high"]] * N_THREADS
    assert all(np.array_equal(half, song(n).samples / 2) for n, half in enumerate(halves))
    assert sorted(counted.loads) == ["backend", "plain"]


def test_the_embedded_models_can_be_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("unisep_film")
    pytest.importorskip("unisep_clap")
    monkeypatch.setenv("UNISEP_PLUGINS", "")
    plugins.refresh()
    asked: list[tuple[Audio, object]] = [
        (noise(0.5, seed=seed), text) for seed, text in enumerate(["piano", "drums", ["piano", "flute"], "oboe"])
    ]
    options: dict[str, object] = {"segment_seconds": 0.5, "offline": True}
    with Separator(query_backend="htdemucs-film", encoder="clap-mini", **options) as shared:  # type: ignore[arg-type]
        alone = [shared.separate(*task, route="conditioned") for task in asked]
        with ThreadPoolExecutor(N_THREADS) as pool:
            tasks = [asked[index % len(asked)] for index in range(N_THREADS)]
            together = list(pool.map(lambda task: shared.separate(*task, route="conditioned"), tasks))
    for index, found in enumerate(together):
        for name, audio in alone[index % len(asked)].items():
            assert np.array_equal(found[name].samples, audio.samples)


def test_a_thread_that_fails_does_not_disturb_the_others() -> None:
    def parsed(number: int) -> dict[str, bytes] | str:
        try:
            return bits(shared, (song(1), "bass" if number % 2 else {"text": "bass", "time_range": (90, 99)}))
        except ValueError as error:
            return type(error).__name__

    wanted = bits(separator(), (song(1), "bass"))
    with separator() as shared, ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(parsed, range(2 * N_THREADS)))
    assert found == ["QueryError", wanted] * N_THREADS


# memory


def test_closing_frees_what_was_loaded() -> None:
    with separator() as one:
        one.separate(song(0), "bass")
        assert counted.n_alive() == 2
    assert counted.n_alive() == 0
    one.separate(song(0), "bass")
    assert counted.n_alive() == 2
    one.close()
    one.close()
    assert counted.n_alive() == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_closing_gives_the_memory_back_to_the_system() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    n_blocks, one = 2_000, separator()
    one.separate(song(0), "bass")
    one.close()
    before = resident_bytes()
    with separator() as other, pytest.MonkeyPatch.context() as patched:
        # in pieces that are small enough for the C library to keep them
        patched.setattr(Watched, "make_weights", lambda _: [torch.ones(2**14) for _ in range(n_blocks)])
        other.separate(song(0), "bass")
        taken = resident_bytes() - before
    left = resident_bytes() - before
    assert left < taken / 4, (left, taken)


def test_a_separator_that_is_dropped_frees_everything_too() -> None:
    one = separator()
    result = one.separate(song(0), "bass")
    del one
    assert counted.n_alive() == 0, "a result must not hold on to the models"
    assert result.target.n_samples == song(0).n_samples


def test_an_error_that_is_kept_does_not_keep_the_models() -> None:
    def broken(_: int) -> None:
        raise ZeroDivisionError("oops")

    kept: Exception
    with separator() as one, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules[__name__], "on_segment", broken)
        try:
            one.separate(song(0))
        except Exception as error:
            kept = error.with_traceback(None)
            assert kept.__cause__ is not None
            kept.__cause__.__traceback__ = None
    assert "oops" in str(kept)
    assert counted.n_alive() == 0


def test_closing_while_others_work_harms_nobody() -> None:
    wanted = bits(separator(), (song(3), "bass"))
    with separator() as shared, ThreadPoolExecutor(N_THREADS) as pool:
        running = [pool.submit(bits, shared, (song(3), "bass")) for _ in range(3 * N_THREADS)]
        for _ in range(5):
            shared.close()
        assert all(each.result() == wanted for each in running)
    shared.close()
    assert counted.n_alive() == 0


# cancelling


@pytest.mark.parametrize("stop_at", [1, 2, 7])
@pytest.mark.parametrize("query", [None, ["bass", "hat"]])
def test_cancelled_during_a_segment_no_other_is_computed(
    stop_at: int, query: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = threading.Event()
    monkeypatch.setattr(sys.modules[__name__], "on_segment", lambda n: cancel.set() if n == stop_at else None)
    with pytest.raises(Cancelled, match="stopped on request"), separator() as one:
        one.separate(noise(20.0), query, cancel=cancel)
    assert Watched.n_segments == stop_at


def test_cancelled_before_it_begins_nothing_is_computed() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled), separator() as one:
        one.separate(noise(2.0), "bass", cancel=cancel)
    assert Watched.n_segments == 0


def test_cancelling_one_of_several_stops_that_one_only() -> None:
    cancels = [threading.Event() for _ in range(N_THREADS)]
    stopped = set(random.Random(0).sample(range(N_THREADS), 3))

    def parsed(number: int) -> str:
        if number in stopped:
            cancels[number].set()
        try:
            shared.separate(song(number), "bass", cancel=cancels[number])
        except Cancelled:
            return "cancelled"
        return "done"

    with separator() as shared, ThreadPoolExecutor(N_THREADS) as pool:
        found = list(pool.map(parsed, range(N_THREADS)))
    assert {number for number, what in enumerate(found) if what == "cancelled"} == stopped


def test_a_progress_callback_may_stop_it_by_raising() -> None:
    class Enough(Exception):
        """The caller's own way to leave."""

    def leave(progress: object) -> None:
        if Watched.n_segments == 2:
            raise Enough

    with pytest.raises(Enough), separator() as one:
        one.separate(noise(20.0), "bass", on_progress=leave)
    assert Watched.n_segments == 2
