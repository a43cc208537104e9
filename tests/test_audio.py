from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from unisep import Audio
from unisep.errors import AudioError, UnisepError


def test_float32_is_kept_without_a_copy() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    assert Audio(samples, 44_100).samples is samples


@pytest.mark.parametrize("n_bits", [8, 16, 32])
def test_integers_are_scaled_to_full_scale(n_bits: int) -> None:
    low, high = -(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1
    samples = Audio(np.array([[low, 0, high]], dtype=f"int{n_bits}"), 44_100).samples
    np.testing.assert_allclose(samples, [[-1.0, 0.0, 1.0]], atol=2.0 ** (1 - n_bits))
    unsigned = Audio(np.array([[0, 2 ** (n_bits - 1)]], dtype=f"uint{n_bits}"), 44_100).samples
    np.testing.assert_allclose(unsigned, [[-1.0, 0.0]])


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, -2.0]),
        np.array([[0.5, -2.0]], dtype=np.float16),
        [0.5, -2.0],
        [[0.5, -2.0]],
        torch.tensor([0.5, -2.0], requires_grad=True),
        torch.tensor([[0.5, -2.0]], dtype=torch.bfloat16),
        np.array([[0.5, 9.0, -2.0, 9.0]])[:, ::2],
        np.array([[0.5, -2.0]], dtype=">f4"),
    ],
)
def test_whatever_holds_samples_is_taken(values: Any) -> None:
    audio = Audio(values, 44_100)
    assert audio.samples.dtype == np.float32
    assert audio.samples.dtype.isnative
    assert audio.samples.tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((0, 100)), "empty"),
        (np.zeros((2, 0)), "empty"),
        ([], "empty"),
        (np.zeros((100, 2)), r"\[samples, channels\].*array\.T"),
        (np.zeros((6, 100)), "6 channels"),
        (np.zeros((1, 2, 100)), "3 dimensions"),
        (0.5, "0 dimensions"),
        ([[0.0, np.nan]], "NaN or infinity, first at sample 1"),
        ([[np.inf]], "NaN or infinity, first at sample 0"),
        (np.array([[0.0, -1e300]]), r"level is too high: 1e\+300 at sample 1; full scale is 1\.0"),
        ([[1 + 2j]], "real numbers"),
        (np.array([[True]]), "Boolean"),
        ("text", "real numbers"),
        (None, "real numbers"),
        ([[1.0], [1.0, 2.0]], "array of samples"),
    ],
)
def test_what_is_no_audio_is_refused(values: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        Audio(values, 44_100)


@pytest.mark.parametrize("rate_hz", [0, -1, 999, 768_001, 44_100.5, float("nan"), float("inf"), "fast", None, True])
def test_rates_that_are_none_are_refused(rate_hz: Any) -> None:
    with pytest.raises(AudioError, match="44100"):
        Audio([[0.0]], rate_hz)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100.0, np.int64(192_000), np.float32(48_000)])
def test_rates_are_whole_numbers_of_hertz(rate_hz: Any) -> None:
    audio = Audio([[0.0]], rate_hz)
    assert type(audio.sample_rate_hz) is int
    assert audio.sample_rate_hz == rate_hz


def test_one_sample_is_audio() -> None:
    audio = Audio([[0.25], [0.5]], 44_100)
    assert (audio.n_channels, audio.n_samples) == (2, 1)


def test_it_behaves_as_a_value() -> None:
    audio = Audio([[0.25, 0.5]], 8_000)
    assert audio.seconds == 2 / 8_000
    assert np.asarray(audio) is audio.samples
    assert np.array(audio, copy=True) is not audio.samples
    with pytest.raises(dataclasses.FrozenInstanceError):
        audio.sample_rate_hz = 1  # type: ignore[misc]
    assert dataclasses.replace(audio, sample_rate_hz=16_000).sample_rate_hz == 16_000
    assert pickle.loads(pickle.dumps(audio)).samples.tolist() == [[0.25, 0.5]]
    assert copy.deepcopy(audio).samples is not audio.samples


def test_its_errors_are_unisep_errors_and_value_errors() -> None:
    assert issubclass(AudioError, UnisepError)
    assert issubclass(AudioError, ValueError)
