"""Network, filter and whole separation equal those of openunmix 1.3.0, where that package is installed.

It depends on torchaudio, which fixes torch's version, and so is not among the packages for tests. Install it as
`make test-plugins` does: without what it depends on. What it does with audio needs no torchaudio; only its helpers
for files do, so that an empty module may stand for it.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unisep_openunmix.backend import OpenUnmixBackend, load
from unisep_openunmix.checkpoints import Framing
from unisep_openunmix.model import Shape
from unisep_openunmix.wiener import wiener

if importlib.util.find_spec("openunmix") is None:
    pytest.skip("openunmix is not installed", allow_module_level=True)
if importlib.util.find_spec("torchaudio") is None:
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from openunmix.filtering import wiener as reference_wiener
    from openunmix.model import OpenUnmix as ReferenceNetwork
    from openunmix.model import Separator as ReferenceSeparator
sys.modules.pop("torchaudio", None)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def reference_network(model: Any) -> Any:
    """The peer's network holding the parameters of ours, every name matched."""
    shape = model.shape
    theirs = ReferenceNetwork(nb_bins=shape.n_bins, nb_channels=shape.n_channels, hidden_size=shape.hidden,
                              nb_layers=shape.n_layers, unidirectional=not shape.bidirectional,
                              max_bin=shape.n_input_bins)  # fmt: skip
    theirs.load_state_dict(model.state_dict(), strict=True)
    return theirs.eval()


@pytest.mark.parametrize("changed", [{}, {"n_channels": 1}, {"bidirectional": False}, {"n_layers": 2}])
@torch.inference_mode()
def test_the_network_equals_the_reference(changed: dict[str, Any], network: Any, small: Shape) -> None:
    model = network(replace(small, **changed))
    mixture = torch.rand(3, model.shape.n_channels, 65, 40, generator=torch.Generator().manual_seed(2)) * 3
    assert distance(model(mixture), reference_network(model)(mixture)) <= 1e-5


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_filter_equals_the_reference(iterations: int, channels: int) -> None:
    random = torch.Generator().manual_seed(3)
    mixture = 20 * torch.randn(channels, 33, 50, dtype=torch.complex128, generator=random)
    magnitudes = mixture.abs() * torch.rand(4, channels, 33, 50, dtype=torch.float64, generator=random)
    theirs = reference_wiener(magnitudes.permute(3, 2, 1, 0), torch.view_as_real(mixture.permute(2, 1, 0)), iterations)
    expected = torch.view_as_complex(theirs.permute(4, 2, 1, 0, 3).contiguous())
    assert distance(wiener(magnitudes, mixture, iterations=iterations), expected) <= 1e-6


@pytest.mark.parametrize(("channels", "seconds"), [(2, 0.4), (1, 0.4), (2, 0.002)])
@torch.inference_mode()
def test_the_separation_equals_the_reference(
    channels: int, seconds: float, network: Any, music: Any, small: Shape
) -> None:
    shape = replace(small, n_channels=channels)
    models = {name: network(shape, seed) for seed, name in enumerate(("vocals", "drums", "bass", "other"))}
    mine = OpenUnmixBackend(models, Framing(sample_rate=44_100, nfft=128, nhop=32))
    theirs = ReferenceSeparator(
        {name: reference_network(model) for name, model in models.items()}, niter=1, n_fft=128, n_hop=32,
        nb_channels=channels, sample_rate=44_100.0, wiener_win_len=300,
    ).eval()  # fmt: skip
    mixture = music(round(seconds * 44_100), channels, batch=2)
    found, expected = mine.separate(mixture).sources, theirs.double()(mixture.double())
    assert found.shape == expected.shape and mixture.shape[-1] // 32 > (300 if seconds > 0.1 else 0)
    for source, other in zip(found.unbind(1), expected.unbind(1), strict=True):
        assert distance(source, other) <= 1e-4


@pytest.mark.slow
@torch.inference_mode()
def test_the_published_sizes_equal_the_reference(tmp_path: Path, written: Any, music: Any) -> None:
    """Two networks of umxhq's sizes, from files as they are published."""
    shape = Shape(2049, 1487, 2, 512, 3, bidirectional=True)
    folder = written(tmp_path / "hq", ("vocals", "drums"), shape, {"nfft": 4096, "nhop": 1024})
    (folder / "separator.json").unlink()
    mine = load(weights=folder, device=torch.device("cpu"), dtype=torch.float32)
    theirs = ReferenceSeparator(
        {name: reference_network(model) for name, model in mine.models.items()}, niter=1, n_fft=4096, n_hop=1024
    ).eval()  # type: ignore[attr-defined]  # fmt: skip
    mixture = music(50_000)
    assert distance(mine.separate(mixture).sources, theirs.double()(mixture.double())) <= 1e-4
