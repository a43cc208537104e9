"""The models equal those of lucidrains' BS-RoFormer 0.3.10, whose names the community's checkpoints carry."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from unisep_roformer.config import STANDARD_BANDS, RoformerConfig
from unisep_roformer.model import Roformer, mel_bands

Compared = Callable[..., tuple[Tensor, Tensor]]
Options = Callable[[str], dict[str, Any]]


def ours(model: nn.Module, options: dict[str, Any]) -> Roformer:
    """Our model holding the peer's parameters, every name matched."""
    mine = Roformer(RoformerConfig.from_options(options))
    mine.load_state_dict(model.state_dict(), strict=True)
    return mine.eval()


@pytest.fixture
def compared(reference: Any, music: Any, options: Options) -> Compared:
    """Outputs of both models for the same input; the peer never zeroes 0 Hz."""

    @torch.inference_mode()
    def compare(kind: str, n_samples: int = 5000, batch: int = 1, **changed: Any) -> tuple[Tensor, Tensor]:
        model = reference(kind, **changed)
        mine = ours(model, {**options(kind), "zero_dc": False, **changed})
        mixture = music(n_samples, mine.config.n_channels, batch)
        expected = model(mixture)
        found = mine(mixture)
        assert found.shape[-1] == n_samples
        if kind == "band":  # this version of the peer drops what follows the last hop; its Mel-Band model does not
            found = found[..., : expected.shape[-1]]
        return found, expected[:, None] if mine.config.num_stems == 1 else expected

    return compare


@pytest.mark.parametrize("kind", ["band", "mel"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_stems": 1},
        {"stereo": False},
        {"depth": 1, "time_transformer_depth": 2, "freq_transformer_depth": 3},
        {"mask_estimator_depth": 1},
        {"mask_estimator_depth": 3},
        {"stft_hop_length": 50, "stft_win_length": 200, "stft_normalized": True},
        {"heads": 1, "dim_head": 32},
    ],
    ids=lambda changed: "-".join(changed) or "plain",
)
def test_every_source_equals_the_reference(
    kind: str, changed: dict[str, Any], compared: Compared, distance: Any
) -> None:
    mine, theirs = compared(kind, **changed)
    assert mine.shape == theirs.shape
    for source, expected in zip(mine.unbind(1), theirs.unbind(1), strict=True):
        assert distance(source, expected) <= 1e-4


@pytest.mark.parametrize("kind", ["band", "mel"])
@pytest.mark.parametrize("n_samples", [129, 1000, 4097])
def test_any_length_and_batch_equal_the_reference(kind: str, n_samples: int, compared: Compared, distance: Any) -> None:
    mine, theirs = compared(kind, n_samples, batch=3)
    assert mine.shape == theirs.shape == (3, 2, 2, n_samples - (n_samples % 64 if kind == "band" else 0))
    assert distance(mine, theirs) <= 1e-4


@pytest.mark.parametrize("kind", ["band", "mel"])
def test_a_model_at_the_published_spectrogram_equals_the_reference(
    kind: str, compared: Compared, distance: Any
) -> None:
    bands: dict[str, Any] = {"num_bands": 60} if kind == "mel" else {"freqs_per_bands": STANDARD_BANDS}
    sizes = {"stft_n_fft": 2048, "stft_hop_length": 441, "stft_win_length": 2048, "dim": 32, "num_stems": 1}
    mine, theirs = compared(kind, 20_000, **sizes, **bands)
    assert distance(mine, theirs) <= 1e-4


@pytest.mark.parametrize("kind", ["band", "mel"])
@pytest.mark.parametrize(
    "part", ["layers.1.0.layers.0.0.to_qkv", "layers.1.1.layers.0.1.net.4", "to_gates", "rotary_embed.freqs"]
)
@torch.inference_mode()
def test_parity_is_lost_when_a_part_is_changed(
    kind: str, part: str, reference: Any, music: Any, options: Options, distance: Any
) -> None:
    model = reference(kind)
    mine, mixture = ours(model, {**options(kind), "zero_dc": False}), music(5000)
    for name, parameter in mine.named_parameters():
        if part in name:
            parameter.zero_()
    expected = model(mixture)
    assert distance(mine(mixture)[..., : expected.shape[-1]], expected) > 1e-3


class _Skipping(nn.Module):
    """One of the peer's blocks over time, with the outputs of all earlier blocks added to what it gets."""

    def __init__(self, inner: nn.Module, earlier: list[Tensor], n_batch: int) -> None:
        super().__init__()
        self.inner, self.earlier, self.n_batch = inner, earlier, n_batch

    def forward(self, x: Tensor) -> Tensor:
        for before in self.earlier:
            x = x + rearrange(before, "(b t) k d -> (b k) t d", b=self.n_batch)
        return self.inner(x)


@pytest.mark.parametrize("kind", ["band", "mel"])
@torch.inference_mode()
def test_skip_connections_add_what_all_earlier_blocks_gave(
    kind: str, reference: Any, music: Any, options: Options, distance: Any
) -> None:
    model = reference(kind, depth=3)
    mine = ours(model, {**options(kind), "zero_dc": False, "depth": 3, "skip_connection": True})
    mixture, earlier = music(3000, batch=2), []
    plain = model(mixture)
    for block in model.layers:
        block[0] = _Skipping(block[0], earlier, n_batch=2)
        block[1].register_forward_hook(lambda _, __, output: earlier.append(output))
    expected = model(mixture)
    assert distance(expected, plain) > 1e-2
    assert distance(mine(mixture)[..., : expected.shape[-1]], expected) <= 1e-4


@torch.inference_mode()
def test_zero_dc_takes_0_hz_out_of_every_source(reference: Any, music: Any, options: Options) -> None:
    model = reference("band")
    keeping = ours(model, {**options("band"), "zero_dc": False})
    cutting = ours(model, {**options("band"), "zero_dc": True})
    spectrum = keeping.spectrum(music(4096) + 0.5)[:, None]
    above, at_0_hz = spectrum.clone(), spectrum.clone()
    above[:, :, :2], at_0_hz[:, :, 2:] = 0, 0  # two rows a bin, one for each channel
    torch.testing.assert_close(cutting.waveforms(spectrum, 4096), keeping.waveforms(above, 4096), rtol=0, atol=1e-5)
    assert float(keeping.waveforms(at_0_hz, 4096).abs().max()) > 0.1
    assert not cutting.waveforms(at_0_hz, 4096).any()


@torch.inference_mode()
def test_chosen_stems_are_those_of_the_full_run(reference: Any, music: Any, options: Options) -> None:
    mine = ours(reference("band", num_stems=3), {**options("band"), "num_stems": 3})
    mixture = music(3000)
    assert torch.equal(mine(mixture, [2, 0]), mine(mixture)[:, [2, 0]])


@pytest.mark.parametrize("n_fft", [1024, 2048, 4096])
@pytest.mark.parametrize(("sample_rate_hz", "n_bands"), [(44_100, 60), (44_100, 40), (16_000, 32), (48_000, 64)])
def test_mel_bands_are_where_librosas_filters_are_above_zero(n_fft: int, sample_rate_hz: int, n_bands: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from librosa import filters

        expected = filters.mel(sr=sample_rate_hz, n_fft=n_fft, n_mels=n_bands) > 0
    expected[0, 0] = expected[-1, -1] = True
    if not (expected.any(0).all() and expected.any(1).all()):
        pytest.skip("these bands leave gaps, which is refused")
    config = RoformerConfig(dim=8, depth=1, num_bands=n_bands, sample_rate=sample_rate_hz, stft_n_fft=n_fft,
                            stft_win_length=n_fft, stft_hop_length=n_fft // 4)  # fmt: skip
    for bins, row in zip(mel_bands(config), expected, strict=True):
        assert np.array_equal(bins, np.flatnonzero(row))


@pytest.mark.parametrize("kind", ["band", "mel"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_stays_near_and_finite(
    kind: str, dtype: torch.dtype, reference: Any, music: Any, options: Options, distance: Any
) -> None:
    model = reference(kind)
    mine, mixture = ours(model, options(kind)), music(4000)
    full = mine(mixture)
    for name, parameter in mine.named_parameters():
        if not name.endswith("rotary_embed.freqs"):
            parameter.data = parameter.data.to(dtype)
    half = mine(mixture)
    assert half.dtype == torch.float32
    assert 0 < distance(half, full) < (0.1 if dtype == torch.bfloat16 else 0.02)
    assert bool(mine(mixture * 300).isfinite().all()) and bool(mine(mixture * 0).isfinite().all())
