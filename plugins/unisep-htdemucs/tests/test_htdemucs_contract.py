"""The backends keep the contract that every backend must keep."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs as ReferenceHTDemucs
from demucs.states import get_state
from unisep_htdemucs.backend import load_htdemucs, load_htdemucs_ft
from unisep_htdemucs.bags import RELEASED

from unisep import Backend
from unisep.testing import BackendContract

SOURCES = ["drums", "bass", "other", "vocals"]


def save(path: Path, seed: int) -> None:
    """A small package as demucs stores it."""
    torch.manual_seed(seed)
    kwargs: dict[str, Any] = {
        "sources": SOURCES, "channels": 8, "nfft": 2048, "t_layers": 2, "bottom_channels": 32, "segment": 0.3,
    }  # fmt: skip
    model = ReferenceHTDemucs(**kwargs)
    torch.save({"klass": type(model), "args": (), "kwargs": kwargs, "state": get_state(model, None)}, path)


class TestHTDemucs(BackendContract):
    plugin_module = "unisep_htdemucs.plugin"
    stays_on_device = True

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder) / "model.th", seed=0)
            return load_htdemucs(weights=Path(folder), device=torch.device("cpu"), dtype=torch.float32)


class TestHTDemucsBag(BackendContract):
    plugin_module = "unisep_htdemucs.plugin"
    stays_on_device = True

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as folder:
            for seed, signature in enumerate(RELEASED["htdemucs_ft"].signatures):
                save(Path(folder) / f"{signature}.th", seed)
            return load_htdemucs_ft(weights=Path(folder), device=torch.device("cpu"), dtype=torch.float32)
