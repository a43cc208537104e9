"""The backend keeps the contract that every backend must keep."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from unisep_audiosep.backend import load

from unisep import Backend
from unisep.testing import BackendContract


class TestAudioSep(BackendContract):
    plugin_module = "unisep_audiosep.plugin"
    query_dim = 16
    seconds = 0.3

    @pytest.fixture(autouse=True)
    def _parts(self, make_state, make_published):
        type(self).whole = make_published(make_state())

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(self.whole, Path(folder) / "audiosep.ckpt")
            return load(weights=Path(folder), device=torch.device("cpu"), dtype=torch.float32)
