from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unisep_evaluate import METRICS, RUN_METRICS, energy_ratio_db, nsdr_db, residual_db, roc_auc, sdr_db, si_sdr_db

from unisep import Audio
from unisep.errors import AudioError

seeds = st.integers(0, 2**32 - 1)
gains = st.floats(0.01, 100.0)
few = settings(max_examples=40, deadline=None)


def noise(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape or (2, 64))


def test_sdr_by_hand():
    target = np.array([[3.0, 0.0], [0.0, 4.0]])  # energy 25
    assert sdr_db(target + np.array([[0.0, 0.5], [0.0, 0.0]]), target) == pytest.approx(20.0)
    assert sdr_db(target * 2, target) == pytest.approx(0.0)
    assert sdr_db(np.zeros_like(target), target) == 0.0  # silence is not punished: why SDRi alone proves nothing
    assert sdr_db(target, target) == math.inf
    assert math.isnan(sdr_db(target, np.zeros_like(target)))


def test_si_sdr_by_hand():
    target = np.array([1.0, 0.0, 0.0])
    # the part along s is 2 (energy 4), the rest is 0.2 (energy 0.04)
    assert si_sdr_db(np.array([2.0, 0.2, 0.0]), target) == pytest.approx(20.0)
    assert si_sdr_db(np.zeros(3), target) == -math.inf
    assert si_sdr_db(np.array([0.0, 1.0, 0.0]), target) == -math.inf
    assert si_sdr_db(-5 * target, target) == math.inf
    assert math.isnan(si_sdr_db(target, np.zeros(3)))


def test_nsdr_by_hand():
    target = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert nsdr_db(0.5 * target, target) == pytest.approx(10 * math.log10((4 + 1e-7) / (1 + 1e-7)))
    assert nsdr_db(target, target) == pytest.approx(10 * math.log10((4 + 1e-7) / 1e-7))
    assert nsdr_db(target, np.zeros((2, 2))) == pytest.approx(10 * math.log10(1e-7 / (4 + 1e-7)))
    assert nsdr_db(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0


def test_levels_by_hand():
    mixture = np.array([10.0, 0.0])
    assert energy_ratio_db(mixture / 10, mixture) == pytest.approx(-20.0)
    assert energy_ratio_db(np.zeros(2), mixture) == -math.inf
    assert math.isnan(energy_ratio_db(np.zeros(2), np.zeros(2)))
    assert residual_db(mixture, [mixture * 0.5, mixture * 0.4]) == pytest.approx(-20.0)
    assert residual_db(mixture, [mixture * 0.5, mixture * 0.5]) == -math.inf


def test_roc_auc_by_hand():
    assert roc_auc([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert roc_auc([0.1], [0.9]) == 0.0
    assert roc_auc([0.5, 0.5], [0.5]) == 0.5
    assert roc_auc([0.3, 0.7], [0.5, 0.1, 0.9]) == pytest.approx((1 + 2) / 6)
    assert roc_auc([], [0.5]) is None and roc_auc([0.5], []) is None


@few
@given(seeds, gains)
def test_si_sdr_does_not_change_with_the_scale_of_either(seed, gain):
    estimate, target = noise(seed), noise(seed + 1)
    assert si_sdr_db(gain * estimate, target) == pytest.approx(si_sdr_db(estimate, target), abs=1e-6)
    assert si_sdr_db(estimate, gain * target) == pytest.approx(si_sdr_db(estimate, target), abs=1e-6)


@few
@given(seeds)
def test_si_sdr_is_sdr_at_the_best_scale(seed):
    # Scaling the *target* to its projection leaves an error orthogonal to it: no other scale explains more.
    target = noise(seed)
    estimate = target + 0.5 * noise(seed + 1)
    scale = np.vdot(estimate, target) / np.vdot(target, target)
    assert si_sdr_db(estimate, target) == pytest.approx(sdr_db(estimate, scale * target), abs=1e-9)
    assert abs(np.vdot(estimate - scale * target, target)) < 1e-9 * np.vdot(target, target)


@few
@given(seeds, gains)
def test_sdr_changes_only_with_the_relation_of_both(seed, gain):
    estimate, target = noise(seed), noise(seed + 1)
    assert sdr_db(gain * estimate, gain * target) == pytest.approx(sdr_db(estimate, target), abs=1e-9)


@few
@given(seeds, st.floats(-20, 40))
def test_sdr_of_unrelated_noise_is_its_level(seed, wanted_db):
    target, error = noise(seed), noise(seed + 1)
    error *= np.linalg.norm(target) / np.linalg.norm(error) * 10 ** (-wanted_db / 20)
    assert sdr_db(target + error, target) == pytest.approx(wanted_db, abs=1e-6)
    assert nsdr_db(target + error, target) == pytest.approx(wanted_db, abs=1e-3)


@few
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_roc_auc_counts_pairs(present, absent):
    pairs = [1.0 if p > a else 0.5 if p == a else 0.0 for p in present for a in absent]
    assert roc_auc(present, absent) == pytest.approx(sum(pairs) / len(pairs))
    assert roc_auc(absent, present) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_tensors_and_audio_are_as_good_as_arrays():
    estimate, target = noise(0).astype(np.float32), noise(1).astype(np.float32)
    expected = si_sdr_db(estimate, target)
    assert si_sdr_db(torch.from_numpy(estimate).requires_grad_(), torch.from_numpy(target)) == expected
    assert si_sdr_db(Audio(estimate, 44_100), Audio(target, 44_100)) == expected


def test_different_shapes_are_refused():
    with pytest.raises(AudioError, match=r"\(2, 64\).*\(2, 63\)"):
        sdr_db(noise(0), noise(0, 2, 63))


def test_every_figure_has_a_name_and_a_formula():
    every = (*METRICS, *RUN_METRICS)
    assert len({metric.key for metric in every}) == len({metric.name for metric in every}) == len(every)
    assert all(metric.formula for metric in every)
