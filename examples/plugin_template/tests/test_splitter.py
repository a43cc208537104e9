"""The checks that every backend must pass, inherited from unisep's testing kit."""

import torch
from unisep.testing import BackendContract

from unisep_splitter.backend import Splitter, load


class TestSplitter(BackendContract):
    plugin_module = "unisep_splitter.plugin"
    stays_on_device = True

    def load_backend(self) -> Splitter:
        return load(weights=None, device=torch.device("cpu"), dtype=torch.float32)


def test_the_bands_sum_to_the_mixture() -> None:
    mixture = torch.randn(1, 2, 5_000, generator=torch.Generator().manual_seed(0))
    bands = Splitter().separate(mixture).sources
    assert torch.allclose(bands.sum(1), mixture, atol=1e-6)
