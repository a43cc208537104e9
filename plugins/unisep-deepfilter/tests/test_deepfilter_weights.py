"""Archives and ONNX files: what is read, and that nothing but a WeightsError comes of damaged and hostile ones."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from unisep_deepfilter.checkpoints import ARCHIVE, read_network
from unisep_deepfilter.network import DeepFilterNet
from unisep_deepfilter.onnx_file import read_layers

from unisep.errors import WeightsError

from .onnx_writer import field, node, onnx_file, tensor

CPU = torch.device("cpu")
Files = dict[str, bytes]


def is_equal(one: DeepFilterNet, other: DeepFilterNet) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(value, rest) for (name, value), (other_name, rest) in pairs)


def test_an_archive_and_folders_give_the_network(
    tmp_path: Path, files: Files, network: DeepFilterNet, written: Callable[..., Path]
) -> None:
    folder, loose = tmp_path / "model", tmp_path / "loose"
    folder.mkdir()
    loose.mkdir()
    path = written(folder / ARCHIVE, files)
    for name, content in files.items():
        (loose / name).write_bytes(content)
    for place in (path, folder, loose):
        assert is_equal(read_network(place, CPU), network), place


def test_a_packed_shape_is_read_too() -> None:
    packed = field(1, bytes([2, 3])) + field(2, 1) + field(8, "w") + field(9, bytes(24))
    (layer,) = read_layers(onnx_file([node("Conv", ["x", "w"], "y")], [packed]), "file")
    assert layer.kind == "Conv" and [tuple(value.shape) for value in layer.tensors] == [(2, 3)]


@pytest.mark.parametrize(
    ("key", "value"), [("conv_lookahead", "0"), ("nb_df", "64"), ("model", "deepfilternet2"), ("sr", "%(x)s")]
)
def test_another_model_is_refused_by_its_settings(
    tmp_path: Path, files: Files, written: Callable[..., Path], key: str, value: str
) -> None:
    lines = files["config.ini"].decode().splitlines()
    text = "\n".join(f"{key} = {value}" if line.startswith(f"{key} ") else line for line in lines)
    path = written(tmp_path / ARCHIVE, {**files, "config.ini": text.encode()})
    with pytest.raises(WeightsError, match=f"another model than DeepFilterNet3: {key}"):
        read_network(path, CPU)


def test_what_is_missing_is_named(tmp_path: Path, files: Files, written: Callable[..., Path]) -> None:
    with pytest.raises(WeightsError, match=r"missing, damaged or no archive"):
        read_network(tmp_path / "nothing.tar.gz", CPU)
    with pytest.raises(WeightsError, match=r"holds no enc\.onnx"):
        read_network(tmp_path, CPU)
    less = {name: content for name, content in files.items() if name != "df_dec.onnx"}
    with pytest.raises(WeightsError, match=r"holds no df_dec\.onnx"):
        read_network(written(tmp_path / ARCHIVE, less), CPU)


def test_parts_in_each_others_place_are_refused(tmp_path: Path, files: Files, written: Callable[..., Path]) -> None:
    swapped = {**files, "enc.onnx": files["df_dec.onnx"]}
    with pytest.raises(WeightsError, match=r"enc\.onnx .* is not DeepFilterNet3's"):
        read_network(written(tmp_path / ARCHIVE, swapped), CPU)


LAYER = [node("Conv", ["x", "w"], "y")]
HUGE = 1 << 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no graph"),
        (b"\x3a", "index out of"),
        (b"\x3a\xff\xff\xff\xff\x7f", "cut short"),
        (b"\xff" * 20, "too many digits"),
        (b"\x3b", "unknown kind"),
        (onnx_file(LAYER, []) * 2, "no graph"),
        (onnx_file(LAYER, [field(1, HUGE) + field(2, 1) + field(8, "w") + field(9, bytes(4))]), "stores 4 bytes"),
        (onnx_file(LAYER, [field(1, HUGE) * 2 + field(2, 1) + field(8, "w") + field(9, bytes(4))]), "stores 4 bytes"),
        (onnx_file(LAYER, [field(1, 0) + field(2, 1) + field(8, "w")]), "stores 0 bytes"),
        (onnx_file(LAYER, [field(1, 1) * 9 + field(2, 1) + field(8, "w") + field(9, bytes(4))]), "stores 4 bytes"),
        (onnx_file(LAYER, [field(1, b"\1" * 999) + field(2, 1) + field(8, "w") + field(9, bytes(4))]), "stores 4 bytes"),
        (onnx_file(LAYER, [field(1, 1) + field(2, 1) + field(8, b"\xff\xfe") + field(9, bytes(4))]), "utf-8"),
        (onnx_file([field(4, "Conv") * 2], []), "two"),
        (onnx_file([field(1, b"\xff") + field(4, "Conv")], []), "utf-8"),
        # numbers in another file, which must not be opened
        (
            onnx_file(LAYER, [field(1, 1) + field(2, 1) + field(8, "w") + field(13, field(1, "/etc/passwd")) + field(14, 1)]),
            "stores 0 bytes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_onnx_of_this_kind_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(WeightsError, match=f"^the file is damaged or no ONNX file.*{reason}"):
        read_layers(content, "the file")


def first_gru(files: Files, values: list[torch.Tensor]) -> Files:
    """The files with other tensors in a recurrent layer."""
    names = [f"w{index}" for index in range(len(values))]
    tensors = [tensor(name, value) for name, value in zip(names, values, strict=True)]
    one = torch.ones(1, 1, 1)
    nodes = [node("Einsum", ["x", "l"], "a"), node("GRU", ["x", *names], "b"), node("GRU", ["x", *names], "c")]
    nodes += [node("Einsum", ["x", "l"], "d")] + [node("Conv", ["x", "l"], "e")] * 2 + [node("MatMul", ["x", "l"], "f")]
    nodes += [node("Einsum", ["x", "l"], "g")]
    return {**files, "df_dec.onnx": onnx_file(nodes, [tensor("l", one), *tensors])}


@pytest.mark.parametrize(
    "values",
    [
        [],
        [torch.ones(1)] * 3,
        [torch.ones(1, 3, 2)] * 2,
        [torch.ones(2, 3, 2)] * 3,
        [torch.ones(1, 1)] * 3,
        [torch.ones(1, 3, 2)] * 3,
    ],
)
def test_recurrent_layers_of_other_shapes_are_refused(
    tmp_path: Path, files: Files, written: Callable[..., Path], values: list[torch.Tensor]
) -> None:
    with pytest.raises(WeightsError, match=ARCHIVE):
        read_network(written(tmp_path / ARCHIVE, first_gru(files, values)), CPU)


def test_numbers_that_are_not_finite_are_refused(
    tmp_path: Path, files: Files, network: DeepFilterNet, written: Callable[..., Path]
) -> None:
    value = network.get_parameter("df_dec.df_out.weight").contiguous().numpy().tobytes()
    assert files["df_dec.onnx"].count(value) == 1
    broken = files["df_dec.onnx"].replace(value, b"\x00\x00\xc0\x7f" + value[4:])
    with pytest.raises(WeightsError, match=r"df_dec\.df_out\.weight holds numbers that are not finite"):
        read_network(written(tmp_path / ARCHIVE, {**files, "df_dec.onnx": broken}), CPU)


def test_links_and_paths_in_an_archive_lead_nowhere(tmp_path: Path, files: Files) -> None:
    (tmp_path / "enc.onnx").write_bytes(files["enc.onnx"])
    path, inside = tmp_path / ARCHIVE, io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w") as archive:
        for name, kind in (
            ("enc.onnx", tarfile.SYMTYPE),
            ("../../df_dec.onnx", tarfile.REGTYPE),
            ("/erb_dec.onnx", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "enc.onnx")
            archive.addfile(member, io.BytesIO())
    path.write_bytes(gzip.compress(inside.getvalue()))
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(WeightsError, match=r"holds no enc\.onnx"):
        read_network(path, CPU)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path, zeros = tmp_path / ARCHIVE, bytes(1 << 20)
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(17):
            stream.write(zeros)
    with pytest.raises(WeightsError, match="unpacks to more than 16 MB"):
        read_network(path, CPU)
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "enc.onnx").open("wb") as stream:
        stream.truncate(1 << 25)
    with pytest.raises(WeightsError, match="more than 16 MB"):
        read_network(folder, CPU)


def test_damage_anywhere_is_an_error_of_ours_or_none(
    tmp_path: Path, files: Files, written: Callable[..., Path]
) -> None:
    chance, path = random.Random(0), tmp_path / ARCHIVE
    whole = written(path, files).read_bytes()
    kinds = {
        "cut": lambda data, place: data[:place],
        "doubled": lambda data, place: data[:place] + data[place : place + 99] * 2 + data[place + 99 :],
        "flipped": lambda data, place: (
            data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        ),
    }
    n_refused = 0
    for damage in list(kinds.values()) * 4:
        path.write_bytes(damage(whole, chance.randrange(len(whole))))
        n_refused += is_refused(lambda: read_network(path, CPU))
    small = files["erb_dec.onnx"]
    headers = [place for place in range(len(small)) if small[place : place + 8] in (b"erb_dec.",)]
    for damage in list(kinds.values()) * 30:
        broken = damage(small, max(0, chance.choice(headers) - chance.randrange(20)))
        n_refused += is_refused(lambda content=broken: read_layers(content, "file"))
    assert n_refused > 50


def is_refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except WeightsError:
        return True
    return False
