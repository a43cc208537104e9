"""Reading AudioSep checkpoints: what loads, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from unisep_audiosep.checkpoints import find_file, load_model, read_state

from unisep.errors import WeightsError

CPU = torch.device("cpu")


def changed(make_published, make_state, path: Path, change) -> Path:
    whole = make_published(make_state())
    change(whole)
    torch.save(whole, path)
    return path


def test_only_the_separator_is_taken(checkpoint, make_state):
    assert set(read_state(checkpoint)) == set(make_state())


def test_the_sizes_are_those_of_the_file(checkpoint, config):
    model = load_model(checkpoint, CPU, torch.float32)
    assert model.config == config
    assert model.config.sample_rate_hz == 4000
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "legacy.pt"])
def test_bare_states_in_other_formats_load_the_same(tmp_path, checkpoint, make_published, make_state, name):
    bare = make_published(make_state())["state_dict"]
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in bare.items()}, path)
    else:
        torch.save(bare, path, _use_new_zipfile_serialization=path.suffix != ".pt")
    one, other = (load_model(each, CPU, torch.float32).state_dict() for each in (path, checkpoint))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_loaded_parameters_do_not_hold_the_file(checkpoint):
    model = load_model(checkpoint, CPU, torch.float32)
    before = model.base.pre_conv.weight.clone()
    checkpoint.write_bytes(bytes(checkpoint.stat().st_size))
    assert torch.equal(model.base.pre_conv.weight, before)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_file_that_names_a_function_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "hostile.ckpt", tmp_path / "was-run"
    torch.save({"state_dict": {}, "hyper_parameters": Hostile(marker)}, path)
    with pytest.raises(WeightsError, match="nothing of it was run"):
        load_model(path, CPU, torch.float32)
    assert not marker.exists()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    for name, content in (("a.ckpt", b"garbage"), ("b.safetensors", b"garbage"), ("c.ckpt", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            load_model(path, CPU, torch.float32)


def test_a_file_cut_short_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(checkpoint, CPU, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda whole: whole["state_dict"].pop("ss_model.base.pre_conv.bias"),
            r"1 parameters missing \(base.pre_conv.bias\)",
        ),
        (lambda whole: whole["state_dict"].update({"ss_model.base.extra": torch.ones(1)}), "1 unknown"),
        (lambda whole: whole["state_dict"].update({"ss_model.base.pre_conv.bias": torch.ones(9)}), "has shape"),
        (lambda whole: whole["state_dict"]["ss_model.base.pre_conv.bias"].fill_(torch.nan), "not finite"),
        (lambda whole: whole["state_dict"].update({"ss_model.base.bn0.weight": torch.ones(12)}), "evenly"),
        (lambda whole: whole["state_dict"].pop("ss_model.base.bn0.weight"), "base.bn0.weight"),
        (lambda whole: whole.update(state_dict={"encoder.weight": torch.ones(2)}), "no AudioSep checkpoint"),
        (lambda whole: whole.update(state_dict=[1, 2]), "no parameters"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, make_published, make_state, change, message):
    path = changed(make_published, make_state, tmp_path / "changed.ckpt", change)
    with pytest.raises(WeightsError, match=message):
        load_model(path, CPU, torch.float32)


def test_a_folder_must_hold_one_checkpoint(tmp_path, checkpoint):
    assert find_file(checkpoint.parent) == checkpoint
    (tmp_path / "other.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match="other"):
        find_file(tmp_path)
    with pytest.raises(WeightsError, match="No checkpoint"):
        load_model(tmp_path / "absent.ckpt", CPU, torch.float32)
