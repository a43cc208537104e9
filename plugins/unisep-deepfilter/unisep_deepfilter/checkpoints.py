"""The published weights: an archive `DeepFilterNet3_onnx.tar.gz` of three ONNX files and a `config.ini`."""

from __future__ import annotations

import configparser
import gzip
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled

from .network import DeepFilterNet
from .onnx_file import Layer, read_layers

ARCHIVE = "DeepFilterNet3_onnx.tar.gz"
# Twice what the published one unpacks to: an archive of zeros must not fill the memory.
_MOST_BYTES = 1 << 24
_SETTINGS = {
    ("train", "model"): "deepfilternet3",
    ("df", "sr"): "48000",
    ("df", "fft_size"): "960",
    ("df", "hop_size"): "480",
    ("df", "nb_erb"): "32",
    ("df", "nb_df"): "96",
    ("df", "min_nb_erb_freqs"): "2",
    ("df", "norm_tau"): "1",
    ("df", "df_order"): "5",
    ("df", "df_lookahead"): "2",
    ("deepfilternet", "conv_lookahead"): "2",
}
_KINDS = frozenset({"Conv", "ConvTranspose", "Einsum", "GRU", "MatMul"})
_WEIGHT, _PAIR = ("weight",), ("weight", "bias")


def _separable(name: str, kind: str = "Conv") -> list[tuple[str, str, tuple[str, ...]]]:
    return [(kind, f"{name}.depth", _WEIGHT), ("Conv", f"{name}.point", _PAIR)]


# For each file: the operations that hold numbers, in its order, whose they are, and what their tensors are called. An
# empty name is what this implementation does without: the estimate of the local signal-to-noise ratio, a blending factor.
_LAYERS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "enc": [
        ("Conv", "erb_conv0", _PAIR),
        *_separable("erb_conv1"),
        *_separable("erb_conv2"),
        *_separable("erb_conv3"),
        *_separable("df_conv0"),
        *_separable("df_conv1"),
        ("Einsum", "df_fc_emb", _WEIGHT),
        ("Einsum", "emb_gru.linear_in", _WEIGHT),
        ("GRU", "emb_gru.gru", ("0",)),
        ("Einsum", "emb_gru.linear_out", _WEIGHT),
        ("MatMul", "", ()),
    ],
    "erb_dec": [
        ("Einsum", "emb_gru.linear_in", _WEIGHT),
        ("GRU", "emb_gru.gru", ("0",)),
        ("GRU", "emb_gru.gru", ("1",)),
        ("Einsum", "emb_gru.linear_out", _WEIGHT),
        ("Conv", "conv3p", _PAIR),
        *_separable("convt3"),
        ("Conv", "conv2p", _PAIR),
        *_separable("convt2", "ConvTranspose"),
        ("Conv", "conv1p", _PAIR),
        *_separable("convt1", "ConvTranspose"),
        ("Conv", "conv0p", _PAIR),
        ("Conv", "conv0_out", _PAIR),
    ],
    "df_dec": [
        ("Einsum", "df_gru.linear_in", _WEIGHT),
        ("GRU", "df_gru.gru", ("0",)),
        ("GRU", "df_gru.gru", ("1",)),
        ("Einsum", "df_skip", _WEIGHT),
        *_separable("df_convp"),
        ("MatMul", "", ()),
        ("Einsum", "df_out", _WEIGHT),
    ],
}


def read_network(place: Path, device: torch.device) -> DeepFilterNet:
    """Build the network of an archive, or of a folder that holds the archive or its three ONNX files.

    Raises:
        WeightsError: Something is missing, damaged, not finite, or another model.
    """
    path, files = _read_files(place)
    if "config.ini" in files:
        _check_settings(path, files["config.ini"])
    state: dict[str, Tensor] = {}
    for part, expected in _LAYERS.items():
        if f"{part}.onnx" not in files:
            raise WeightsError(f"{path} holds no {part}.onnx. Give {ARCHIVE} as published, or a folder of its files.")
        layers = read_layers(files[f"{part}.onnx"], f"{part}.onnx of {path}")
        state |= {f"{part}.{name}": value for name, value in _parameters(path, part, layers, expected).items()}
    network = filled(path, DeepFilterNet, state, lambda name, value: value.to(device), "DeepFilterNet3")
    for module in network.modules():
        if isinstance(module, torch.nn.GRU):
            module.flatten_parameters()
    return network.requires_grad_(False)


def _parameters(
    path: Path, part: str, layers: list[Layer], expected: list[tuple[str, str, tuple[str, ...]]]
) -> dict[str, Tensor]:
    """Return the parameters of one file by their names in the network."""
    layers = [layer for layer in layers if layer.kind in _KINDS]
    kinds = [layer.kind for layer in layers]
    if kinds != [kind for kind, _, _ in expected]:
        raise WeightsError(
            f"{part}.onnx of {path} is not DeepFilterNet3's: it holds the layers {', '.join(kinds)[:200] or 'none'}."
        )
    state: dict[str, Tensor] = {}
    for layer, (kind, name, tensor_names) in zip(layers, expected, strict=True):
        if kind == "GRU":
            state |= {f"{name}.{key}": value for key, value in _gru(path, part, layer, tensor_names[0]).items()}
        elif name:
            if len(layer.tensors) != len(tensor_names):
                raise WeightsError(f"{part}.onnx of {path}: {name} has {len(layer.tensors)} tensors.")
            state |= {f"{name}.{key}": value for key, value in zip(tensor_names, layer.tensors, strict=True)}
    return state


def _gru(path: Path, part: str, layer: Layer, number: str) -> dict[str, Tensor]:
    """Return a layer's parameters as torch has them: reset, update, new; ONNX has update, reset, new."""
    shapes = [tuple(value.shape) for value in layer.tensors]
    if len(shapes) != 3 or any(len(shape) < 2 or shape[0] != 1 for shape in shapes):
        raise WeightsError(f"{part}.onnx of {path}: a GRU has tensors of shapes {shapes}.")
    inputs, back, biases = (value[0] for value in layer.tensors)
    halves = biases.chunk(2)
    named = {"weight_ih": inputs, "weight_hh": back, "bias_ih": halves[0], "bias_hh": halves[-1]}

    def reordered(value: Tensor) -> Tensor:
        parts = value.chunk(3)
        return torch.cat([parts[1], parts[0], *parts[2:]]) if len(parts) == 3 else value

    return {f"{name}_l{number}": reordered(value) for name, value in named.items()}


def _read_files(place: Path) -> tuple[Path, dict[str, bytes]]:
    """Return where the files were found, and their contents by name without folders."""
    path = place / ARCHIVE if (place / ARCHIVE).is_file() else place
    try:
        if path.is_dir():
            return path, _loose_files(path)
        with gzip.open(path) as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise WeightsError(f"{path} unpacks to more than {_MOST_BYTES >> 20} MB. Do not use it.")
        return path, _unpacked(content)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise WeightsError(f"{path} is missing, damaged or no archive ({reason}). Fetch it again.") from error


def _loose_files(folder: Path) -> dict[str, bytes]:
    """Return the files of an archive that was unpacked into a folder."""
    paths = [
        path for name in (*(f"{part}.onnx" for part in _LAYERS), "config.ini") if (path := folder / name).is_file()
    ]
    if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        raise WeightsError(f"{folder} holds more than {_MOST_BYTES >> 20} MB. It is not DeepFilterNet3.")
    return {path.name: path.read_bytes() for path in paths}


def _unpacked(content: bytes) -> dict[str, bytes]:
    """Return the plain files of an archive in memory; links and the like are passed over."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        members = [member for member in archive.getmembers() if member.isreg()]
        streams = {PurePosixPath(member.name).name: archive.extractfile(member) for member in members}
        return {name: stream.read() for name, stream in streams.items() if stream is not None}


def _check_settings(path: Path, content: bytes) -> None:
    """Raise WeightsError for a model of other sizes, such as the one of low latency."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(content.decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise WeightsError(f"config.ini of {path} is damaged ({' '.join(str(error).split())[:150]}).") from error
    for (section, key), wanted in _SETTINGS.items():
        actual = parser.get(section, key, fallback=wanted)
        if actual != wanted:
            raise WeightsError(f"{path} is another model than DeepFilterNet3: {key} is {actual[:40]}, not {wanted}.")
