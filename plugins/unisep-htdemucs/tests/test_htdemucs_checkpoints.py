"""Official checkpoints load; damaged, foreign and hostile ones are refused before anything runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demucs.hf import load_safetensors_model
from demucs.htdemucs import HTDemucs as ReferenceHTDemucs
from demucs.states import get_state, load_model, save_with_checksum
from safetensors.torch import save_file
from torch import Tensor, nn
from unisep_htdemucs.checkpoints import PUBLISHED_SHA256, build_model, read_checkpoint
from unisep_htdemucs.torch_file import HTDEMUCS, read_torch_file

from unisep.errors import WeightsError

CPU = torch.device("cpu")
Reference = Callable[..., Any]
Package = dict[str, Any]


def package_of(model: Any, half: bool = True) -> Package:
    """The package demucs stores for a model: state by demucs itself."""
    args, kwargs = model._init_args_kwargs
    state = get_state(model, None, half)
    return {"klass": type(model), "args": args, "kwargs": kwargs, "state": state, "training_args": {"lr": 3e-4}}


def save_safetensors(path: Path, model: Any, **metadata: str) -> Path:
    """A safetensors file as demucs 4.1.0 expects it on the hub."""

    def fraction(value: Any) -> dict[str, Any]:
        assert isinstance(value, Fraction)
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}

    args, kwargs = model._init_args_kwargs
    known = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps(args),
        "kwargs": json.dumps(kwargs, default=fraction),
    }
    state = {name: value.contiguous() for name, value in get_state(model, None, True).items()}
    save_file(state, path, metadata=known | metadata)
    return path


def loaded(path: Path) -> nn.Module:
    return build_model(read_checkpoint(path), CPU, torch.float32)


@pytest.fixture
def model(reference: Reference) -> nn.Module:
    return reference(t_layers=1)


@torch.inference_mode()
def test_safetensors_as_demucs_reads_them(
    tmp_path: Path, model: nn.Module, music: Callable[..., Tensor], distance: Callable[..., float]
) -> None:
    path = save_safetensors(tmp_path / "abcdef01.safetensors", model)
    theirs, mine = load_safetensors_model(path).eval(), loaded(path)
    assert read_checkpoint(path).config.segment == Fraction(3, 10)
    assert distance(mine(music(13230)), theirs(music(13230))) <= 1e-4
    assert not any(p.requires_grad for p in mine.parameters()) and not mine.training


@torch.inference_mode()
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("half", [True, False], ids=["half", "float"])
def test_th_packages_in_both_of_torchs_formats(
    tmp_path: Path,
    model: nn.Module,
    music: Callable[..., Tensor],
    distance: Callable[..., float],
    is_zip: bool,
    half: bool,
) -> None:
    path = tmp_path / "model.th"
    torch.save(package_of(model, half), path, _use_new_zipfile_serialization=is_zip)
    theirs = load_model(path).eval()
    assert distance(loaded(path)(music(13230)), theirs(music(13230))) <= 1e-4


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_scores_in_numbers_of_numpy_are_passed_over(tmp_path: Path, model: nn.Module, is_zip: bool) -> None:
    """demucs's own export keeps them beside the parameters, in the released files too."""
    scores = {"nsdr": np.float64(8.1), "per_song": {"a": [np.float32(1.5), 2]}, "n": np.int64(3)}
    torch.save(
        package_of(model, half=False) | {"metrics": ({"best": 0.1}, scores)},
        tmp_path / "model.th",
        _use_new_zipfile_serialization=is_zip,
    )
    package = read_torch_file(tmp_path / "model.th")
    assert not isinstance(package["metrics"][1]["nsdr"], np.generic | float)
    for name, value in loaded(tmp_path / "model.th").state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_a_state_with_positional_arguments_ordered_dict_and_parameters(tmp_path: Path) -> None:
    model = ReferenceHTDemucs(["a", "b"], channels=8, nfft=512, depth=2, t_layers=1, segment=0.5)
    package = package_of(model)
    package["state"] = OrderedDict(model.state_dict(keep_vars=True))
    torch.save(package, tmp_path / "model.th")
    checkpoint = read_checkpoint(tmp_path / "model.th")
    assert checkpoint.config.sources == ("a", "b")
    for name, value in build_model(checkpoint, CPU, torch.float32).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_the_hash_in_a_name_is_checked(tmp_path: Path, model: nn.Module) -> None:
    save_with_checksum(package_of(model), tmp_path / "955717e8.th")
    (path,) = tmp_path.iterdir()
    assert loaded(path)
    for name in ("955717e8-00000000.th", "955717e8-8726e21a.th"):
        with pytest.raises(WeightsError, match="not the file its name promises"):
            read_checkpoint(path.rename(tmp_path / name))
        path = tmp_path / name


def test_published_hashes_agree_with_the_names_of_their_files() -> None:
    assert len(PUBLISHED_SHA256) == 6
    for name, sha256 in PUBLISHED_SHA256.items():
        assert len(sha256) == 64 and name.removesuffix(".th").split("-")[1] == sha256[:8]


class Evil:
    """What a hostile pickle would have run: leaves a folder behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["klass", "kwargs", "state", "training_args"])
def test_foreign_names_are_refused_before_anything_runs(
    tmp_path: Path, model: nn.Module, is_zip: bool, place: str
) -> None:
    package = package_of(model)
    evil = Evil(tmp_path / "was-run")
    package[place] = {"sources": evil} if place in ("kwargs", "state") else evil
    torch.save(package, tmp_path / "model.th", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsError, match=r"names '\w+\.mkdir'.*nothing was run"):
        read_checkpoint(tmp_path / "model.th")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "value",
    [torch.nn.Linear, eval, torch.load, pickle.loads, ReferenceHTDemucs.forward, getattr, Path("x"), 1 << 3000],
    ids=lambda value: str(value)[:20],
)
def test_harmless_looking_names_are_refused_too(tmp_path: Path, model: nn.Module, value: Any) -> None:
    torch.save(package_of(model) | {"extra": value}, tmp_path / "model.th")
    with pytest.raises(WeightsError, match=r"names|instruction"):
        read_checkpoint(tmp_path / "model.th")


def zip_with(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A torch-like zip around a hand-written pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in (members or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def tensor_pickle(n: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle of one tensor whose description is ours to choose."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    view = number(offset) + numbers(size) + numbers(stride)
    return b"\x80\x02" + TENSOR + number(n) + b"tQ" + view + b"\x89ccollections\nOrderedDict\n)RtR."


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_hand_written_tensor_is_read(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.th", tensor_pickle(4, 1, (3,), (1,)), {"data/0": FOUR})
    assert torch.equal(read_torch_file(path), torch.tensor([2.0, 3.0, 4.0]))


@pytest.mark.parametrize(
    ("n", "offset", "size", "stride"),
    [
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (1 << 30,), (0,)),
        (4, -1, (2,), (1,)),
        (4, 0, (-2,), (1,)),
        (4, 0, (2,), (1, 1)),
        (5, 0, (4,), (1,)),
        (1 << 30, 0, (4,), (1,)),
        (-4, 0, (4,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, n: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    path = zip_with(tmp_path / "a.th", tensor_pickle(n, offset, size, stride), {"data/0": FOUR})
    with pytest.raises(WeightsError, match=r"a\.th"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "body",
    [
        b"cdemucs.htdemucs\nHTDemucs\n)R.",  # call the class
        b"cdemucs.htdemucs\nHTDemucs\n}X\x01\x00\x00\x00aK\x01sb.",  # change the class
        b"ccollections\nOrderedDict\nN}X\x05\x00\x00\x00itemsK\x01s\x86b.",  # change OrderedDict
        b"cfractions\nFraction\nX\x09\x00\x00\x001e9999999\x85R.",  # a fraction that fills the memory
        b"cfractions\nFraction\nK\x01K\x00\x86R.",
        b"Nr\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"cdemucs.htdemucs\nHTDemucs\n)\x81.",  # NEWOBJ
        b"X\xff\xff\xff\x7fabc.",
        b"cnumpy\ndtype\nX\x01\x00\x00\x00aK\x01\x86b.",  # change what stands for NumPy's types
        b"cnumpy\ndtype\n)R}X\x01\x00\x00\x00aK\x01sbX\x01\x00\x00\x00aR.",  # call what one of them became
        b"\x93.",
        b"N",
        b"",
    ],
)
def test_pickles_that_misuse_allowed_names_are_refused(tmp_path: Path, body: bytes) -> None:
    path = zip_with(tmp_path / "a.th", b"\x80\x02" + body)
    with pytest.raises(WeightsError):
        read_torch_file(path)
    assert not hasattr(HTDEMUCS, "a") and OrderedDict(a=1).items()


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.th", b"N.", {"data/0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_torch_file(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files_are_refused(tmp_path: Path, model: nn.Module, kind: str, part: float) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.th")
    if kind == "safetensors":
        save_safetensors(path, model)
    else:
        torch.save(package_of(model), path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(WeightsError):
        loaded(path)


def test_giant_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(WeightsError, match="header"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"klass": "os.system"}, "os.system"),
        ({"klass": "demucs.hdemucs.HDemucs"}, "HDemucs"),
        ({"kwargs": "{"}, "unreadably"),
        ({"kwargs": "[" * 100_000}, "unreadably"),
        ({"kwargs": '{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}'}, "unreadably"),
        ({"kwargs": '{"sources": 3}'}, "options make no model"),
        ({"kwargs": '{"sources": ["a"], "t_layers": 1000000000}'}, "t_layers"),
        ({"kwargs": '{"sources": ["a"], "channels": 4096, "bottom_channels": 16384}'}, "does not fit"),
        ({"args": "[1, 2, 3, 4, 5, 6, 7, 8]"}, "options"),
        ({"structure": "{}"}, "quantised"),
    ],
    ids=str,
)
def test_foreign_metadata_is_refused(tmp_path: Path, model: nn.Module, metadata: dict[str, str], message: str) -> None:
    path = save_safetensors(tmp_path / "model.safetensors", model, **metadata)
    with pytest.raises(WeightsError, match=message):
        loaded(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "nan", "inf", "integer"])
def test_parameters_that_do_not_fit_are_refused(tmp_path: Path, model: nn.Module, change: str) -> None:
    package = package_of(model)
    state, name = package["state"], "encoder.1.conv.weight"
    match change:
        case "missing":
            del state[name]
        case "extra":
            state["encoder.9.conv.weight"] = torch.ones(1)
        case "shape":
            state[name] = state[name][:-1]
        case "nan" | "inf":
            state[name][0, 0, 0, 0] = float(change)
        case "integer":
            state[name] = state[name].long()
    torch.save(package, tmp_path / "model.th")
    with pytest.raises(WeightsError, match="encoder"):
        loaded(tmp_path / "model.th")


def test_missing_files_and_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No checkpoint"):
        read_checkpoint(tmp_path / "none.th")
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match="neither"):
        read_checkpoint(tmp_path / "model.onnx")


def test_loading_leaves_the_random_state_alone(tmp_path: Path, model: nn.Module) -> None:
    path = save_safetensors(tmp_path / "model.safetensors", model)
    before = torch.get_rng_state()
    loaded(path)
    assert torch.equal(torch.get_rng_state(), before)
