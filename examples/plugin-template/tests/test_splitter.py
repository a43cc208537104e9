"""The checks that every backend must pass, inherited from unisep's testing kit."""

import torch
from unisep.testing import BackendContract
from unisep_splitter.backend import Splitter, load


class TestSplitter(BackendContract):
    def load_backend(self) -> Splitter:
        return load(weights=None, device=torch.device("cpu"), dtype=torch.float32)
