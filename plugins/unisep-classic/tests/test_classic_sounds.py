"""Each method on a mixture that it is made for, where it must do much better than doing nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_classic import plugin
from unisep_classic.methods import Centre, Factors, HarmonicPercussive, Independent, Repeating

from unisep import Audio, Separator
from unisep.errors import AudioError, BackendError

RATE_HZ = 44_100


def sdr_db(reference: Tensor, estimate: Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


def noise(seconds: float, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, int(seconds * RATE_HZ), generator=generator) * 0.2


def tone(seconds: float, hz: float) -> Tensor:
    return 0.2 * torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * RATE_HZ)) / RATE_HZ)[None]


def clicks(seconds: float, every: float, start: float = 0.1) -> Tensor:
    """Short bursts of noise, all alike."""
    result, burst = torch.zeros(1, int(seconds * RATE_HZ)), noise(0.01, seed=3) * 5
    for at in np.arange(start, seconds - 0.02, every):
        first = int(at * RATE_HZ)
        result[:, first : first + burst.shape[1]] += burst
    return result


def panned(mono: Tensor, left: float, right: float) -> Tensor:
    return torch.cat([mono * left, mono * right])


def test_tones_and_clicks_are_harmonic_and_percussive() -> None:
    ringing = panned(tone(2, 440) + tone(2, 1234), 0.9, 0.5)
    striking = panned(clicks(2, 0.5), 0.4, 0.8)
    harmonic, percussive = HarmonicPercussive().separate((ringing + striking)[None]).sources[0]
    assert sdr_db(ringing, harmonic) > 10
    assert sdr_db(striking, percussive) > sdr_db(striking, ringing + striking) + 10


def test_a_loop_repeats_and_a_glide_over_it_varies() -> None:
    loop = torch.cat([tone(0.5, hz) + tone(0.5, 3 * hz) for hz in (220, 330, 277, 415)] * 4, dim=1)
    seconds = torch.arange(loop.shape[1]) / RATE_HZ
    glide = 0.1 * torch.sin(2 * torch.pi * (2000 * seconds + 150 * seconds**2))[None]
    repeating, varying = Repeating().separate(panned(loop + glide, 1, 1)[None]).sources[0]
    assert sdr_db(panned(loop, 1, 1), repeating) > 15
    assert sdr_db(panned(glide, 1, 1), varying) > sdr_db(panned(glide, 1, 1), panned(loop + glide, 1, 1)) + 15


def test_the_centre_holds_what_is_in_the_middle() -> None:
    middle, side = panned(tone(1, 500), 1, 1), panned(tone(1, 900), 1, 0.1)
    centre, sides = Centre().separate((middle + side)[None]).sources[0]
    assert sdr_db(middle, centre) > 20
    assert sdr_db(side, sides) > 20
    apart = torch.cat([noise(0.5), -noise(0.5)])[None]
    assert float(Centre().separate(apart).sources[:, 0].abs().max()) < 1e-6


def test_ica_undoes_a_mix_of_two() -> None:
    saw = 0.6 * (torch.arange(RATE_HZ)[None] % 147 / 73.5 - 1)
    one, other = (panned(saw, 0.9, 0.4), panned(noise(1).abs().sqrt() * noise(1, seed=5).sign() * 0.5, 0.3, 0.8))
    sources = Independent().separate((one + other)[None]).sources[0]
    assert float(one.square().sum()) > float(other.square().sum())
    assert sdr_db(one, sources[0]) > 25
    assert sdr_db(other, sources[1]) > 25


@pytest.mark.parametrize("right", [1.0, 0.5, 0.0])
def test_ica_leaves_what_has_one_direction_in_one_part(right: float) -> None:
    mixture = panned(noise(0.5), 1, right)[None]
    sources = Independent().separate(mixture).sources
    assert torch.equal(sources[:, 0], mixture) and not sources[:, 1].any()


def test_nmf_tells_apart_what_comes_and_goes() -> None:
    on = (torch.arange(2 * RATE_HZ) // 11_025 % 2).float()
    low, high = panned(tone(2, 200) * on, 1, 0.3), panned(tone(2, 3000) * (1 - on), 0.3, 1)
    sources = Factors().separate((low + high)[None]).sources[0]
    assert max(sdr_db(low, each) for each in sources) > 10
    assert max(sdr_db(high, each) for each in sources) > 10


@pytest.mark.parametrize("backend", [HarmonicPercussive, Repeating, Centre, Independent, Factors])
def test_sources_sum_to_the_mixture(backend: Callable[[], HarmonicPercussive]) -> None:
    mixture = torch.cat([noise(0.5), 0.7 * noise(0.5) + clicks(0.5, 0.1)])[None]
    total = backend().separate(mixture).sources.sum(1)
    assert float((total - mixture).abs().max()) < 1e-6


def test_what_cannot_be_separated_is_refused() -> None:
    with pytest.raises(AudioError):
        Centre().separate(torch.zeros(1, 1, 100))
    with pytest.raises(BackendError, match="queries"):
        Centre().separate(torch.zeros(1, 2, 100), torch.zeros(1, 3))


def test_specs_agree_with_backends() -> None:
    specs = list(plugin.unisep_backends())
    assert len(specs) == 5
    for spec in specs:
        module, function = spec.load.split(":")
        backend = getattr(import_module(module), function)(weights=None, device=None, dtype=None)
        assert backend.info.sources == spec.stems and not spec.card


def test_a_mono_song_of_another_rate_by_name() -> None:
    song = Audio(noise(0.5).numpy()[:, ::2].copy(), 22_050)
    result = Separator("hpss").separate(song)
    assert list(result) == ["harmonic", "percussive"]
    total = result["harmonic"].samples + result["percussive"].samples + result.rest.samples
    assert np.allclose(total, song.samples, atol=1e-6)
    assert result.plan["harmonic"].backend == "hpss"


def test_the_example_ensemble_is_a_baseline_for_drums_and_vocals() -> None:
    example = Path(__file__).parents[3] / "examples" / "ensembles" / "baseline.toml"
    song = panned(tone(1, 440), 1, 0.5) + panned(clicks(1, 0.25), 0.6, 0.6)
    result = Separator(f"ensemble@{example}").separate(Audio(song.numpy(), RATE_HZ))
    assert list(result) == ["drums", "vocals"]
    assert sdr_db(panned(clicks(1, 0.25), 0.6, 0.6), torch.from_numpy(result["drums"].samples)) > 0


def test_a_query_for_what_strikes_is_left_to_models_that_were_trained() -> None:
    assert all(spec.only_by_name for spec in plugin.unisep_backends())
