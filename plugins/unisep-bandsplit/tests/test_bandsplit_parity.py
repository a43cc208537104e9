"""The models equal those of msst 0.1.0 (Music-Source-Separation-Training), whose names the community's checkpoints carry.

msst asks for an older torch, so it lies beside the environment: `make test-plugins`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unisep_bandsplit.bsrnn import BandSplitRNN, band_shares
from unisep_bandsplit.config import BSRNNConfig, SCNetConfig
from unisep_bandsplit.scnet import SCNet

msst = pytest.importorskip("msst", reason="make test-plugins puts msst beside the environment")
pytestmark = [
    pytest.mark.filterwarnings("ignore:A window was not provided"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated"),
]
Options = Callable[[str], dict[str, Any]]
LARGE = {"dims": [4, 12, 16, 24], "nfft": 1024, "hop_size": 256, "win_size": 1024, "num_dplayer": 4}


@pytest.fixture(scope="module")
def theirs() -> type[nn.Module]:
    from msst.models.scnet.scnet import SCNet as Theirs

    return Theirs


@pytest.mark.parametrize(
    "changed",
    [
        {},
        LARGE,
        {"band_SR": [0.23, 0.37, 0.4], "band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "conv_depths": [3, 3, 3]},
        {"sources": ["vocals"], "normalized": False, "compress": 2, "conv_kernel": 5, "expand": 2},
        {"nfft": 512, "win_size": 400, "hop_size": 100, "band_kernel": [5, 4, 16]},
    ],
)
@pytest.mark.parametrize(("n_samples", "batch"), [(3000, 1), (4096, 3), (4161, 1)])
@torch.inference_mode()
def test_scnet_equals_the_reference(
    theirs: type[nn.Module], changed: dict[str, Any], n_samples: int, batch: int, options: Options, random: Any,
    music: Any, distance: Any,
) -> None:  # fmt: skip
    chosen = {**options("scnet"), **changed}
    reference = theirs(**chosen).eval()
    random(reference)
    mine = SCNet(SCNetConfig.from_options(chosen)).eval()
    mine.load_state_dict(reference.state_dict(), strict=True)
    mixture = music(n_samples, batch=batch)
    expected, sources = reference(mixture), mine(mixture)
    assert sources.shape == expected.shape == (batch, len(chosen["sources"]), 2, n_samples)
    assert distance(sources, expected) <= 1e-4


@torch.inference_mode()
def test_scnet_of_the_published_sizes_equals_the_reference(
    theirs: type[nn.Module], options: Options, random: Any, music: Any, distance: Any
) -> None:
    published = SCNetConfig(sources=("drums", "bass", "other", "vocals"))
    reference = theirs(num_dplayer=2).eval()
    random(reference)
    mine = SCNet(published.model_copy(update={"num_dplayer": 2})).eval()
    mine.load_state_dict(reference.state_dict(), strict=True)
    mixture = music(12_000)
    assert distance(mine(mixture), reference(mixture)) <= 1e-4


@pytest.mark.parametrize(
    "part", ["norm_layers.1", "encoder.1.conv_modules.0.layers.2.0", "decoder.0.1.convtrs.2", "globalconv", "lstm"]
)
@torch.inference_mode()
def test_parity_is_lost_when_a_part_is_changed(
    theirs: type[nn.Module], part: str, options: Options, random: Any, music: Any, distance: Any
) -> None:
    reference = theirs(**options("scnet")).eval()
    random(reference)
    mine = SCNet(SCNetConfig.from_options(options("scnet"))).eval()
    mine.load_state_dict(reference.state_dict(), strict=True)
    for name, parameter in mine.named_parameters():
        if part in name:
            parameter.zero_()
    assert distance(mine(music(3000)), reference(music(3000))) > 1e-3


@pytest.fixture(scope="module")
def bandit() -> Iterator[tuple[type[nn.Module], ModuleType]]:
    """msst's Band-Split RNN between the two transforms, and its bands, without the libraries that both do not need."""
    folder = Path(msst.__file__).parent / "models" / "bandit"
    stand_ins = {
        "msst.models.bandit.core": folder / "core",
        "msst.models.bandit.core.model": folder / "core" / "model",
        **dict.fromkeys(("torchaudio", "torchaudio.functional", "torchaudio.functional.functional", "spafe")),
        **dict.fromkeys(("spafe.fbanks", "spafe.utils", "spafe.utils.converters")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, path in stand_ins.items():
            module = ModuleType(name)
            module.__path__ = [str(path)] if path else []
            module.__getattr__ = lambda attribute: None  # type: ignore[method-assign]
            patch.setitem(sys.modules, name, module)
        sys.modules["torchaudio"].functional = sys.modules["torchaudio.functional"]  # type: ignore[attr-defined]
        from msst.models.bandit.core.model.bsrnn import core, utils

        yield core.MultiSourceMultiMaskBandSplitCoreRNN, utils
        for name in [name for name in sys.modules if name.startswith("msst.models.bandit")]:
            patch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("n_fft", "fs", "n_bands"), [(2048, 44100, 64), (2048, 48000, 64), (256, 44100, 9), (4096, 44100, 40)]
)
def test_musical_bands_and_their_weights_are_those_of_the_reference(
    bandit: tuple[Any, Any], n_fft: int, fs: int, n_bands: int, options: Options
) -> None:
    chosen = {**options("bsrnn"), "n_fft": n_fft, "win_length": n_fft, "fs": fs, "n_bands": n_bands}
    config = BSRNNConfig.from_options(chosen)
    expected = bandit[1].MusicalBandsplitSpecification(n_fft, fs, n_bands)
    assert config.bands() == expected.get_band_specs()
    shares = torch.from_numpy(band_shares(config))
    for (start, end), weights in zip(config.bands(), expected.get_freq_weights(), strict=True):
        assert torch.allclose(shares[start:end], weights)


@pytest.mark.parametrize("n_fft", [2048, 4096])
@pytest.mark.parametrize(
    ("bands", "name"),
    [("dnr:vox7", "Vocal"), ("musdb:drums", "Drum"), ("musdb:bass", "Bass"), ("musdb:other", "Other")],
)
def test_tables_of_bands_are_those_of_the_reference(
    bandit: tuple[Any, Any], bands: str, name: str, n_fft: int, options: Options
) -> None:
    config = BSRNNConfig.from_options({**options("bsrnn"), "band_specs": bands, "n_fft": n_fft, "win_length": n_fft})
    assert config.bands() == getattr(bandit[1], f"{name}BandsplitSpecification")(n_fft, 44100).get_band_specs()


@pytest.mark.parametrize(
    "changed",
    [{}, {"rnn_type": "LSTM"}, {"band_specs": "dnr:vox7", "n_fft": 2048, "win_length": 2048, "hop_length": 512}],
)
@torch.inference_mode()
def test_bsrnn_equals_the_reference(
    bandit: tuple[Any, Any], changed: dict[str, Any], options: Options, random: Any, music: Any, distance: Any
) -> None:
    config = BSRNNConfig.from_options({**options("bsrnn"), **changed})
    overlapping = config.band_specs == "musical"
    weights = bandit[1].MusicalBandsplitSpecification(config.n_fft, config.fs, config.n_bands).get_freq_weights()
    reference = bandit[0](
        in_channel=1, stems=list(config.stems), band_specs=config.bands(), n_sqm_modules=config.n_sqm_modules,
        emb_dim=config.emb_dim, rnn_dim=config.rnn_dim, rnn_type=config.rnn_type, mlp_dim=config.mlp_dim,
        overlapping_band=overlapping, freq_weights=weights if overlapping else None, n_freq=config.n_bins,
    ).eval()  # fmt: skip
    random(reference)
    mine = BandSplitRNN(config).eval()
    parameters = {name: value for name, value in reference.state_dict().items() if "freq_weights" not in name}
    mine.load_state_dict(parameters, strict=True)
    mixture = music(6000, batch=2)
    spectrum = mine.spectrum(mixture.flatten(0, 1))
    expected = reference(spectrum.unflatten(0, (2, 2)))["spectrogram"]
    sources = mine(mixture)
    for index, stem in enumerate(config.stems):
        signal: Tensor = mine.waveforms(expected[stem].flatten(0, 1).to(torch.complex64), 6000).unflatten(0, (2, 2))
        assert distance(sources[:, index], signal) <= 1e-4
