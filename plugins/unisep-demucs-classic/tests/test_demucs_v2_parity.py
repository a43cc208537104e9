"""The networks equal those of demucs 2.0.3, where that package lies beside the environment.

It has the name of demucs 4.1, which this plugin uses, and so cannot be installed with it: `make test-plugins` puts it in
a folder beside the environment, and here it is imported from there under another name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unisep_demucs_classic import backend as backends

from unisep import Audio, Separator

FOLDER = Path(sys.prefix) / "peers" / "demucs2" / "demucs"
if not FOLDER.is_dir():
    pytest.skip(
        "demucs 2.0.3 is not there: `make test-plugins` puts it beside the environment", allow_module_level=True
    )

SOURCES = ["drums", "bass", "other", "vocals"]
CPU = torch.device("cpu")


def peer(module: str) -> Any:
    """A module of demucs 2.0.3. Its quantisers are not needed here, and an empty diffq stands for them."""
    if "demucs_2_0_3" not in sys.modules:
        sys.modules["diffq"] = types.ModuleType("diffq")
        sys.modules["diffq"].__dict__.update(UniformQuantizer=object, DiffQuantizer=object)
        spec = importlib.util.spec_from_file_location(
            "demucs_2_0_3", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules["demucs_2_0_3"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["demucs_2_0_3"])
        importlib.import_module("demucs_2_0_3.utils")
        sys.modules.pop("diffq")
    return importlib.import_module(f"demucs_2_0_3.{module}")


def telling(model: nn.Module) -> nn.Module:
    """The model with parameters far from where norms, slopes and biases begin, and deep layers that are heard."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.25, 0.75, generator=generator)
            elif name.endswith(("beta", "bias")) or parameter.numel() == 1:
                parameter.uniform_(-0.4, 0.4, generator=generator)
            elif type(model).__name__ == "Demucs" and parameter.dim() == 3:
                parameter.mul_(2)
            elif name == "lstm.linear.weight":
                parameter.mul_(8)
    return model.eval()


def demucs(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return telling(peer("model").Demucs(SOURCES, **{"channels": 4, "depth": 4} | options))


def tasnet(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return telling(peer("tasnet").ConvTasNet(SOURCES, **{"N": 16, "L": 20, "B": 12, "H": 20, "X": 4, "R": 2} | options))


def noise(n_samples: int, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(channels, n_samples, generator=generator) * torch.linspace(0.1, 1, n_samples)


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("demucs", demucs, {}),
        ("demucs", demucs, {"audio_channels": 1}),
        ("demucs_extra", demucs, {"depth": 2, "context": 1, "lstm_layers": 1}),
        ("demucs48_hq", demucs, {"channels": 6, "growth": 1.5, "lstm_layers": 0}),
        ("tasnet", tasnet, {}),
        ("tasnet_extra", tasnet, {"audio_channels": 1, "L": 16, "P": 5}),
    ],
)
def test_a_segment_equals_apply_model(tmp_path: Path, name: str, make: Any, options: dict[str, Any]) -> None:
    """From the file that demucs saves to what its `apply_model` gives, for lengths that fit no frame either."""
    model = make(**options)
    torch.save(peer("utils").get_state(model, None), tmp_path / "m.th")
    backend = getattr(backends, f"load_{name}")(weights=tmp_path / "m.th", device=CPU, dtype=torch.float32)
    for n_samples in (300, 12_345, 20_000):
        mixture = noise(n_samples, options.get("audio_channels", 2))
        expected = peer("utils").apply_model(model, mixture, shifts=0, split=False)
        found = backend.separate(mixture[None]).sources[0]
        assert float(expected.abs().max()) > 1e-4
        assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_the_deepest_layer_is_heard() -> None:
    """Else parity would say nothing of it."""
    model = demucs()
    mixture = noise(20_000)
    whole = peer("utils").apply_model(model, mixture)
    with torch.no_grad():
        model.lstm.linear.weight.zero_()  # type: ignore[union-attr, operator]
    assert float((peer("utils").apply_model(model, mixture) - whole).abs().max() / whole.abs().max()) >= 0.02


@pytest.mark.parametrize(("name", "make", "bound"), [("demucs", demucs, 1e-2), ("tasnet", tasnet, 1e-5)])
def test_a_song_equals_separate(tmp_path: Path, name: str, make: Any, bound: float) -> None:
    """As demucs's `separate` does it, with segments of half a second, up to where the first begins that the song does not fill.

    A Demucs hears silence for 70 ms around its segments here, and the song there: hence its wider bound, at half a second.
    """
    model = make()
    model.segment_length, n_compared = 22_050, 3 * int(0.75 * 22_050)
    torch.save(peer("utils").get_state(model, None), tmp_path / "m.th")
    song = noise(60_000) * 0.3 + 0.02
    mean, deviation = song.mean(0).mean(), song.mean(0).std()
    expected = peer("utils").apply_model(model, (song - mean) / deviation, split=True) * deviation + mean
    result = Separator(name, weights=tmp_path / "m.th", segment_seconds=0.5).separate(Audio(song.numpy(), 44_100))
    for index, stem in enumerate(SOURCES):
        reference = expected[index, :, :n_compared]
        error = torch.from_numpy(result[stem].samples)[:, :n_compared] - reference
        assert float(error.abs().max() / reference.abs().max()) <= bound


@pytest.mark.parametrize("name", ["demucs", "demucs48_hq", "tasnet"])
def test_the_released_sizes_are_the_references(name: str) -> None:
    """Every name and shape of a published file, which `pretrained.py` of demucs 2.0.3 fixes."""
    from unisep_demucs_classic.conv_tasnet import ConvTasNet, ConvTasNetShape
    from unisep_demucs_classic.demucs_v2 import DemucsV2, DemucsV2Shape

    with torch.device("meta"):
        if name == "tasnet":
            theirs, ours = peer("tasnet").ConvTasNet(SOURCES, X=10), ConvTasNet(ConvTasNetShape())
        else:
            channels = 48 if name == "demucs48_hq" else 64
            theirs = peer("model").Demucs(SOURCES, channels=channels)
            ours = DemucsV2(DemucsV2Shape(widths=tuple(channels << index for index in range(6))))
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    assert theirs.segment_length == backends._V2_SEGMENT_SECONDS[type(ours)] * 44_100
    for n_samples in (20, 44_100, 1_764_000):
        assert theirs.valid_length(n_samples) == ours.valid_length(n_samples)


def test_a_new_network_begins_as_the_reference_does() -> None:
    """The same seed gives the same parameters: order of the layers, their kinds and the rescaling."""
    from unisep_demucs_classic.demucs_v2 import DemucsV2, DemucsV2Shape

    torch.manual_seed(5)
    theirs = peer("model").Demucs(SOURCES, channels=4, depth=3).state_dict()
    torch.manual_seed(5)
    ours = DemucsV2(DemucsV2Shape(widths=(4, 8, 16))).state_dict()
    assert list(theirs) == list(ours)
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-6), name
