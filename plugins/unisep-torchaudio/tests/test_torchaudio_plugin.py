"""What holds with and without torchaudio: listing, cards, reading files, joining parts, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from unisep_torchaudio import backend as backends
from unisep_torchaudio import plugin
from unisep_torchaudio.backend import build

from unisep.errors import AudioError, BackendError, OptionError, WeightsError
from unisep.testing import BackendContract
from unisep.weights.cards import read_card
from unisep.weights.store import WeightsStore

SPECS = {spec.name: spec for spec in plugin.unisep_backends()}
CPU = torch.device("cpu")


def test_listing_loads_neither_torch_nor_torchaudio():
    code = (
        "import sys, unisep_torchaudio.plugin as p; print(len(list(p.unisep_backends())), "
        "[name for name in ('torch', 'numpy', 'torchaudio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


@pytest.mark.parametrize("name", SPECS)
def test_cards_agree_with_specs(name, tmp_path):
    card, spec = read_card(SPECS[name].card), SPECS[name]
    assert (card.name, card.licence, card.sources) == (name, spec.licence, spec.stems)
    assert WeightsStore(offline=True, folder=tmp_path).state(card) == "missing"
    module, function = spec.load.split(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("load", [backends.load_hdemucs, backends.load_conv_tasnet])
def test_a_torchaudio_that_cannot_be_imported_is_said_plainly(load, monkeypatch):
    def broken(name: str) -> None:
        raise OSError("libtorchaudio.so: undefined symbol")

    monkeypatch.setattr(backends, "import_module", broken)
    with pytest.raises(BackendError, match=r"needs torchaudio.*undefined symbol.*fits torch"):
        load(weights=None, device=CPU, dtype=torch.float32)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def filled(path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    return build(small, path, "small", CPU, dtype)


def test_parameters_come_from_the_file_or_the_folder_with_it(tmp_path):
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save(state, tmp_path / "model.pt")
    for place in (tmp_path, tmp_path / "model.pt"):
        model = filled(place)
        assert torch.equal(model.weight, state["weight"]) and not model.training


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_file_that_names_a_function_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Hostile(tmp_path / "was-run")}, tmp_path / "hostile.pt")
    with pytest.raises(WeightsError, match="nothing of it was run"):
        filled(tmp_path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "does not fit"),
        ({"weight": torch.ones(2, 3), "bias": torch.tensor([1.0, torch.inf])}, "not finite"),
        ({"weight": 3}, "not the name of a tensor"),
        ([torch.ones(2)], "no parameters by name"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=message):
        filled(tmp_path)


def test_no_file_a_damaged_one_and_half_precision_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="unisep models pull small"):
        build(small, None, "small", CPU, torch.float32)
    with pytest.raises(WeightsError, match="found 0"):
        filled(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match="damaged"):
        filled(tmp_path)
    with pytest.raises(OptionError, match="float32 only"):
        filled(tmp_path, torch.bfloat16)


class Unordered(nn.Module):
    """Gives the mixture's positive and negative half; every second call the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def forward(self, mixture):
        halves = [mixture[:, 0].clamp_min(0), mixture[:, 0].clamp_max(0)]
        self.lengths.append(mixture.shape[-1])
        return torch.stack(halves if len(self.lengths) % 2 else halves[::-1], dim=1)


def test_long_recordings_keep_their_speakers_in_one_order():
    model = Unordered()
    backend = backends.ConvTasNetBackend(model, part_seconds=1.0, overlap_seconds=0.25)
    mixture = torch.randn(2, 1, 30_000, generator=torch.Generator().manual_seed(1))
    found = backend.separate(mixture).sources
    assert torch.allclose(found[:, 0], mixture.clamp_min(0), atol=1e-6)
    assert torch.allclose(found[:, 1], mixture.clamp_max(0), atol=1e-6)
    assert len(model.lengths) == 5 and max(model.lengths) == 8000


class TestHost(BackendContract):
    """The part around the model, with one that any environment has."""

    plugin_module = "unisep_torchaudio.plugin"

    def load_backend(self):
        class Halves(nn.Module):
            def forward(self, mixture):
                return torch.stack([mixture[:, 0] * 0.25, mixture[:, 0] * 0.75], dim=1)

        return backends.ConvTasNetBackend(Halves(), part_seconds=0.2, overlap_seconds=0.05)


@pytest.mark.parametrize("backend", [backends.ConvTasNetBackend, backends.HybridDemucsBackend])
def test_queries_and_wrong_shapes_are_refused(backend):
    loaded = backend(nn.Identity())
    with pytest.raises(BackendError):
        loaded.separate(torch.ones(1, loaded.info.channels, 10), torch.ones(1, 4))
    for shape in [(1, 3, 10), (2, 10), (1, loaded.info.channels, 0)]:
        with pytest.raises(AudioError):
            loaded.separate(torch.ones(shape))
