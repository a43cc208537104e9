from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unisep.engine.chunking import Chunker, SegmentPlan, context, window
from unisep.engine.overlap_add import OverlapAdd, separate_chunks
from unisep.engine.timeline import Span

QUICK = settings(max_examples=50, deadline=None)
N_SAMPLES = st.integers(1, 400)
PLANS = st.builds(SegmentPlan, st.integers(1, 90), st.floats(0.0, 0.5))


def noise(n_samples: int, seed: int = 0) -> Tensor:
    return torch.randn(2, n_samples, generator=torch.Generator().manual_seed(seed))


def identity(batch: Tensor) -> Tensor:
    return batch.unsqueeze(1)


def depends_on_context(batch: Tensor) -> Tensor:
    """Two outputs whose samples depend on their place in the segment and on all of it."""
    ramp = torch.linspace(-1, 1, batch.shape[-1])
    return torch.stack([batch * ramp, batch.cumsum(-1) * 0.01], dim=1)


def streamed(
    blocks: Iterable[Tensor], call: Callable[[Tensor], Tensor], plan: SegmentPlan, lead_samples: int = 0
) -> Tensor:
    chunker, adder = Chunker(plan, lead_samples), OverlapAdd(plan)
    pieces = [
        adder.push(output, segment)
        for cut in chain((chunker.push(block) for block in blocks), [chunker.finish()])
        for batch, segments in cut
        for output, segment in zip(call(batch), segments, strict=True)
    ]
    last = adder.finish()
    return torch.cat(pieces if last is None else [*pieces, last], dim=-1)


def triangular_mean(mixture: Tensor, plan: SegmentPlan) -> Tensor:
    """An independent reference: sum of triangle-weighted outputs over sum of the weights, in float64."""
    n = plan.segment_samples or 0
    half = n // 2
    weight = torch.cat([torch.arange(1, half + 1), torch.arange(n - half, 0, -1)]).double()
    total = torch.zeros(2, 2, mixture.shape[-1], dtype=torch.float64)
    weights = torch.zeros(mixture.shape[-1], dtype=torch.float64)
    for start in range(0, mixture.shape[-1], int((1 - plan.overlap_fraction) * n)):
        length = min(n, mixture.shape[-1] - start)
        missing = n - length
        padded = torch.nn.functional.pad(mixture, (n, n))
        first = start - missing // 2 + n
        output = depends_on_context(padded[None, :, first : first + n])[0].double()
        output = output[..., missing // 2 : missing // 2 + length]
        total[..., start : start + length] += weight[:length] * output
        weights[start : start + length] += weight[:length]
    return total / weights


@given(N_SAMPLES, PLANS, st.integers(0, 100))
@QUICK
def test_the_grid_covers_every_sample_and_at_most_two_segments_meet(
    n_samples: int, plan: SegmentPlan, lead_samples: int
) -> None:
    covered = torch.zeros(lead_samples + n_samples)
    for segment in plan.grid(n_samples, lead_samples):
        assert 1 <= segment.length <= (plan.segment_samples or 0)
        covered[lead_samples + segment.start : lead_samples + segment.stop] += 1
    assert covered.min() >= 1
    assert covered.max() <= 2


@given(N_SAMPLES, PLANS, st.integers(1, 4))
@QUICK
def test_an_identity_backend_returns_the_very_same_samples(n_samples: int, plan: SegmentPlan, batch: int) -> None:
    mixture = noise(n_samples)
    before = mixture.clone()
    result = separate_chunks(mixture, identity, replace(plan, batch_segments=batch))
    assert torch.equal(result, mixture[None])
    assert torch.equal(mixture, before)


@given(N_SAMPLES, PLANS, st.lists(st.integers(1, 150), min_size=1, max_size=6))
@QUICK
def test_a_stream_of_any_blocks_equals_the_whole_bit_for_bit(
    n_samples: int, plan: SegmentPlan, block_sizes: list[int]
) -> None:
    mixture = noise(n_samples)
    whole = separate_chunks(mixture, depends_on_context, plan)
    blocks: list[Tensor] = []
    start = 0
    while start < n_samples:
        size = block_sizes[len(blocks) % len(block_sizes)]
        blocks.append(mixture[:, start : start + size])
        start += size
    assert torch.equal(streamed(blocks, depends_on_context, plan), whole)


@given(N_SAMPLES, PLANS, st.integers(0, 400), st.integers(1, 400))
@QUICK
def test_a_span_equals_the_same_span_of_the_full_run(
    n_samples: int, plan: SegmentPlan, start: int, length: int
) -> None:
    start %= n_samples
    stop = min(n_samples, start + length)
    whole = separate_chunks(noise(n_samples), depends_on_context, plan)
    part = separate_chunks(noise(n_samples), depends_on_context, replace(plan, span=Span(start, stop)))
    assert torch.equal(part, whole[..., start:stop])


@given(N_SAMPLES, PLANS, st.integers(1, 120), st.integers(1, 4))
@QUICK
def test_a_lead_is_silence_in_front_of_the_recording(
    n_samples: int, plan: SegmentPlan, lead_samples: int, batch: int
) -> None:
    mixture, plan = noise(n_samples), replace(plan, batch_segments=batch)
    shifted = streamed(mixture.split(50, -1), depends_on_context, plan, lead_samples)
    padded = separate_chunks(torch.nn.functional.pad(mixture, (lead_samples, 0)), depends_on_context, plan)
    assert torch.equal(shifted, padded[..., lead_samples:])


@given(N_SAMPLES, st.integers(4, 45).map(lambda half: 2 * half), st.floats(0.01, 0.5))
@QUICK
def test_the_crossfade_is_the_mean_under_triangular_windows(
    n_samples: int, segment_samples: int, overlap_fraction: float
) -> None:
    mixture, plan = noise(n_samples), SegmentPlan(segment_samples, overlap_fraction)
    result = separate_chunks(mixture, depends_on_context, plan)
    expected = triangular_mean(mixture, plan)
    assert (result.double() - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


def test_a_span_computes_only_the_segments_it_touches() -> None:
    n_calls = []

    def counted(batch: Tensor) -> Tensor:
        n_calls.append(len(batch))
        return identity(batch)

    separate_chunks(noise(1000), counted, SegmentPlan(100, span=Span(300, 310)))
    assert sum(n_calls) == 2


def test_a_short_segment_sees_the_real_recording_before_it() -> None:
    mixture = torch.arange(1.0, 11.0)[None]
    assert context(Span(8, 10), 6) == Span(6, 12)
    assert window(mixture, Span(6, 12)).tolist() == [[7.0, 8.0, 9.0, 10.0, 0.0, 0.0]]
    assert window(mixture, Span(-2, 12)).tolist() == [[0.0, 0.0, *range(1, 11), 0.0, 0.0]]


def test_the_hop_is_that_of_the_released_models() -> None:
    plan = SegmentPlan(int(44_100 * 7.8))
    assert plan.hop_samples == 257_985
    assert [segment.start for segment in plan.grid(600_000)] == [0, 257_985, 515_970]


def test_without_a_segment_length_everything_is_one_call() -> None:
    seen = []

    def whole(batch: Tensor) -> Tensor:
        seen.append(batch.shape)
        return identity(batch)

    mixture = noise(123)
    assert torch.equal(separate_chunks(mixture, whole, SegmentPlan(None)), mixture[None])
    assert torch.equal(streamed(mixture.split(10, -1), whole, SegmentPlan(None)), mixture[None])
    assert seen == [(1, 2, 123)] * 2


def test_a_stream_holds_a_bounded_part_of_the_past_and_emits_early() -> None:
    plan = SegmentPlan(100)
    chunker, adder = Chunker(plan), OverlapAdd(plan)
    n_in = n_out = 0
    for _ in range(200):
        for batch, segments in chunker.push(torch.zeros(1, 37)):
            n_out += adder.push(batch[0], segments[0]).shape[-1]
        n_in += 37
        assert n_in - n_out <= 100 + 37
        assert sum(block.shape[-1] for block in chunker._blocks) <= 100 + 50 + 37


@pytest.mark.parametrize("batch_segments", [1, 3])
def test_a_span_comes_out_though_the_recording_goes_on(batch_segments: int) -> None:
    plan = SegmentPlan(100, span=Span(120, 260), batch_segments=batch_segments)
    chunker, adder = Chunker(plan), OverlapAdd(plan)
    mixture = noise(1000)
    pieces = [
        adder.push(output, segment)
        for block in mixture[:, :400].split(50, -1)
        for batch, segments in chunker.push(block)
        for output, segment in zip(identity(batch), segments, strict=True)
    ]
    assert torch.equal(torch.cat(pieces, dim=-1)[0], mixture[:, 120:260])
    assert not [*chunker.push(mixture[:, 400:]), *chunker.finish()]
    assert adder.finish().shape[-1] == 0  # type: ignore[union-attr]
