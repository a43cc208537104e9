"""What HT Demucs would do on a GPU, as far as a pretended one can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs

from unisep.engine.device import BYTES_PER_SEGMENT
from unisep.testing import pretended


@pytest.fixture(scope="module")
def released() -> HTDemucs:
    """A model of the released size, without parameters."""
    four = ("drums", "bass", "other", "vocals")
    with torch.device("meta"):
        return HTDemucs(HTDemucsConfig(four, bottom_channels=512, segment=7.8, dconv_mode=3)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_segments", [1, 4])
def test_a_batch_fits_into_its_share_of_the_memory(released: HTDemucs, dtype: torch.dtype, n_segments: int) -> None:
    with pretended() as device:
        model = device.copied(released, dtype)
        n_bytes = device.peak_bytes
        mixture = torch.zeros(n_segments, 2, model.config.segment_samples, device=device.device)
        assert model(mixture).shape == (n_segments, 4, *mixture.shape[1:])
    assert 0 < device.peak_bytes - n_bytes < n_segments * BYTES_PER_SEGMENT / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_host_waits_for_nothing(
    reference: Callable[..., nn.Module], ours: Callable[..., HTDemucs], dtype: torch.dtype
) -> None:
    model = ours(reference())
    with pretended() as device:
        device.copied(model, dtype)(torch.zeros(2, 2, 13_230, device=device.device))
    assert not device.waits and not device.doubles
    assert 0 < device.n_steps < 800
