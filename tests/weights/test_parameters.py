"""Weights files are read without running what they name, and every failure is a WeightsError."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unisep.errors import WeightsError
from unisep.weights.checkpoints import only_tensors, read_safetensors, read_torch_file


class Trap:
    """What a hostile pickle would have run: leaves a folder behind."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self):
        return Path.mkdir, (self.left,)


class Nothing:
    """Stands for a name in a file."""


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_torch_file_is_read_with_what_surrounds_its_tensors(tmp_path, mapped, as_zip):
    held = {"state": {"a": torch.arange(6.0).reshape(2, 3)}, "step": 3, "names": ["b", ("c",)]}
    torch.save(held, tmp_path / "model.pt", _use_new_zipfile_serialization=as_zip)
    read = read_torch_file(tmp_path / "model.pt", mapped=mapped)
    assert torch.equal(read["state"].pop("a"), held["state"].pop("a")) and read == held


@pytest.mark.parametrize("mapped", [False, True])
def test_what_a_torch_file_names_is_not_run(tmp_path, mapped):
    torch.save({"a": torch.ones(1), "b": Trap(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_torch_file(tmp_path / "model.pt", mapped=mapped)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(WeightsError, match=r"plain\.pt is damaged"):
        read_torch_file(tmp_path / "plain.pt", mapped=mapped)
    assert not (tmp_path / "ran").exists()


def test_numbers_of_numpy_become_nothing_and_other_names_are_refused(tmp_path):
    torch.save({"a": torch.ones(1), "best": [np.float32(1), np.float64(2), np.int64(3)]}, tmp_path / "model.pt")
    held = read_torch_file(tmp_path / "model.pt")
    assert torch.equal(held["a"], torch.ones(1))
    assert not any(isinstance(each, np.generic | float | int) for each in held["best"])
    torch.save({"a": torch.ones(1), "best": Nothing()}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"plain values \(.*Nothing\)"):
        read_torch_file(tmp_path / "model.pt")


def test_arrays_of_numpy_become_tensors(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "steps": np.array(7),
        "mask": np.array([1, 255], np.uint8),
    }
    torch.save({**arrays, "best": np.float64(1), "b": torch.ones(1)}, tmp_path / "model.pt")
    held = read_torch_file(tmp_path / "model.pt")
    for name, array in arrays.items():
        assert held[name].numpy().dtype == array.dtype and np.array_equal(held[name].numpy(), array)
    assert torch.equal(held["b"], torch.ones(1)) and not isinstance(held["best"], float | torch.Tensor)


class Rebuilt:
    """Pickled as an array of NumPy that claims what it likes."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        rebuild, arguments, _ = np.zeros(1).__reduce__()
        return rebuild, arguments, self.state


@pytest.mark.parametrize(
    "state",
    [
        (1, (1 << 40,), np.dtype("f4"), False, b"\0" * 8),
        (1, (3,), np.dtype("f4"), False, b"\0" * 8),
        (1, (-2, 3), np.dtype("f8"), False, b"\0" * 8),
        (1, (1,), np.dtype("O"), False, b"\0" * 8),
        (1, (1,), np.dtype("O"), False, [1]),
        (1, (1,), np.dtype("S8"), False, b"\0" * 8),
        (1, (1,), np.dtype(">f8"), False, b"\0" * 8),
        (1, (2,), np.dtype([("a", "f4")]), False, b"\0" * 8),
        (1, (1,), "f8", False, b"\0" * 8),
        (1, (1,), np.dtype("f8"), False),
        (1, (1,), np.dtype("f8"), False, "text"),
        (1,),
    ],
)
def test_an_array_of_numpy_that_cannot_be_is_refused(tmp_path, state):
    torch.save({"a": Rebuilt(*state)}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt"):
        read_torch_file(tmp_path / "model.pt")


@pytest.mark.parametrize("mapped", [False, True])
def test_damaged_torch_files_are_refused(tmp_path, mapped):
    file = tmp_path / "model.pt"
    torch.save({"a": torch.ones(1000)}, file)
    good = file.read_bytes()
    for content in (b"", b"garbage", good[:100], good[: len(good) // 2], good[:-30]):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            read_torch_file(file, mapped=mapped)
    with pytest.raises(WeightsError, match="No such file"):
        read_torch_file(tmp_path / "none.pt", mapped=mapped)


@pytest.mark.parametrize("wrapped", [lambda value: value, lambda value: {"a": [1, (value,)]}])
def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path, wrapped):
    torch.save(wrapped(torch.ones(1).expand(1 << 40)), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="claims more numbers than the file has"):
        read_torch_file(tmp_path / "model.pt")


def test_a_safetensors_file_is_read_with_its_metadata(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "model.safetensors", metadata={"kind": "test"})
    tensors, metadata = read_safetensors(tmp_path / "model.safetensors")
    assert list(tensors) == ["a"] and torch.equal(tensors["a"], torch.arange(3.0))
    assert metadata == {"kind": "test"}


def test_damaged_safetensors_files_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, file)
    good = file.read_bytes()
    for content in (b"", b"garbage", good[:4], good[:100], good[:-1], (1 << 60).to_bytes(8, "little") + good[8:]):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"cut short|damaged"):
            read_safetensors(file)
    with pytest.raises(WeightsError, match="missing"):
        read_safetensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (torch.ones(1), "no parameters by name"),
        ([torch.ones(1)], "no parameters by name"),
        ({}, "no parameters by name"),
        ({"a": 1.0}, "'a' is not the name of a tensor"),
        ({1: torch.ones(1)}, "'1' is not the name of a tensor"),
    ],
)
def test_only_tensors_by_name_are_parameters(held, why):
    assert list(only_tensors(Path("model.pt"), {"a": torch.ones(1)})) == ["a"]
    with pytest.raises(WeightsError, match=f"model.pt.*{why}"):
        only_tensors(Path("model.pt"), held)
