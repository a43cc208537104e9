from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unisep.engine.chunking import Segment, SegmentCutter, grid, hop_samples, take, trim
from unisep.engine.overlap_add import Chunker, OverlapAdd, separate_chunks
from unisep.errors import BackendError, Cancelled, OptionError

QUICK = settings(max_examples=50, deadline=None)
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 90), st.floats(0.0, 0.5))


def noise(n_samples: int, seed: int = 0) -> Tensor:
    return torch.randn(2, n_samples, generator=torch.Generator().manual_seed(seed))


def identity(batch: Tensor) -> Tensor:
    return batch.unsqueeze(1)


def depends_on_context(batch: Tensor) -> Tensor:
    """Two outputs whose samples depend on their place in the segment and on all of it."""
    ramp = torch.linspace(-1, 1, batch.shape[-1])
    return torch.stack([batch * ramp, batch.cumsum(-1) * 0.01], dim=1)


def streamed(blocks: Iterable[Tensor], call: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
    chunker = Chunker(lambda batch, _: call(batch), **options)
    pieces = [*(chunker.push(block) for block in blocks), chunker.finish()]
    return torch.cat([piece for piece in pieces if piece is not None], dim=-1)


def triangular_mean(mixture: Tensor, segment_samples: int, overlap_fraction: float) -> Tensor:
    """An independent reference: sum of triangle-weighted outputs over sum of the weights, in float64."""
    half = segment_samples // 2
    weight = torch.cat([torch.arange(1, half + 1), torch.arange(segment_samples - half, 0, -1)]).double()
    total = torch.zeros(2, 2, mixture.shape[-1], dtype=torch.float64)
    weights = torch.zeros(mixture.shape[-1], dtype=torch.float64)
    for start in range(0, mixture.shape[-1], int((1 - overlap_fraction) * segment_samples)):
        length = min(segment_samples, mixture.shape[-1] - start)
        missing = segment_samples - length
        padded = torch.nn.functional.pad(mixture, (segment_samples, segment_samples))
        first = start - missing // 2 + segment_samples
        output = depends_on_context(padded[None, :, first : first + segment_samples])[0].double()
        output = output[..., missing // 2 : missing // 2 + length]
        total[..., start : start + length] += weight[:length] * output
        weights[start : start + length] += weight[:length]
    return total / weights


@given(SIZES)
@QUICK
def test_the_grid_covers_every_sample_and_at_most_two_segments_meet(sizes: tuple[int, int, float]) -> None:
    n_samples, segment_samples, overlap_fraction = sizes
    covered = torch.zeros(n_samples)
    for segment in grid(n_samples, segment_samples, overlap_fraction):
        assert 1 <= segment.length <= segment_samples
        covered[segment.start : segment.stop] += 1
    assert covered.min() >= 1
    assert covered.max() <= 2


@given(SIZES, st.integers(1, 4))
@QUICK
def test_an_identity_backend_returns_the_very_same_samples(sizes: tuple[int, int, float], batch: int) -> None:
    n_samples, segment_samples, overlap_fraction = sizes
    mixture = noise(n_samples)
    before = mixture.clone()
    result = separate_chunks(
        mixture, identity, segment_samples=segment_samples, overlap_fraction=overlap_fraction, batch_segments=batch
    )
    assert torch.equal(result, mixture[None])
    assert torch.equal(mixture, before)


@given(SIZES, st.lists(st.integers(1, 150), min_size=1, max_size=6))
@QUICK
def test_a_stream_of_any_blocks_equals_the_whole_bit_for_bit(
    sizes: tuple[int, int, float], block_sizes: list[int]
) -> None:
    n_samples, segment_samples, overlap_fraction = sizes
    mixture = noise(n_samples)
    options: dict[str, Any] = {"segment_samples": segment_samples, "overlap_fraction": overlap_fraction}
    whole = separate_chunks(mixture, depends_on_context, **options)
    blocks: list[Tensor] = []
    start = 0
    while start < n_samples:
        size = block_sizes[len(blocks) % len(block_sizes)]
        blocks.append(mixture[:, start : start + size])
        start += size
    assert torch.equal(streamed(blocks, depends_on_context, **options), whole)


@given(SIZES, st.integers(0, 400), st.integers(1, 400))
@QUICK
def test_a_span_equals_the_same_span_of_the_full_run(sizes: tuple[int, int, float], start: int, length: int) -> None:
    n_samples, segment_samples, overlap_fraction = sizes
    start %= n_samples
    stop = min(n_samples, start + length)
    options: dict[str, Any] = {"segment_samples": segment_samples, "overlap_fraction": overlap_fraction}
    whole = separate_chunks(noise(n_samples), depends_on_context, **options)
    part = separate_chunks(noise(n_samples), depends_on_context, span=(start, stop), **options)
    assert torch.equal(part, whole[..., start:stop])


@given(st.integers(1, 400), st.integers(4, 45).map(lambda half: 2 * half), st.floats(0.01, 0.5))
@QUICK
def test_the_crossfade_is_the_mean_under_triangular_windows(
    n_samples: int, segment_samples: int, overlap_fraction: float
) -> None:
    mixture = noise(n_samples)
    result = separate_chunks(
        mixture, depends_on_context, segment_samples=segment_samples, overlap_fraction=overlap_fraction
    )
    expected = triangular_mean(mixture, segment_samples, overlap_fraction)
    assert (result.double() - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


def test_a_span_computes_only_the_segments_it_touches() -> None:
    n_calls = []

    def counted(batch: Tensor) -> Tensor:
        n_calls.append(len(batch))
        return identity(batch)

    separate_chunks(noise(1000), counted, segment_samples=100, overlap_fraction=0.25, span=(300, 310))
    assert sum(n_calls) == 2


def test_a_short_segment_sees_the_real_recording_before_it() -> None:
    mixture = torch.arange(1.0, 11.0)[None]
    window = take(mixture, Segment(8, 2), 6)
    assert window.tolist() == [[7.0, 8.0, 9.0, 10.0, 0.0, 0.0]]
    assert trim(window, Segment(8, 2)).tolist() == [[9.0, 10.0]]
    assert take(mixture, Segment(0, 10), 14).tolist() == [[0.0, 0.0, *range(1, 11), 0.0, 0.0]]


def test_the_hop_is_that_of_the_released_models() -> None:
    assert hop_samples(int(44_100 * 7.8), 0.25) == 257_985
    assert [segment.start for segment in grid(600_000, 343_980, 0.25)] == [0, 257_985, 515_970]


def test_without_a_segment_length_everything_is_one_call() -> None:
    seen = []

    def whole(batch: Tensor) -> Tensor:
        seen.append(batch.shape)
        return identity(batch)

    mixture = noise(123)
    assert torch.equal(separate_chunks(mixture, whole, segment_samples=None, overlap_fraction=0.25), mixture[None])
    pieces = streamed(mixture.split(10, -1), whole, segment_samples=None, overlap_fraction=0.25)
    assert torch.equal(pieces, mixture[None])
    assert seen == [(1, 2, 123)] * 2


def test_a_stream_holds_a_bounded_part_of_the_past_and_emits_early() -> None:
    cutter = SegmentCutter(100, 0.25)
    adder = OverlapAdd(100, 0.25)
    n_in = n_out = 0
    for _ in range(200):
        for segment, samples in cutter.push(torch.zeros(1, 37)):
            n_out += adder.push(trim(samples, segment)).shape[-1]
        n_in += 37
        assert n_in - n_out <= 100 + 37
        assert sum(block.shape[-1] for block in cutter._blocks) <= 100 + 50 + 37


@pytest.mark.parametrize("overlap_fraction", [-0.1, 0.51, 1.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap_fraction: float) -> None:
    with pytest.raises(OptionError, match=r"0 to 0\.5"):
        grid(100, 10, overlap_fraction)


def test_an_empty_segment_or_span_is_refused() -> None:
    with pytest.raises(OptionError, match="segment_seconds"):
        hop_samples(0, 0.25)
    with pytest.raises(OptionError, match="none of the recording"):
        separate_chunks(noise(10), identity, segment_samples=5, overlap_fraction=0.25, span=(20, 30))


def test_progress_counts_every_segment() -> None:
    seen: list[None] = []
    options: dict[str, Any] = {"segment_samples": 40, "overlap_fraction": 0.25, "batch_segments": 2}
    streamed([noise(100)], identity, on_segment=lambda: seen.append(None), **options)
    assert len(seen) == 4


@pytest.mark.parametrize("batch_segments", [1, 3])
def test_a_span_comes_out_though_the_recording_goes_on(batch_segments: int) -> None:
    options: dict[str, Any] = {"segment_samples": 100, "overlap_fraction": 0.25, "batch_segments": batch_segments}
    chunker = Chunker(lambda batch, _: identity(batch), span=(120, 260), **options)
    mixture = noise(1000)
    pieces = [piece for block in mixture[:, :400].split(50, -1) if (piece := chunker.push(block)) is not None]
    assert torch.equal(torch.cat(pieces, dim=-1)[0], mixture[:, 120:260])
    assert chunker.push(mixture[:, 400:]) is None
    assert chunker.finish() is None


def test_cancelling_stops_before_the_next_call() -> None:
    cancel = threading.Event()
    calls = []

    def call(batch: Tensor) -> Tensor:
        calls.append(1)
        cancel.set()
        return identity(batch)

    with pytest.raises(Cancelled):
        streamed([noise(100)], call, segment_samples=20, overlap_fraction=0.25, cancel=cancel)
    assert len(calls) == 1


@pytest.mark.parametrize("wrong", [lambda batch: batch[:, None, :, 1:], lambda batch: batch[:0, None]])
def test_a_backend_that_returns_another_shape_is_named(wrong: Any) -> None:
    with pytest.raises(BackendError, match="returned"):
        separate_chunks(noise(50), wrong, segment_samples=20, overlap_fraction=0.25)
