"""A device that runs out of memory: the batch is halved, then the CPU goes on. And NaN is never silence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unisep import Audio, Backend, BackendInfo, BackendSpec, Output, Separator, hookimpl, plugins
from unisep.engine.chunking import Chunker, SegmentPlan
from unisep.engine.device import ACCELERATOR_BATCH_SEGMENTS, MAX_BATCH_SEGMENTS, Options
from unisep.engine.runner import BackendRunner, SegmentOutput
from unisep.engine.timeline import Span
from unisep.errors import BackendError
from unisep.testing import noise

CPU = torch.device("cpu")
RATE_HZ = 8_000
SEGMENT = 800
FAILURES = {
    "torch says so by type": torch.OutOfMemoryError("no memory left"),
    "mps says so in words": RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    "cublas has a word of its own": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
}


class Small(Backend):
    """Halves what it gets, as long as no more than `room` segments come at once."""

    info = BackendInfo(
        sources=("half", "other half"), sample_rate_hz=RATE_HZ, channels=2, segment_seconds=SEGMENT / RATE_HZ
    )

    def __init__(self, room: int, failure: Exception | None = None) -> None:
        self.room = room
        self.failure = failure or FAILURES["torch says so by type"]
        self.asked: list[int] = []

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        self.asked.append(mixture.shape[0])
        if mixture.shape[0] > self.room:
            raise self.failure
        return Output(torch.stack([mixture / 2, mixture / 2], dim=1))


def batch(n_segments: int) -> torch.Tensor:
    return torch.randn(n_segments, 2, SEGMENT, generator=torch.Generator().manual_seed(0))


reasons: list[str] = []  # why the last runner went to the CPU


def runner(backend: Backend, spare: Backend | None = None) -> Callable[[torch.Tensor], SegmentOutput]:
    """What runs batches of the first segments of a recording."""
    reasons.clear()
    on_cpu = None if spare is None else lambda reason: (reasons.append(reason), spare)[1]
    one = BackendRunner(backend, "small", None, [0, 1], on_cpu=on_cpu)
    segments = SegmentPlan(SEGMENT).grid(SEGMENT * 20)
    return lambda batch: one.run(batch, segments[: len(batch)])


def halves(batch: torch.Tensor) -> torch.Tensor:
    return torch.stack([batch / 2, batch / 2], dim=1)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_batch_that_does_not_fit_is_halved_and_stays_so(failure: str) -> None:
    backend = Small(2, FAILURES[failure])
    run, given = runner(backend), batch(8)
    output = run(given)
    assert torch.equal(output.sources, halves(given)) and output.presence.shape == (8, 2)
    assert backend.asked == [8, 4, 2, 2, 2, 2]
    run(given)
    assert backend.asked[6:] == [2, 2, 2, 2]


def test_one_segment_that_does_not_fit_goes_to_the_cpu_and_says_so_once() -> None:
    backend, spare = Small(0), Small(99)
    run, given = runner(backend, spare), batch(3)
    output = run(given)
    (reason,) = reasons
    assert re.search(r"ran out at 0\.0 s.*'small' goes on on the CPU", reason)
    assert torch.equal(output.sources, halves(given))
    assert backend.asked == [3, 1]
    assert spare.asked == [1, 1, 1]
    run(given)
    assert backend.asked == [3, 1], "what failed is not tried again in this recording"


def test_without_a_cpu_to_go_to_the_error_names_backend_time_and_advice() -> None:
    one = BackendRunner(Small(0), "small", None, [0, 1])
    with pytest.raises(BackendError, match=r"'small' failed at 0\.1 s.*shorter segment_seconds"):
        one.run(batch(1), [Span(SEGMENT, 2 * SEGMENT)])


def test_the_cpu_may_run_out_too() -> None:
    with pytest.raises(BackendError, match="segment_seconds"):
        runner(Small(0), Small(0))(batch(2))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    backend = Small(0, RuntimeError("shapes do not match"))
    with pytest.raises(BackendError, match="shapes do not match"):
        runner(backend, Small(9))(batch(4))
    assert backend.asked == [4]


LACKS = {
    "an operator": NotImplementedError(
        "The operator 'aten::polar.out' is not currently implemented for the MPS device."
    ),
    "a backend": NotImplementedError("Could not run 'aten::_fft_c2r' with arguments from the 'MPS' backend.\nmore"),
    "doubles": TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
}


@pytest.mark.parametrize("lack", LACKS)
def test_a_device_that_lacks_an_operator_leaves_the_rest_to_the_cpu(lack: str) -> None:
    backend, spare = Small(0, LACKS[lack]), Small(99)
    run, given = runner(backend, spare), batch(3)
    output = run(given)
    (reason,) = reasons
    assert re.search(r"cpu cannot do all of 'small' \(.*\): it goes on on the CPU", reason) and "more" not in reason
    assert torch.equal(output.sources, halves(given))
    assert backend.asked == [3] and spare.asked == [3], "smaller batches would not help"
    with pytest.raises(BackendError, match=r"'small' failed at 0\.0 s"):
        runner(Small(0, LACKS[lack]))(given)


def test_only_accelerators_get_several_segments_at_once() -> None:
    assert Options(CPU).n_at_once == 1
    assert Options(torch.device("mps")).n_at_once == ACCELERATOR_BATCH_SEGMENTS > 1
    assert Options(torch.device("mps")).on_accelerator


@pytest.mark.parametrize(("gib", "n_segments"), [(1, 1), (4, 2), (8, 4), (24, 12), (80, MAX_BATCH_SEGMENTS)])
def test_a_gpu_gets_as_many_segments_as_all_of_its_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, gib: int, n_segments: int
) -> None:
    card = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    options = Options(torch.device("cuda"))
    assert options.n_at_once == n_segments
    assert replace(options, batch_segments=3).n_at_once == 3


# the whole way, with a Separator that takes the CPU for an accelerator


loads: list[tuple[torch.device, torch.dtype]] = []
first_room = 0


def load_small(*, weights: object, device: torch.device, dtype: torch.dtype) -> Backend:
    loads.append((device, dtype))
    return Small(first_room if len(loads) == 1 else 99)


class Hooks:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        target = f"{__name__}:load_small"
        return [BackendSpec(name="small", load=target, summary="", stems=Small.info.sources)]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    loads.clear()
    monkeypatch.setattr(Options, "on_accelerator", True)
    with plugins.registered(Hooks(), "small"):
        yield


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(("room", "n_loads"), [(99, 1), (2, 1), (0, 2)])
def test_a_whole_song_comes_out_the_same_whatever_fits(
    room: int, n_loads: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "first_room", room)
    song = noise(2.0, RATE_HZ)
    separator = Separator("small")
    stems = separator.separate(song)
    separator.separate(song)
    assert np.array_equal(stems["half"].samples, song.samples / 2)
    assert len(loads) == n_loads
    assert len(caplog.messages) == (0 if room else 1), "a Separator that had to go to the CPU says so, once"
    assert all("'small' goes on on the CPU" in message for message in caplog.messages)
    assert all(place == CPU for place, _ in loads[1:])


@pytest.mark.usefixtures("accelerator")
def test_the_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys.modules[__name__], "first_room", 0)
    monkeypatch.setattr("unisep.engine.device.cpu_computes_bfloat16", lambda: True)
    Separator("small", precision="bfloat16").separate(noise(0.5, RATE_HZ))
    assert "goes on on the CPU" in caplog.text
    assert [dtype for _, dtype in loads] == [torch.bfloat16, torch.float32]


# NaN


class Spoilt(Small):
    """Gives one value that is no number, at `at_sample` of the recording."""

    def __init__(self, at_sample: int, value: float) -> None:
        super().__init__(99)
        self.at_sample, self.value = at_sample, value

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        output = super().separate(mixture)
        marked = mixture[:, 0] == self.at_sample
        output.sources[:, 1, 0][marked] = self.value
        return output


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("n_at_once", [1, 3])
@pytest.mark.parametrize("at_sample", [0, 799, 4_321, 15_999])
def test_one_bad_value_is_an_error_that_says_who_and_when(value: float, n_at_once: int, at_sample: int) -> None:
    song = torch.arange(16_000.0).expand(2, -1)
    one = BackendRunner(Spoilt(at_sample, value), "spoilt", None, [0, 1])
    chunker = Chunker(SegmentPlan(SEGMENT, batch_segments=n_at_once))
    with pytest.raises(BackendError, match=f"'spoilt' returned NaN or infinity at {at_sample / RATE_HZ:.1f} s"):
        for batch, segments in [*chunker.push(song), *chunker.finish()]:
            one.run(batch, segments)


def test_a_nan_reaches_the_caller_and_no_file_is_written(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "load_small", lambda **_: Spoilt(0, float("nan")))
    with plugins.registered(Hooks(), "small"), pytest.raises(BackendError, match="'small' returned NaN"):
        Separator("small").separate(Audio(np.stack([np.arange(800.0)] * 2), RATE_HZ)).save(tmp_path)
    assert not list(tmp_path.iterdir())
