"""Folders of networks as backends: the contract, what is read and refused, and the way through a Separator."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unisep_openunmix.backend import OpenUnmixBackend, load
from unisep_openunmix.checkpoints import find_files, read_checkpoint, read_framing
from unisep_openunmix.model import OpenUnmix, Shape

from unisep import Audio, Backend, Separator
from unisep.errors import AudioError, BackendError, OptionError, WeightsError
from unisep.testing import BackendContract
from unisep.weights.cards import read_card

CPU = torch.device("cpu")
FOUR = ("vocals", "drums", "bass", "other")


def write(folder: Path, names: tuple[str, ...], shape: Shape) -> Path:
    """A folder of small random networks."""
    torch.manual_seed(0)
    for name in names:
        torch.save(OpenUnmix(shape).state_dict(), folder / f"{name}.pth")
    framing = {"sample_rate": 44_100, "nfft": shape.n_fft, "nhop": shape.n_fft // 4}
    (folder / "separator.json").write_text(json.dumps(framing))
    return folder


class TestOpenUnmix(BackendContract):
    plugin_module = "unisep_openunmix.plugin"
    shape = Shape(n_bins=65, n_input_bins=40, n_channels=2, hidden=12, n_layers=2, bidirectional=True)
    names: tuple[str, ...] = FOUR
    seconds = 0.2

    def load_backend(self) -> Backend:
        with tempfile.TemporaryDirectory() as name:
            return load(weights=write(Path(name), self.names, self.shape), device=CPU, dtype=torch.float32)


class TestMonoSpeech(TestOpenUnmix):
    shape = replace(TestOpenUnmix.shape, n_channels=1)
    names = ("speech", "noise")


@pytest.fixture
def folder(tmp_path: Path, written: Callable[..., Path]) -> Path:
    return written(tmp_path / "model", FOUR)


def opened(folder: Path) -> OpenUnmixBackend:
    backend = load(weights=folder, device=CPU, dtype=torch.float32)
    assert isinstance(backend, OpenUnmixBackend)
    return backend


def test_a_folder_gives_its_sources_in_the_usual_order(folder: Path, network: Any) -> None:
    backend = opened(folder)
    assert backend.info.sources == FOUR and backend.info.sample_rate_hz == 44_100
    for seed, name in enumerate(FOUR):
        for key, value in network(seed=seed).state_dict().items():
            assert torch.equal(backend.models[name].state_dict()[key], value), (name, key)


def test_published_names_are_read_with_other_sources_last(folder: Path) -> None:
    for old, new in (("drums", "zither"), ("other", "speech"), ("bass", "accordion")):
        (folder / f"{old}.pth").rename(folder / f"{new}.pth")
    path = folder / "vocals.pth"
    digits = sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(folder / f"vocals-{digits}.pth")
    assert list(find_files(folder)) == ["vocals", "speech", "accordion", "zither"]
    assert opened(folder).info.sources == ("vocals", "speech", "accordion", "zither")
    (folder / f"vocals-{digits}.pth").rename(folder / f"vocals_{digits[::-1]}.pth")
    with pytest.raises(WeightsError, match="not the file its name promises"):
        load(weights=folder, device=CPU, dtype=torch.float32)


def test_one_file_gives_one_source_with_the_mixtures_phase(folder: Path, music: Any) -> None:
    backend, mixture = opened(folder / "bass.pth"), music(3000)
    assert backend.info.sources == ("bass",)
    heard = backend._spectra(mixture)
    expected = backend.models["bass"](heard.abs()) * torch.exp(1j * heard.angle())
    found = backend._spectra(backend._waveforms(expected[:, None], 3000)[:, 0])
    source = backend._spectra(backend.separate(mixture).sources[:, 0])
    assert torch.allclose(source, found, atol=1e-3)


def test_published_spectrograms_need_no_separator_json(folder: Path) -> None:
    (folder / "separator.json").unlink()
    music, speech = read_framing(folder, 4096), read_framing(folder, 1024)
    assert (music.sample_rate, music.nhop) == (44_100, 1024)
    assert (speech.sample_rate, speech.nhop) == (16_000, 512)
    with pytest.raises(WeightsError, match=r"needs a separator\.json .* windows of 128"):
        load(weights=folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "does not say"),
        ("{", "does not say"),
        ('{"sample_rate": 44100, "nfft": 128, "nhop": 0}', "nhop"),
        ('{"sample_rate": 44100, "nfft": 256, "nhop": 64}', "asks for windows of 256"),
        ('{"sample_rate": 44100, "nfft": 128, "nhop": 100}', "at most half a window"),
    ],
)
def test_a_separator_json_that_cannot_be_right_is_refused(folder: Path, text: str, reason: str) -> None:
    (folder / "separator.json").write_text(text)
    with pytest.raises(WeightsError, match=reason):
        load(weights=folder, device=CPU, dtype=torch.float32)


def test_folders_that_are_unclear_are_refused(folder: Path, written: Any, small: Shape) -> None:
    with pytest.raises(WeightsError, match=r"holds no \.pth"):
        find_files(folder / "vocals2.pth")
    (folder / "-.pth").touch()
    with pytest.raises(WeightsError, match="not named after its source"):
        find_files(folder)
    (folder / "-.pth").rename(folder / "vocals-01234567.pth")
    with pytest.raises(WeightsError, match="two networks for 'vocals'"):
        find_files(folder)
    (folder / "vocals-01234567.pth").unlink()
    torch.save(OpenUnmix(replace(small, n_channels=1)).state_dict(), folder / "bass.pth")
    with pytest.raises(WeightsError, match="differ in bins or channels"):
        load(weights=folder, device=CPU, dtype=torch.float32)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_file_is_refused_and_not_run(folder: Path, tmp_path: Path, new_format: bool) -> None:
    trace = tmp_path / "it-was-run"
    torch.save({"fc1.weight": Hostile(trace)}, folder / "bass.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="nothing of it was run"):
        load(weights=folder, device=CPU, dtype=torch.float32)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("bn2.bias"), r"1 parameters missing \(bn2.bias\)"),
        (lambda state: state.pop("input_mean"), "does not hold an Open-Unmix network"),
        (lambda state: state.pop("fc3.weight"), "does not hold an Open-Unmix network"),
        (lambda state: state.update(more=torch.ones(1)), r"1 unknown \(more\)"),
        (lambda state: state.update({"fc1.weight": torch.ones(3, 3)}), "fc1.weight has shape"),
        (lambda state: state.update({"fc3.weight": torch.ones(7, 12)}), "7 outputs for 65 bins"),
        (lambda state: state.update({"bn1.bias": torch.ones(12).long()}), r"another kind of number \(bn1.bias\)"),
        (lambda state: state["bn1.bias"].fill_(torch.inf), "not finite"),
        (lambda state: state.update({"bn1.bias": "text"}), "not the name of a tensor"),
        (lambda state: state.update({"bn1.bias": torch.ones(1).expand(1 << 40)}), "claims more numbers"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(folder: Path, change: Any, reason: str) -> None:
    state = torch.load(folder / "bass.pth")
    change(state)
    torch.save(state, folder / "bass.pth")
    with pytest.raises(WeightsError, match=reason):
        load(weights=folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("n_bytes", [0, 10, 1000, -100])
def test_a_file_cut_short_is_refused(folder: Path, n_bytes: int) -> None:
    path = folder / "bass.pth"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(WeightsError):
        read_checkpoint("bass", path)


def test_refuses_what_it_cannot_do(folder: Path, music: Any) -> None:
    backend = opened(folder)
    with pytest.raises(AudioError, match=r"\[batch, 2, samples\]"):
        backend.separate(music(100, channels=1))
    with pytest.raises(BackendError, match="fixed sources"):
        backend.separate(music(100), torch.ones(1, 4))
    with pytest.raises(OptionError, match="float16"):
        load(weights=folder, device=CPU, dtype=torch.float16)
    with pytest.raises(WeightsError, match="unisep models pull"):
        load(weights=None, device=CPU, dtype=torch.float32)


def test_bfloat16_stays_near(folder: Path, music: Any) -> None:
    mixture = music(4000)
    half = load(weights=folder, device=CPU, dtype=torch.bfloat16).separate(mixture).sources
    full = opened(folder).separate(mixture).sources
    assert half.dtype == torch.float32 and 0 < float((half - full).abs().max()) < 0.1 * float(full.abs().max())


@pytest.mark.parametrize("name", ["umxhq", "umxl", "umxse"])
def test_a_separator_takes_a_folder_under_each_name(name: str, folder: Path, music: Any) -> None:
    song = Audio(music(20_000)[0].numpy(), 44_100)
    options: dict[str, Any] = {"segment_seconds": song.seconds, "overlap_fraction": 0}  # one segment
    with Separator(name, weights=folder, device="cpu", **options) as separator:
        parts = separator.separate(song)
    assert tuple(parts) == FOUR
    expected = opened(folder).separate(torch.from_numpy(song.samples)[None]).sources[0]
    for source, part in zip(expected, parts.values(), strict=True):
        assert np.allclose(part.samples, source, atol=1e-5)


@pytest.mark.parametrize("name", ["umxhq", "umxl", "umxse"])
def test_cards_agree_with_specs(name: str) -> None:
    from unisep_openunmix import plugin

    spec = {spec.name: spec for spec in plugin.unisep_backends()}[name]
    card = read_card(spec.card)
    assert card.name == name and card.sources == spec.stems and card.licence == spec.licence
    files = find_names(card)
    assert tuple(files) == spec.stems
    for file in files.values():  # published names carry the first digits of the sha256
        assert not file.sha256 or file.sha256[:8] in file.name


def find_names(card: Any) -> dict[str, Any]:
    return {file.name.replace("_", "-").partition("-")[0]: file for file in card.files}
