from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisep.engine.resample import resample, resample_blocks, resampled_length, to_model, to_source
from unisep.errors import AudioError

RATES_HZ = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]


def tone(n_samples: int, rate_hz: int, channels: int = 2, frequency_hz: float = 997.0) -> np.ndarray:
    seconds = np.arange(n_samples) / rate_hz
    phases = np.arange(channels)[:, None]
    return np.sin(2 * np.pi * frequency_hz * seconds + phases).astype(np.float32)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("channels", [1, 2])
def test_there_and_back_is_aligned_and_has_the_exact_length(rate_hz: int, channels: int) -> None:
    source = tone(rate_hz // 2 + 7, rate_hz, channels)
    model = to_model(source, rate_hz, 44_100, 2)
    assert model.shape == (2, resampled_length(source.shape[1], rate_hz, 44_100))
    back = to_source(model[None], 44_100, rate_hz, channels, source.shape[1])
    assert back.shape == (1, *source.shape)
    assert back.dtype == np.float32
    middle = slice(rate_hz // 10, -rate_hz // 10)
    assert np.abs(back[0] - source)[:, middle].max() < 2e-4


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_resampling_has_no_delay(rate_hz: int) -> None:
    source = tone(rate_hz // 2, rate_hz)
    result = resample(source, rate_hz, 44_100)
    expected = tone(result.shape[1], 44_100)
    assert np.abs(result[:, 4410:-4410] - expected[:, 4410:-4410]).max() < 2e-4


@given(st.integers(1, 3000), st.sampled_from(RATES_HZ), st.sampled_from(RATES_HZ), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_every_length_works_down_to_one_sample(
    n_samples: int, from_rate_hz: int, to_rate_hz: int, channels: int
) -> None:
    source = tone(n_samples, from_rate_hz, channels)
    there = to_model(source, from_rate_hz, to_rate_hz, channels)
    back = to_source(there, to_rate_hz, from_rate_hz, channels, n_samples)
    assert there.shape[1] >= 1
    assert back.shape == source.shape
    assert np.isfinite(back).all()


@given(st.lists(st.integers(1, 900), min_size=1, max_size=8), st.sampled_from([8_000, 48_000, 192_000]))
@settings(max_examples=30, deadline=None)
def test_a_stream_equals_the_whole(block_sizes: list[int], rate_hz: int) -> None:
    source = tone(sum(block_sizes), rate_hz)
    blocks = np.split(source, np.cumsum(block_sizes)[:-1], axis=1)
    streamed = list(resample_blocks(iter(blocks), rate_hz, 44_100))
    np.testing.assert_array_equal(np.concatenate(streamed, axis=1), resample(source, rate_hz, 44_100))


def test_a_stream_at_the_same_rate_passes_through() -> None:
    blocks = [tone(10, 44_100), tone(20, 44_100)]
    assert list(resample_blocks(iter(blocks), 44_100, 44_100)) == blocks


def test_mono_is_duplicated_and_averaged_back() -> None:
    mono = tone(100, 44_100, 1)
    stereo = to_model(mono, 44_100, 44_100, 2)
    np.testing.assert_array_equal(stereo, np.concatenate([mono, mono]))
    np.testing.assert_array_equal(to_source(stereo, 44_100, 44_100, 1, 100), mono)


def test_a_mono_model_hears_the_average_and_answers_in_both_channels() -> None:
    stereo = np.array([[1.0, 0.0], [0.0, 0.5]], dtype=np.float32)
    mono = to_model(stereo, 44_100, 44_100, 1)
    np.testing.assert_array_equal(mono, [[0.5, 0.25]])
    np.testing.assert_array_equal(to_source(mono, 44_100, 44_100, 2, 2), [[0.5, 0.25]] * 2)


def test_samples_beyond_full_scale_are_kept() -> None:
    loud = 3 * tone(4_800, 48_000)
    assert to_source(to_model(loud, 48_000, 48_000, 2), 48_000, 48_000, 2, 4_800).max() > 2.9


def test_the_input_is_not_modified() -> None:
    source = tone(500, 48_000)
    before = source.copy()
    source.flags.writeable = False
    to_source(to_model(source, 48_000, 44_100, 1), 44_100, 48_000, 2, 500)
    np.testing.assert_array_equal(source, before)


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(AudioError, match="only mono and stereo"):
        to_model(np.zeros((2, 10), np.float32), 44_100, 44_100, 6)
