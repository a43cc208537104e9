"""Reading the community's files: what they say is believed only where it fits, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from unisep_bandsplit.checkpoints import build_model, read_checkpoint, read_description

from unisep.errors import WeightsError

CPU = torch.device("cpu")


@pytest.fixture
def scnet(tmp_path: Path, written: Any) -> Path:
    folder: Path = written(tmp_path / "scnet", "scnet")
    return folder


@pytest.fixture
def bsrnn(tmp_path: Path, written: Any) -> Path:
    folder: Path = written(tmp_path / "bsrnn", "bsrnn")
    return folder


def change_options(folder: Path, **changed: Any) -> None:
    path = folder / "config.yaml"
    described = yaml.safe_load(path.read_text())
    described["model"] |= changed
    path.write_text(yaml.dump(described))


def change_parameters(folder: Path, change: Any) -> None:
    state = torch.load(folder / "model.ckpt")
    change(state)
    torch.save(state, folder / "model.ckpt")


@pytest.mark.parametrize("kind", ["scnet", "bsrnn"])
@pytest.mark.parametrize("inner", [None, "state", "model_state_dict"])
def test_every_wrapping_gives_the_same_model(
    kind: str, inner: str | None, tmp_path: Path, written: Any, made: Any
) -> None:
    folder = written(tmp_path, kind)
    if inner:
        state = {f"model.{name}": value for name, value in torch.load(folder / "model.ckpt").items()}
        torch.save({inner: state, "epoch": 3}, folder / "model.ckpt")
    model = build_model(read_checkpoint(folder), CPU, torch.float32)
    for name, value in made(kind).state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in model.parameters())


def test_parameters_in_safetensors_are_read(scnet: Path) -> None:
    state = torch.load(scnet / "model.ckpt")
    (scnet / "model.ckpt").unlink()
    save_file(state, scnet / "model.safetensors")
    assert torch.equal(read_checkpoint(scnet).state["encoder.0.globalconv.bias"], state["encoder.0.globalconv.bias"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"dims": [4, 100_000]}, "less than or equal to 32768"),
        ({"dims": [2, 8]}, "dims must begin with 4"),
        ({"dims": [4, 3]}, "compress must not exceed"),
        ({"num_dplayer": 3}, "must be even"),
        ({"conv_kernel": 4}, "must be odd"),
        ({"hop_size": 200}, "at most half"),
        ({"band_kernel": [3, 4, 20]}, "no bins left|all its bins"),
        ({"band_SR": [0.5, 0.6, 0.4]}, "no bins left"),
        ({"band_SR": [0.5, 0.5]}, "band_SR"),
        ({"sources": ["a", "a", "b"]}, "named twice"),
        ({"sources": ["a", "b"]}, "num_stems is 2, and the outputs named are drums, vocals, other"),
        ({"sources": []}, "sources"),
        ({"use_mamba": True}, "asks for use_mamba.*plain SCNets"),
    ],
)
def test_an_scnet_that_cannot_be_right_is_refused(scnet: Path, changed: dict[str, Any], reason: str) -> None:
    change_options(scnet, **changed)
    with pytest.raises(WeightsError, match=reason):
        read_description(scnet / "config.yaml")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"in_channel": 2}, "in_channel"),
        ({"bidirectional": False}, "bidirectional"),
        ({"use_freq_weights": False}, "use_freq_weights"),
        ({"rnn_type": "RNN"}, "rnn_type"),
        ({"n_bands": None}, "musical bands need n_bands"),
        ({"n_bands": 100_000}, "n_bands"),
        ({"band_specs": "tribark"}, "none of musical, dnr:speech"),
        ({"band_specs": "dnr:vox7", "n_fft": 64, "win_length": 64, "hop_length": 16}, "bands without bins"),
        ({"band_specs": "dnr:vox7", "n_fft": 2048, "fs": 16000}, "bands without bins"),
        ({"stems": ["a.b", "c", "d"]}, "stems"),
        ({"stems": ["keys", "c", "d"]}, "cannot be named keys"),
        ({"stems": ["a", "a", "d"]}, "named twice"),
        ({"hop_length": 200}, "at most half"),
        ({"mult_add_mask": True}, "asks for mult_add_mask.*not BandIt v2"),
        ({"pad_mode": "reflect"}, "pad_mode"),
    ],
)
def test_a_bsrnn_that_cannot_be_right_is_refused(bsrnn: Path, changed: dict[str, Any], reason: str) -> None:
    change_options(bsrnn, **changed)
    with pytest.raises(WeightsError, match=reason):
        read_description(bsrnn / "config.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: {dim: 64}\ntraining: {instruments: [a]}", "neither an SCNet.*bs-roformer"),
        ("model: htdemucs\ntraining: {}", "of the kind 'htdemucs'"),
        ("cls: Bandit\nkwargs: {}\ntraining: {}", "no section 'model'"),
        ("model: {sources: [a]}", "no section 'training'"),
        ("model: {sources: [a]}\ntraining: {instruments: [a]}\naudio: {num_channels: 1}", "num_channels is 1"),
        ("- 1", "no sections"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_yaml_of_another_model_is_refused(scnet: Path, text: str, reason: str) -> None:
    (scnet / "config.yaml").write_text(text)
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(scnet)


@pytest.mark.parametrize(
    "line", ["x: !!python/object/apply:os.mkdir ['{trace}']", "x: !!python/name:os.mkdir ''", "x: &a [1]\ny: *a"]
)
def test_a_hostile_yaml_is_refused_and_not_run(scnet: Path, tmp_path: Path, line: str) -> None:
    trace, path = tmp_path / "it-was-run", scnet / "config.yaml"
    path.write_text(path.read_text() + line.format(trace=trace) + "\n")
    with pytest.raises(WeightsError, match="nothing was run"):
        read_checkpoint(scnet)
    assert not trace.exists()


class _MakesAFolder:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["scnet", "bsrnn"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_hostile_checkpoint_is_refused_and_not_run(kind: str, pickled: bool, tmp_path: Path, written: Any) -> None:
    folder, trace = written(tmp_path / "model", kind), tmp_path / "it-was-run"
    content = {"state_dict": {"encoder.0.globalconv.bias": _MakesAFolder(trace)}}
    if pickled:
        (folder / "model.ckpt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, folder / "model.ckpt")
    with pytest.raises(WeightsError):
        read_checkpoint(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("encoder.0.globalconv.bias"), r"1 parameters missing \(encoder.0.globalconv.bias\)"),
        (lambda state: state.update(more=torch.ones(1)), r"1 unknown \(more\)"),
        (lambda state: state.update({"mask_layer.0.bias": torch.ones(1)}), "SCNet Masked"),
        (lambda state: state.update({"encoder.0.globalconv.bias": torch.ones(3)}), r"has shape \(3,\)"),
        (lambda state: state["encoder.0.globalconv.bias"].fill_(torch.nan), "not finite"),
        (lambda state: state.update({"encoder.0.globalconv.bias": torch.ones(1).expand(8)}), "claims more numbers"),
        (lambda state: state.clear(), "no parameters"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(scnet: Path, change: Any, reason: str) -> None:
    change_parameters(scnet, change)
    with pytest.raises(WeightsError, match=reason):
        build_model(read_checkpoint(scnet), CPU, torch.float32)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["bsrnn.mask_estim.speech.freq_weights/3"].mul_(2),
        lambda state: state.update({"bsrnn.mask_estim.speech.freq_weights/3": torch.ones(1)}),
        lambda state: state.update({"bsrnn.mask_estim.speech.freq_weights/99": torch.ones(1)}),
    ],
)
def test_bands_other_than_those_described_are_refused(bsrnn: Path, change: Any) -> None:
    change_parameters(bsrnn, change)
    with pytest.raises(WeightsError, match="trained with other bands"):
        read_checkpoint(bsrnn)


def test_a_bsrnn_without_the_saved_bands_is_read(bsrnn: Path, made: Any) -> None:
    torch.save(made("bsrnn").state_dict(), bsrnn / "model.ckpt")
    build_model(read_checkpoint(bsrnn), CPU, torch.float32)


@pytest.mark.parametrize("n_bytes", [0, 10, 1000, -100])
def test_a_file_cut_short_is_refused(scnet: Path, n_bytes: int) -> None:
    path = scnet / "model.ckpt"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(WeightsError):
        read_checkpoint(scnet)
