"""The losses say what they claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from unisep_train.trainer.losses import LossWeights, log_spectral_distance, separation_loss, si_sdr_db

RATE_HZ = 8000


def test_si_sdr_is_the_ratio_after_projection() -> None:
    target = torch.tensor([1.0, 0.0, 0.0])
    estimate = torch.tensor([2.0, 0.2, 0.0])
    assert si_sdr_db(estimate, target).item() == pytest.approx(20.0, abs=1e-3)
    assert si_sdr_db(7 * estimate, target).item() == pytest.approx(20.0, abs=1e-3)
    assert si_sdr_db(target, target, ceiling_db=30).item() == pytest.approx(30.0, abs=1e-2)


def test_the_loss_prefers_the_target_and_silence_where_absent() -> None:
    mixture, target = torch.randn(1, 2, 400), torch.randn(1, 2, 400)
    logits, weights = torch.zeros(1), LossWeights()

    def loss(estimate: torch.Tensor, present: float, wanted: torch.Tensor) -> float:
        value, _ = separation_loss(estimate, wanted, mixture, logits, torch.tensor([present]), weights)
        return value.item()

    assert loss(target, 1.0, target) < loss(0.5 * target, 1.0, target) < loss(mixture, 1.0, target)
    silence = torch.zeros_like(target)
    assert loss(0.01 * mixture, 0.0, silence) < loss(mixture, 0.0, silence)


def test_gradients_are_finite_for_silence_and_perfection() -> None:
    for estimate, target in ((torch.zeros(1, 1, 9), torch.ones(1, 1, 9)), (torch.ones(1, 1, 9), torch.ones(1, 1, 9))):
        leaf = estimate.clone().requires_grad_()
        loss, _ = separation_loss(leaf, target, torch.ones(1, 1, 9), torch.zeros(1), torch.ones(1), LossWeights())
        loss.backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_the_spectral_distance_is_that_of_a_gain_and_ignores_phase() -> None:
    noise = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    windows = (256, 1024)
    assert log_spectral_distance(noise, noise, windows).abs().max() == 0
    halved = log_spectral_distance(0.5 * noise, noise, windows)
    torch.testing.assert_close(halved, torch.full((3,), np.log(2)), atol=1e-3, rtol=0)
    assert log_spectral_distance(-noise, noise, windows).max() < 1e-4
    assert log_spectral_distance(noise[:, :100], noise[:, :100], windows).max() == 0  # shorter than any window


def test_the_spectral_loss_is_off_by_default_and_hears_quiet_bins() -> None:
    time = torch.arange(8000) / RATE_HZ
    loud = torch.sin(2 * torch.pi * 200 * time)
    quiet = 0.01 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    target, mixture = (loud + quiet).expand(1, 2, -1), (loud + 2 * quiet).expand(1, 2, -1)

    def parts(estimate: torch.Tensor, weights: LossWeights, present: float = 1.0) -> tuple[float, Any]:
        flag = torch.tensor([present])
        loss, found = separation_loss(estimate, target * present, mixture, torch.zeros(1), flag, weights)
        return loss.item(), found

    on, off = LossWeights(spectral=1.0), LossWeights()
    assert "spectral" not in parts(target, off)[1]
    exact, without = parts(target, on), parts(loud.expand(1, 2, -1), on)
    assert exact[1]["spectral"].item() == 0 < 1.0 < without[1]["spectral"].item()
    assert without[0] - parts(loud.expand(1, 2, -1), off)[0] == pytest.approx(without[1]["spectral"].item(), abs=1e-5)
    assert parts(loud.expand(1, 2, -1), on, 0.0)[0] == parts(loud.expand(1, 2, -1), off, 0.0)[0]


def test_the_spectral_loss_has_finite_gradients_for_silence() -> None:
    leaf = torch.zeros(1, 1, 4096, requires_grad=True)
    target = torch.randn(1, 1, 4096)
    loss, _ = separation_loss(leaf, target, target, torch.zeros(1), torch.ones(1), LossWeights(spectral=1.0))
    loss.backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
