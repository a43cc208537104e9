"""What presence hears of a mixture and a target, and what it makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from unisep_film.film import FiLM
from unisep_film.presence import Presence, level_of
from unisep_htdemucs.config import HTDemucsConfig

RATE_HZ = 44100
SHAPE = HTDemucsConfig(sources=("target",), samplerate=RATE_HZ)


@pytest.fixture(scope="module")
def presence() -> Presence:
    torch.manual_seed(0)
    module = Presence(SHAPE, 8).eval()
    for layer in module.modules():
        if isinstance(layer, FiLM):
            torch.nn.init.normal_(layer.scale.weight, std=0.3)
    return module


def tone(hz: float, n_samples: int = RATE_HZ) -> torch.Tensor:
    return 0.1 * torch.sin(2 * math.pi * hz * torch.arange(n_samples) / RATE_HZ).expand(1, 2, -1)


@pytest.mark.parametrize(("hz", "other_hz"), [(60.0, 400.0), (400.0, 3000.0), (3000.0, 15000.0)])
def test_a_tone_is_heard_in_its_band_alone(presence: Presence, hz: float, other_hz: float) -> None:
    mixture = tone(hz) + tone(other_hz)
    of_mixture, of_targets, _ = presence.heard(mixture, torch.stack([tone(hz), tone(other_hz)], dim=1))
    assert of_targets.shape == (1, 2, math.ceil(RATE_HZ / 1024), 48) and of_mixture.shape == of_targets[:, 0].shape
    one, other = of_targets[0, :, 20].argmax(dim=1).tolist()
    assert one < other
    assert sorted(of_mixture[0, 20].topk(2).indices.tolist()) == [one, other] or abs(one - other) > 2
    assert of_targets[0, 0, 20, other] < of_targets[0, 0, 20, one] - 3, "30 dB and more below its own band"


def test_levels_are_those_against_the_mixture_however_loud_it_is(presence: Presence) -> None:
    mixture, target = tone(400.0) + tone(3000.0), tone(400.0)[:, None]
    loud = presence.heard(mixture, target)
    for one, other in zip(loud, presence.heard(mixture / 100, target / 100), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    assert float(loud[2]) == pytest.approx(math.log10(0.5), abs=0.01)
    assert level_of(torch.zeros_like(target), mixture).tolist() == [[-6.0]]


def test_what_was_isolated_decides_not_its_level_alone(presence: Presence) -> None:
    mixture = tone(400.0) + tone(3000.0)
    conditions = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        low, high, again = (float(presence(mixture, tone(hz)[:, None], conditions)) for hz in (400.0, 3000.0, 400.0))
    assert low == again and abs(low - high) > 1e-3


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
@pytest.mark.parametrize("n_samples", [1, 500, 5000])
def test_other_rates_and_short_segments_are_heard(rate_hz: int, n_samples: int) -> None:
    module = Presence(HTDemucsConfig(sources=("target",), samplerate=rate_hz, nfft=2048), 4)
    assert torch.allclose(module.bands.sum(dim=0), torch.ones(48))
    mixture = torch.randn(2, 1, n_samples, generator=torch.Generator().manual_seed(0))
    odds = module(mixture, mixture[:, None].expand(-1, 3, -1, -1), torch.zeros(2, 3, 4))
    assert odds.shape == (2, 3) and bool(odds.isfinite().all())


def test_targets_learn_nothing_through_it(presence: Presence) -> None:
    targets, conditions = tone(400.0)[:, None].clone().requires_grad_(), torch.zeros(1, 1, 8, requires_grad=True)
    presence(tone(400.0), targets, conditions).sum().backward()
    assert targets.grad is None and conditions.grad is not None and bool(conditions.grad.any())
