"""The backends against torchaudio's own models; needs torchaudio, so `make test-plugins` runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from unisep_torchaudio import backend as backends
from unisep_torchaudio.plugin import STEMS

from unisep import Audio, Separator
from unisep.errors import WeightsError
from unisep.testing import BackendContract

try:
    from torchaudio.models import HDemucs, conv_tasnet_base, hdemucs_high
    from torchaudio.pipelines import CONVTASNET_BASE_LIBRI2MIX, HDEMUCS_HIGH_MUSDB_PLUS
except (ImportError, OSError, RuntimeError, AttributeError):
    pytest.skip("torchaudio cannot be imported here", allow_module_level=True)

CPU = torch.device("cpu")


def telling(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with residual branches that count: at their initial 1e-4 they could be missing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.uniform_(0.25, 0.75)
            elif name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model.eval()


def music(seconds: float, rate_hz: int, channels: int) -> torch.Tensor:
    n_samples = round(seconds * rate_hz)
    noise = torch.randn(1, channels, n_samples, generator=torch.Generator().manual_seed(2))
    return noise * torch.linspace(0.05, 0.5, n_samples)


@pytest.fixture(scope="module")
def demucs_file(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("hdemucs") / "hdemucs_high_trained.pt"
    torch.save(telling(hdemucs_high(list(STEMS))).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def tasnet_file(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("tasnet") / "conv_tasnet_base_libri2mix.pt"
    torch.save(telling(conv_tasnet_base(2)).state_dict(), path)
    return path


def test_rates_and_files_are_those_of_the_bundles():
    assert HDEMUCS_HIGH_MUSDB_PLUS.sample_rate == backends.HDEMUCS_RATE_HZ
    assert HDEMUCS_HIGH_MUSDB_PLUS._model_path == "models/hdemucs_high_trained.pt"
    assert CONVTASNET_BASE_LIBRI2MIX.sample_rate == backends.TASNET_RATE_HZ
    assert CONVTASNET_BASE_LIBRI2MIX._model_path == "models/conv_tasnet_base_libri2mix.pt"


def test_hybrid_demucs_equals_torchaudios_model(demucs_file):
    theirs = hdemucs_high(list(STEMS))
    theirs.load_state_dict(torch.load(demucs_file, weights_only=True))
    backend = backends.load_hdemucs(weights=demucs_file.parent, device=CPU, dtype=torch.float32)
    mixture = music(1.5, 44_100, 2)
    with torch.inference_mode():
        wanted = theirs.eval()(mixture)
    assert torch.equal(backend.separate(mixture).sources, wanted)
    assert float(wanted.abs().max()) > 0.01


def test_a_song_equals_torchaudios_recipe(demucs_file):
    """The song normalised by the mean and deviation of its mono mix, separated, and scaled back."""
    theirs = hdemucs_high(list(STEMS))
    theirs.load_state_dict(torch.load(demucs_file, weights_only=True))
    song = music(3.0, 44_100, 2)
    mono = song.mean(1)
    with torch.inference_mode():
        wanted = theirs.eval()((song - mono.mean()) / mono.std()) * mono.std() + mono.mean()
    # Three seconds are one segment here, so that unisep's overlap plays no part.
    options = {"segment_seconds": 3.0, "overlap_fraction": 0.0, "device": "cpu"}
    separator = Separator("hdemucs-high", weights=demucs_file, **options)
    parts = separator.separate(Audio(song[0].numpy(), 44_100))
    found = np.stack([parts[name].samples for name in STEMS])
    peak = float(wanted.abs().max())
    assert float(np.abs(found - wanted[0].numpy()).max()) <= 1e-4 * peak


def test_conv_tasnet_equals_torchaudios_model(tasnet_file):
    theirs = conv_tasnet_base(2)
    theirs.load_state_dict(torch.load(tasnet_file, weights_only=True))
    backend = backends.load_conv_tasnet(weights=tasnet_file, device=CPU, dtype=torch.float32)
    mixture = music(1.0, 8000, 1)
    with torch.inference_mode():
        wanted = theirs.eval()(mixture)
    found = backend.separate(mixture).sources
    assert torch.equal(found[:, :, 0], wanted)
    assert float((wanted[:, 0] - wanted[:, 1]).abs().max()) > 1e-3 * float(wanted.abs().max())


def test_conv_tasnet_behind_a_separator(tasnet_file):
    talk = Audio(music(1.0, 16_000, 2)[0].numpy(), 16_000)
    parts = Separator("conv-tasnet", weights=tasnet_file, device="cpu").separate(talk)
    assert list(parts)[:2] == ["speaker-1", "speaker-2"]
    assert parts["speaker-1"].samples.shape == talk.samples.shape


def test_a_file_of_the_other_model_is_refused(tasnet_file):
    with pytest.raises(WeightsError, match="does not fit"):
        backends.load_hdemucs(weights=tasnet_file, device=CPU, dtype=torch.float32)


class TestHybridDemucs(BackendContract):
    plugin_module = "unisep_torchaudio.plugin"
    seconds = 0.3
    # A group norm over a second of mostly silence magnifies rounding.
    tolerance = 1e-4
    stays_on_device = True

    def load_backend(self):
        torch.manual_seed(0)
        return backends.HybridDemucsBackend(telling(HDemucs(list(STEMS), channels=4, nfft=4096, depth=6)))


class TestConvTasNet(BackendContract):
    plugin_module = "unisep_torchaudio.plugin"
    seconds = 0.5
    stays_on_device = True

    def load_backend(self):
        torch.manual_seed(0)
        return backends.ConvTasNetBackend(telling(conv_tasnet_base(2)))
