"""A live session keeps its clock whatever the backend does, and gives what its contract promises."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from unisep import (
    Audio,
    BackendInfo,
    BackendSpec,
    EncoderSpec,
    Live,
    LiveBackend,
    Output,
    ResultSpec,
    Separator,
    explain,
    hookimpl,
)
from unisep.engine.resample import LiveResampler
from unisep.errors import AudioError, BackendError, EmbeddingError, OptionError, PluginError, QueryError
from unisep.testing import LiveContract, toy, toy_plugin

MODEL_HZ, HOP, LATENCY = 16_000, 160, 320
GATE, FAULT = threading.Event(), threading.Event()
GATE.set()


class Delayed(LiveBackend):
    """A quarter and a half of the recording, or the share that each query's first value says; waits at the gate."""

    info = BackendInfo(sources=("quarter", "half"), sample_rate_hz=MODEL_HZ, channels=2)
    hop_samples, latency_samples = HOP, LATENCY

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        return Output(torch.einsum("n,bcs->bncs", self._gains(queries), mixture))

    def open(self, queries: Tensor | None = None, negatives: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.zeros(2, LATENCY), self._gains(queries)

    def push(self, state: tuple[Tensor, Tensor], block: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert GATE.wait(60)
        if FAULT.is_set():
            raise ZeroDivisionError("by accident")
        heard = torch.cat([state[0], block], dim=1)
        sources = torch.einsum("n,cs->ncs", state[1], heard[:, : block.shape[1]])
        return sources, (heard[:, block.shape[1] :].clone(), state[1])

    def _gains(self, queries: Tensor | None) -> Tensor:
        if queries is not None and queries.shape[1] != toy.N_BANDS:
            raise EmbeddingError("wrong size")
        return torch.tensor([0.25, 0.5]) if queries is None else queries[:, 0]


class Plugin:
    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        load, stems = f"{__name__}:Delayed", ("quarter", "half")
        return [
            BackendSpec(name="delayed", load=load, summary="", stems=stems, spaces=(toy.SPACE,), live=True),
            BackendSpec(
                name="liar", load=f"{toy.__name__}:ToyPanBackend", summary="", stems=("left", "right"), live=True
            ),
            BackendSpec(name="shy", load=load, summary="", spaces=("shy-1",), live=True, only_by_name=True),
        ]

    @hookimpl
    def unisep_encoders(self) -> list[EncoderSpec]:
        return [EncoderSpec(name="bands", load=f"{toy.__name__}:load_encoder", space=toy.SPACE)]


class TestDelayed(LiveContract):
    query_dim = 4

    def load_backend(self) -> LiveBackend:
        return Delayed()


@pytest.fixture
def separator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Separator]:
    monkeypatch.setenv("UNISEP_PLUGINS", "-*")
    with Separator("delayed", device="cpu", plugins=Plugin()) as separator:
        yield separator
    GATE.set()
    FAULT.clear()


def recording(n_samples: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((channels, n_samples)).astype(np.float32) / 8


def played(live: Live, samples: np.ndarray, block_samples: int, wait: bool = True) -> dict[str, np.ndarray]:
    """What comes out for whole blocks of samples, targets and the rest, joined."""
    parts = [live.push(block, wait=wait) for block in np.split(samples, samples.shape[1] // block_samples, axis=1)]
    joined = {name: np.concatenate([part[name].samples for part in parts], axis=1) for name in parts[0]}
    return joined | {"rest": np.concatenate([part.rest.samples for part in parts], axis=1)}


@pytest.mark.parametrize("rate_hz", [MODEL_HZ, 44_100, 48_000, 8_000])
@pytest.mark.parametrize("block_samples", [64, 500])
@pytest.mark.parametrize("margin_blocks", [None, 0])
def test_the_clock(separator: Separator, rate_hz: int, block_samples: int, margin_blocks: int | None) -> None:
    samples = np.zeros((2, 20_000), dtype=np.float32)
    samples = samples[:, : samples.shape[1] // block_samples * block_samples]
    samples[:, 1000] = 1
    with separator.live(sample_rate_hz=rate_hz, block_samples=block_samples, margin_blocks=margin_blocks) as live:
        out = played(live, samples, block_samples)
        assert live.n_late == 0 and live.latency_samples % block_samples == 0
        assert live.latency_samples >= live.algorithmic_latency_samples >= LATENCY * rate_hz / MODEL_HZ
        total = out["quarter"] + out["half"] + out["rest"]
        delayed = np.pad(samples, [(0, 0), (live.latency_samples, 0)])[:, : samples.shape[1]]
        assert np.allclose(total, delayed, atol=1e-6)
        assert int(out["half"][0].argmax()) == 1000 + live.latency_samples
        if rate_hz == MODEL_HZ:
            assert np.array_equal(out["quarter"], 0.25 * delayed)


def test_late_blocks_pass_through_and_are_counted_and_the_rest_stays_in_step(separator: Separator) -> None:
    samples, block = recording(160 * 200), 160
    with separator.live(sample_rate_hz=MODEL_HZ, block_samples=block) as live:
        n_delay = live.latency_samples // block
        first = played(live, samples[:, : 50 * block], block)
        GATE.clear()
        n_before = live.n_late
        stuck = played(live, samples[:, 50 * block : 100 * block], block, wait=False)
        assert live.n_late - n_before >= 50 - n_delay
        GATE.set()
        n_late = live.n_late
        after = played(live, samples[:, 100 * block :], block)
        assert live.n_late - n_late <= n_delay + 1
    delayed = np.pad(samples, [(0, 0), (live.latency_samples, 0)])[:, : samples.shape[1]]
    out = {name: np.concatenate([first[name], stuck[name], after[name]], axis=1) for name in first}
    assert np.allclose(out["quarter"] + out["half"] + out["rest"], delayed, atol=1e-6)
    n_passed = 0
    for start in range(n_delay * block, samples.shape[1], block):
        here = np.s_[:, start : start + block]
        is_late = not out["half"][here].any()
        assert (
            np.array_equal(out["rest"][here], delayed[here])
            if is_late
            else np.array_equal(out["half"][here], 0.5 * delayed[here])
        )
        n_passed += is_late
    assert n_passed == live.n_late


def test_a_failure_is_told_until_it_is_begun_anew(separator: Separator) -> None:
    block = recording(160)
    with separator.live(sample_rate_hz=MODEL_HZ, block_samples=160) as live:
        before = [live.push(block, wait=True).rest.samples for _ in range(8)]
        FAULT.set()
        for _ in range(2):
            with pytest.raises(BackendError, match="ZeroDivisionError: by accident"):
                live.push(block, wait=True)
        FAULT.clear()
        live.reset()
        assert np.array_equal(before, [live.push(block, wait=True).rest.samples for _ in range(8)])
    with pytest.raises(OptionError, match="closed"):
        live.push(block)
    live.close()


def test_queries_and_stems(separator: Separator) -> None:
    samples = recording(160 * 12, 1)
    with separator.live("low", sample_rate_hz=MODEL_HZ, channels=1, block_samples=160, route="conditioned") as live:
        gain = float(toy.ToyEncoder().encode_text(["low"])[0, 0])
        out = played(live, samples, 160)
        assert np.allclose(out["low"][:, live.latency_samples :], gain * samples[:, : -live.latency_samples], atol=1e-6)
        assert live.plan["low"].backend == "delayed"
    with separator.live(stems=["half"], sample_rate_hz=MODEL_HZ, block_samples=160) as live:
        assert list(live.push(Audio(recording(160), MODEL_HZ))) == ["half"]


def test_memory_does_not_grow(separator: Separator) -> None:
    block = recording(160)
    with separator.live(sample_rate_hz=48_000, block_samples=160) as live:
        tracemalloc.start()
        for _ in range(300):
            live.push(block, wait=True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            live.push(block, wait=True)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 100 * block.nbytes, "300 blocks more"


@pytest.mark.parametrize(
    "wrong", [recording(159), recording(160, 1), Audio(recording(160), 44_100), np.full((2, 160), np.nan)]
)
def test_blocks_of_another_kind_are_refused(separator: Separator, wrong: object) -> None:
    with separator.live(sample_rate_hz=MODEL_HZ, block_samples=160) as live:
        with pytest.raises(AudioError):
            live.push(wrong)  # type: ignore[arg-type]
        live.push(recording(160))


def test_what_cannot_be_done_live_is_refused(separator: Separator) -> None:
    def opened(**options: object) -> Live:
        return separator.live(**{"sample_rate_hz": 44_100, **options})  # type: ignore[arg-type]

    for wrong in (
        {"channels": 3},
        {"channels": 0},
        {"block_samples": 0},
        {"block_samples": 1.5},
        {"margin_blocks": -1},
        {"stems": ["bass"]},
    ):
        with pytest.raises(OptionError):
            opened(**wrong)
    with pytest.raises(AudioError):
        opened(sample_rate_hz=12)
    with pytest.raises(OptionError, match="time_range"):
        opened(query={"text": "low", "time_range": (0, 1)})
    with pytest.raises(QueryError, match="example_range"):
        opened(query={"example_range": (0, 1)}, route="conditioned")


def test_only_who_is_live_answers(separator: Separator) -> None:
    with toy_plugin():
        with Separator(plugins=Plugin()) as anybody, anybody.live("low", sample_rate_hz=44_100) as live:
            assert live.plan["low"].backend == "delayed"
        with (
            Separator("toy", plugins=Plugin()) as fixed,
            pytest.raises(OptionError, match="'toy' hears whole segments"),
        ):
            fixed.live(sample_rate_hz=44_100)
        with Separator() as nobody, pytest.raises(PluginError, match="answers this live"):
            nobody.live("low", sample_rate_hz=44_100)
    with Separator("liar", plugins=Plugin()) as liar, pytest.raises(BackendError, match="no LiveBackend"):
        liar.live(sample_rate_hz=44_100)


def test_a_query_model_that_wants_to_be_named_is_offered_to_nobody(separator: Separator) -> None:
    with toy_plugin():
        listed = explain("low", plugins=Plugin(), route="conditioned").answers[0]
    names = {candidate.backend.name for candidate in (listed.chosen, *listed.others, *listed.unable)}
    assert "delayed" in names and "shy" not in names


def test_a_step_that_needs_the_whole_is_refused(separator: Separator) -> None:
    class Step:
        @hookimpl
        def unisep_results(self) -> list[ResultSpec]:
            return [ResultSpec(name="step", load="m:f", summary="")]

    with Separator("delayed", plugins=[Plugin(), Step()]) as stepping, pytest.raises(OptionError, match="result step"):
        stepping.live(sample_rate_hz=44_100)


@pytest.mark.parametrize(
    "rates", [(44_100, 48_000), (48_000, 44_100), (16_000, 48_000), (48_000, 8_000), (8_000, 8_000)]
)
def test_the_resampler_is_in_step_and_as_quick_as_it_says(rates: tuple[int, int]) -> None:
    from_hz, to_hz = rates
    tone = np.sin(2 * np.pi * 1_000 * np.arange(9_600) / from_hz)[None].astype(np.float32)
    results = []
    for ends in (range(0, 9_601, 64), [0, 1, 500, 9_600], [0, 9_600]):
        resampler, known = LiveResampler(from_hz, to_hz, 1), []
        for start, stop in pairwise(ends):
            known.append(resampler.push(tone[:, start:stop]))
            n_sure = (stop - resampler.reach_samples) * to_hz / from_hz
            assert sum(part.shape[1] for part in known) >= n_sure
        results.append(np.concatenate(known, axis=1)[0])
    times = np.arange(len(results[0])) / to_hz
    inner = np.s_[200 : len(times)]
    assert np.abs(results[0] - np.sin(2 * np.pi * 1_000 * times))[inner].max() < 2e-4
    assert all(np.array_equal(results[0], result) for result in results)
