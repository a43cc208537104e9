"""Demucs v1, v2 and the music Conv-TasNet with random parameters: the contract, files read and refused, whole songs."""

from __future__ import annotations

import hashlib
import pickle
import sys
import tempfile
import types
import zlib
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from unisep_demucs_classic import backend as backends
from unisep_demucs_classic import plugin
from unisep_demucs_classic.backend import V2_FILES
from unisep_demucs_classic.conv_tasnet import ConvTasNet, ConvTasNetShape
from unisep_demucs_classic.demucs_v2 import DemucsV2, DemucsV2Shape, resample
from unisep_demucs_classic.v2_checkpoints import load_v2

from unisep import Audio, Separator
from unisep.errors import OptionError, WeightsError
from unisep.testing import BackendContract
from unisep.weights.cards import read_card

CPU = torch.device("cpu")
DEMUCS = DemucsV2Shape(widths=(4, 8, 16))
TASNET = ConvTasNetShape(n_filters=8, filter_samples=8, bottleneck=6, hidden=10, n_blocks=3, n_repeats=2)
# The module of a Conv-TasNet here, and how the published files call it.
BLOCK = {"into": "0", "into_slope": "1", "into_norm": "2", "depthwise": "3.net.0", "depthwise_slope": "3.net.1",
         "depthwise_norm": "3.net.2", "out": "3.net.3"}  # fmt: skip
OUTER = {"encoder": "encoder.conv1d_U", "norm": "separator.network.0", "bottleneck": "separator.network.1",
         "masks": "separator.network.3", "decoder": "decoder.basis_signals"}  # fmt: skip


def random(model: nn.Module) -> nn.Module:
    """The model with parameters that none of its parts leaves unheard."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.25, 0.75, generator=generator)
            elif "norm" in name or "slope" in name:
                parameter.uniform_(-0.5, 0.5, generator=generator)
            else:
                parameter.uniform_(-0.3, 0.3, generator=generator)
    return model.eval()


def demucs(shape: DemucsV2Shape = DEMUCS) -> nn.Module:
    return random(DemucsV2(shape))


def tasnet(shape: ConvTasNetShape = TASNET) -> nn.Module:
    return random(ConvTasNet(shape))


def published(model: nn.Module) -> dict[str, Tensor]:
    """The parameters with the names and shapes of the published files."""
    if isinstance(model, DemucsV2):
        return model.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        module, _, number = name.rpartition(".")
        if module.startswith("blocks."):
            _, repeat, block, part = module.split(".")
            module = f"separator.network.2.{repeat}.{block}.net.{BLOCK[part]}"
        else:
            module = OUTER[module]
        if "norm" in name:
            number, value = {"weight": "gamma", "bias": "beta"}[number], value[None, :, None]
        elif name == "decoder.weight":
            value = value.permute(1, 2, 0).flatten(0, 1)
        state[f"{module}.{number}"] = value.clone(memory_format=torch.contiguous_format)
    return state


def saved(folder: Path, model: nn.Module, name: str = "m.th") -> Path:
    torch.save(published(model), folder / name)
    return folder / name


def load(path: Path | None, name: str = "demucs") -> Any:
    return getattr(backends, f"load_{name}")(weights=path, device=CPU, dtype=torch.float32)


def noise(n_samples: int, channels: int = 2) -> Tensor:
    return torch.randn(1, channels, n_samples, generator=torch.Generator().manual_seed(1)) * 0.3


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


class TestDemucsV2(BackendContract):
    plugin_module = "unisep_demucs_classic.plugin"
    stays_on_device = True
    seconds = 0.2

    def load_backend(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return load(saved(Path(folder), demucs()))


class TestConvTasNet(BackendContract):  # where the sound begins and ends is a number that it waits for
    seconds = 0.2

    def load_backend(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return load(saved(Path(folder), tasnet()), "tasnet")


# -- what is computed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [demucs(), tasnet()], ids=["demucs", "tasnet"])
def test_a_file_gives_the_model_that_was_saved(tmp_path: Path, model: Any) -> None:
    found = load_v2(saved(tmp_path, model), CPU)
    assert found.shape == model.shape
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    save_file(published(model), tmp_path / "m.safetensors")
    assert load_v2(tmp_path / "m.safetensors", CPU).shape == model.shape


def test_segments_are_those_of_demucs_2(tmp_path: Path) -> None:
    one, other = load(saved(tmp_path, demucs())), load(saved(tmp_path, tasnet()), "tasnet")
    assert (one.info.segment_seconds, other.info.segment_seconds) == (40, 8)
    assert one.info.normalisation == other.info.normalisation == "song"
    assert one.info.sources == ("drums", "bass", "other", "vocals") and one.info.sample_rate_hz == 44_100


@pytest.mark.parametrize("n_samples", [1, 7, 1000, 4321])
def test_what_comes_out_is_as_long_as_what_went_in(tmp_path: Path, n_samples: int) -> None:
    for name, model in (("demucs", demucs()), ("tasnet", tasnet())):
        assert load(saved(tmp_path, model), name).separate(noise(n_samples)).sources.shape == (1, 4, 2, n_samples)


def test_a_convolution_without_padding_needs_what_is_around() -> None:
    """Away from the ends, where a frame's neighbours are missing, more around changes nothing."""
    model = demucs(DemucsV2Shape(widths=(4, 8), n_lstm_layers=0, resampled=False))
    assert isinstance(model, DemucsV2)
    n_samples = model.valid_length(512)
    step = 4**2
    with torch.no_grad():
        short, long = model(noise(n_samples + 2 * step)[..., step:-step]), model(noise(n_samples + 2 * step))
    assert 512 <= short.shape[-1] < n_samples
    inner = slice(2 * step, short.shape[-1] - 2 * step)
    assert distance(long[..., step : step + short.shape[-1]][..., inner], short[..., inner]) <= 1e-5


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
def test_resampling_keeps_what_lies_below_the_cut(old: int, new: int) -> None:
    """A sine of a tenth of the lower rate becomes the same sine at the other rate, to -60 dB away from the edges."""
    n_samples = 1000 * old
    cycles = 0.1 * min(old, new) / 2
    sine = torch.sin(2 * torch.pi * cycles * torch.arange(n_samples, dtype=torch.float64) / old).float()
    expected = torch.sin(2 * torch.pi * cycles * torch.arange(1000 * new, dtype=torch.float64) / new).float()
    found = resample(sine[None], old, new)[0]
    assert found.shape == expected.shape
    assert float((found - expected)[100:-100].abs().max()) <= 1e-3
    assert torch.allclose(resample(torch.ones(1, 500), old, new), torch.ones(1, 500 * new // old))


def test_a_conv_tasnet_by_its_equations() -> None:
    """Luo and Mesgarani 2019, equations 1 to 8, in float64 and written frame by frame."""
    shape = ConvTasNetShape(n_filters=4, filter_samples=6, bottleneck=3, hidden=5, n_blocks=2, n_repeats=2)
    model = tasnet(shape).double()
    weights = model.state_dict()
    mixture = noise(64).double()
    starts = range(0, 64 - 6 + 1, 3)
    frames = torch.stack([mixture[0, :, s : s + 6].flatten() for s in starts], 1)  # [channels * samples, frames]
    encoded = (weights["encoder.weight"].flatten(1) @ frames).clamp(min=0)

    def prelu(x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x > 0, x, slope * x)

    def gln(x: Tensor, name: str) -> Tensor:
        normal = (x - x.mean()) / (x.var(correction=0) + 1e-8).sqrt()
        return normal * weights[f"{name}.weight"][:, None] + weights[f"{name}.bias"][:, None]

    normal = (encoded - encoded.mean(0)) / (encoded.var(0, correction=0) + 1e-8).sqrt()
    normal = normal * weights["norm.weight"][:, None] + weights["norm.bias"][:, None]
    x = weights["bottleneck.weight"][:, :, 0] @ normal
    for repeat in range(2):
        for block in range(2):
            at, dilation = f"blocks.{repeat}.{block}", 2**block
            hidden = gln(
                prelu(weights[f"{at}.into.weight"][:, :, 0] @ x, weights[f"{at}.into_slope.weight"]), f"{at}.into_norm"
            )
            padded = torch.nn.functional.pad(hidden, (dilation, dilation))
            taps = weights[f"{at}.depthwise.weight"][:, 0]
            n_frames = hidden.shape[1]
            hidden = sum(taps[:, k : k + 1] * padded[:, k * dilation : k * dilation + n_frames] for k in range(3))  # type: ignore[assignment]
            hidden = gln(prelu(hidden, weights[f"{at}.depthwise_slope.weight"]), f"{at}.depthwise_norm")
            x = x + weights[f"{at}.out.weight"][:, :, 0] @ hidden
    masks = (weights["masks.weight"][:, :, 0] @ x).clamp(min=0).view(4, 4, -1)
    expected = torch.zeros(4, 2, 64, dtype=torch.float64)
    for index, start in enumerate(starts):
        back = torch.einsum("sf,fct->sct", masks[:, :, index] * encoded[:, index], weights["decoder.weight"])
        expected[:, :, start : start + 6] += back
    assert float(expected.abs().max()) > 1e-3
    with torch.no_grad():
        assert distance(model(mixture)[0], expected) <= 1e-9


def test_a_song_through_a_separator(tmp_path: Path) -> None:
    """It is normalised as a whole, the silence around it stays out of the norms, and the rest is what the stems leave."""
    model = tasnet()
    song = noise(20_000)[0] * 0.4 + 0.02
    mean, deviation = song.mean(0).mean(), song.mean(0).std()
    with torch.no_grad():
        expected = model((song[None] - mean) / deviation)[0] * deviation + mean
    path = saved(tmp_path, model)
    result = Separator("tasnet", weights=path).separate(Audio(song.numpy(), 44_100))
    for index, stem in enumerate(("drums", "bass", "other", "vocals")):
        assert distance(torch.from_numpy(result[stem].samples), expected[index]) <= 1e-4
    total = sum(torch.from_numpy(result[stem].samples) for stem in result) + torch.from_numpy(result.rest.samples)
    assert torch.allclose(total, song, atol=1e-5)  # type: ignore[arg-type]


# -- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def v1_classes() -> Iterator[dict[str, type]]:
    """Classes with the names that the files of Demucs v1 hold; they are gone before anything is read."""
    modules = {name: types.ModuleType(name) for name in ("demucs.model", "demucs.tasnet")}
    classes = {}
    for module, name in (("demucs.model", "Demucs"), ("demucs.tasnet", "ConvTasNet")):
        classes[name] = type(name, (nn.Module,), {"__module__": module})
        setattr(modules[module], name, classes[name])
    sys.modules.update(modules)
    yield classes
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("is_zip", [False, True])
def test_files_of_v1_name_their_class_and_do_not_resample(tmp_path: Path, v1_classes: Any, is_zip: bool) -> None:
    shape = DemucsV2Shape(widths=(4, 8), stride=2, kernel_size=6, resampled=False, sample_rate_hz=48_000)
    model = demucs(shape)
    package = (v1_classes["Demucs"], (), {"sources": 4, "stride": 2, "samplerate": 48_000}, published(model))
    torch.save(package, tmp_path / "v1.th", _use_new_zipfile_serialization=is_zip)
    assert load_v2(tmp_path / "v1.th", CPU).shape == shape
    assert load(tmp_path / "v1.th").info.sample_rate_hz == 48_000
    other = (v1_classes["ConvTasNet"], (), {"X": 3, "causal": True}, published(tasnet()))
    torch.save(other, tmp_path / "causal.th", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match="not causal"):
        load_v2(tmp_path / "causal.th", CPU)
    for wrong in ({"samplerate": 0}, {"samplerate": 44_100.0}, {"stride": 9}, {"stride": "x"}):
        torch.save((*package[:2], wrong, package[3]), tmp_path / "wrong.th")
        with pytest.raises(WeightsError, match="no Demucs v2 or Conv-TasNet"):
            load_v2(tmp_path / "wrong.th", CPU)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_nothing_that_a_file_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = published(demucs())
    contents = [
        state | {"lstm.evil": Evil()},
        (Evil(), (), {}, state),
        (nn.Linear, (), {}, state),
        {"compressed": Evil()},
        {"klass": None, "state": state, "training_args": Namespace(seed=1)},
    ]
    for index, content in enumerate(contents):
        for is_zip in (True, False):
            torch.save(content, tmp_path / f"{index}.th", _use_new_zipfile_serialization=is_zip)
            with pytest.raises(WeightsError, match="nothing was run"):
                load(tmp_path / f"{index}.th")
    (tmp_path / "plain.th").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError):
        load(tmp_path / "plain.th")
    assert not (tmp_path / "ran").exists()


def block(index: int) -> dict[str, Tensor]:
    return {f"separator.network.2.0.{index}.net.0.weight": torch.zeros(10, 6, 1)}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (demucs(), {"lstm.linear.bias": None}, "does not fit"),
        (demucs(), {"extra": torch.zeros(1)}, "does not fit"),
        (demucs(), {"encoder.0.0.bias": torch.full((4,), float("nan"))}, "not finite"),
        (demucs(), {"encoder.0.0.weight": None}, "KeyError"),
        (demucs(), {"encoder.0.0.weight": torch.zeros(4)}, "IndexError"),
        (demucs(), {"encoder.0.0.weight": torch.zeros(4, 3, 8)}, "four stems"),
        (demucs(), {"decoder.2.2.weight": torch.zeros(4, 6, 8)}, "four stems"),
        (demucs(), {"encoder.0.0.bias": 1.0}, "not the name of a tensor"),
        (demucs(DemucsV2Shape(widths=(1,) * 12)), {}, "around it"),
        (tasnet(), {"decoder.basis_signals.weight": torch.zeros(15, 8)}, "no Demucs v2"),
        (tasnet(), {"separator.network.0.gamma": torch.zeros(1, 9, 1)}, "does not fit"),
        (tasnet(), {"separator.network.3.weight": torch.zeros(16, 6, 1)}, "four stems"),
        (tasnet(), {"separator.network.2.0.0.net.3.net.0.weight": torch.zeros(10, 1, 2)}, "in no Conv-TasNet"),
        (tasnet(), block(10**9), "blocks"),
        (tasnet(replace(TASNET, n_blocks=17, n_repeats=1)), {}, "blocks"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, model: nn.Module, changes: Any, message: str) -> None:
    state = {name: value for name, value in (published(model) | changes).items() if value is not None}
    torch.save(state, tmp_path / "m.th")
    with pytest.raises(WeightsError, match=message):
        load_v2(tmp_path / "m.th", CPU)


def test_quantised_damaged_and_absent_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, demucs())
    (tmp_path / "cut.th").write_bytes(path.read_bytes()[:-5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    torch.save({"compressed": zlib.compress(b"whatever")}, tmp_path / "q.th")
    torch.save([1, 2], tmp_path / "list.th")
    torch.save((1, 2), tmp_path / "tuple.th")
    for name, message in [
        ("cut.th", "damaged"),
        ("cut.safetensors", "cut short"),
        ("q.th", "quantised"),
        ("list.th", "no parameters"),
        ("tuple.th", "no package of Demucs v1"),
        ("none.th", "No checkpoint"),
    ]:
        with pytest.raises(WeightsError, match=message):
            load_v2(tmp_path / name, CPU)
    with pytest.raises(WeightsError, match="is a DemucsV2, which tasnet is not"):
        load(path, "tasnet")
    with pytest.raises(WeightsError, match="is a ConvTasNet, which demucs is not"):
        load(saved(tmp_path, tasnet()))
    with pytest.raises(WeightsError, match="unisep models pull demucs48_hq"):
        load(None, "demucs48_hq")
    with pytest.raises(OptionError, match="float32"):
        backends.load_tasnet(weights=path, device=CPU, dtype=torch.bfloat16)


def test_a_published_name_is_held_to_its_digits(tmp_path: Path) -> None:
    path = saved(tmp_path, demucs())
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(tmp_path / f"mine-{digits}.th")
    assert load(tmp_path / f"mine-{digits}.th").info.channels == 2
    for name, file in V2_FILES.items():
        with pytest.raises(WeightsError, match="No checkpoint"):
            load(tmp_path, name)
        saved(tmp_path, demucs(), file)
        with pytest.raises(WeightsError, match="not the file its name promises"):
            load(tmp_path, name)


# -- what the plugin tells ----------------------------------------------------------------------------------


def test_cards_state_files_and_sizes() -> None:
    specs = {spec.name: spec for spec in plugin.unisep_backends() if spec.name in V2_FILES}
    widths = {"demucs48_hq": tuple(48 << index for index in range(6))}
    assert set(specs) == set(V2_FILES)
    for name, spec in specs.items():
        card = read_card(spec.card)
        assert (card.name, card.licence, card.sources, card.summary) == (
            name, spec.licence, spec.stems, spec.summary.partition(":")[0],
        )  # fmt: skip
        assert [file.name for file in card.files] == [V2_FILES[name]]
        assert card.files[0].url == f"https://dl.fbaipublicfiles.com/demucs/v3.0/{V2_FILES[name]}"
        with torch.device("meta"):
            is_tasnet = name.startswith("tasnet")
            shape = DemucsV2Shape(widths=widths.get(name, DemucsV2Shape.widths))
            model = ConvTasNet(ConvTasNetShape()) if is_tasnet else DemucsV2(shape)
        assert card.n_parameters == sum(parameter.numel() for parameter in model.parameters())
        assert card.segment_seconds == (8 if is_tasnet else 40)
        assert spec.load == f"unisep_demucs_classic.backend:load_{name}"
