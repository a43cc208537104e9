"""Reading the community's files: what they say is believed only where it fits, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from unisep_roformer.checkpoints import build_model, read_checkpoint, read_description
from unisep_roformer.config import STANDARD_BANDS, RoformerConfig

from unisep.errors import WeightsError
from unisep.weights.checkpoints import find_described, read_yaml

CPU = torch.device("cpu")
TWO = {"instruments": ["vocals", "other"], "target_instrument": None}
Written = Callable[..., Path]


@pytest.fixture(scope="module")
def original(tmp_path_factory: Any, reference: Any, written: Written, options: Any) -> Path:
    return written(tmp_path_factory.mktemp("original") / "model", reference("band"), options("band"), TWO)


@pytest.fixture
def folder(tmp_path: Path, original: Path) -> Path:
    """A fresh copy of a folder with a small model."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_folder_a_yaml_or_a_ckpt_all_mean_the_same(folder: Path) -> None:
    yaml_file, parameters = folder / "config.yaml", folder / "model.ckpt"
    (folder / "notes.txt").write_text("not looked at")
    assert "!!python/tuple" in yaml_file.read_text()
    for place in (folder, yaml_file, parameters):
        assert find_described(place) == (yaml_file, parameters)


def test_among_several_the_partner_of_the_same_name_is_taken(folder: Path) -> None:
    shutil.copy(folder / "config.yaml", folder / "b.yaml")
    shutil.copy(folder / "model.ckpt", folder / "b.ckpt")
    assert (
        find_described(folder / "b.ckpt") == find_described(folder / "b.yaml") == (folder / "b.yaml", folder / "b.ckpt")
    )
    with pytest.raises(WeightsError, match=r"holds 2 files .* b\.yaml, config\.yaml"):
        find_described(folder)


@pytest.mark.parametrize("name", ["config.yaml", "model.ckpt"])
def test_a_missing_file_is_named_by_its_kind(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=r"holds 0 files that could be the .*\." + name.rpartition(".")[2]):
        read_checkpoint(folder)


def test_a_place_that_is_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        find_described(folder / "model.safetensors")
    (folder / "model.txt").write_text("")
    with pytest.raises(WeightsError, match="neither a description"):
        find_described(folder / "model.txt")


@pytest.mark.parametrize(
    ("kind", "inner"),
    [
        ("band", None),
        ("mel", None),
        ("band", "state"),
        ("band", "state_dict"),
        ("mel", "model_state_dict"),
        ("band", "model"),
    ],
)
def test_every_wrapping_gives_the_same_model(
    kind: str, inner: str | None, tmp_path: Path, reference: Any, written: Written, options: Any
) -> None:
    model = reference(kind)
    place = written(tmp_path / "model", model, options(kind), TWO)
    if inner:
        torch.save({inner: model.state_dict(), "epoch": 3, "lr": 1e-5}, place / "model.ckpt")
    mine = build_model(read_checkpoint(place), CPU, torch.float32)
    assert mine.config.kind == {"band": "band-split", "mel": "mel-band"}[kind]
    for name, value in model.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in mine.parameters())


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_what_training_programs_put_before_names_is_taken_off(folder: Path, reference: Any, prefix: str) -> None:
    state = {prefix + name: value for name, value in reference("band").state_dict().items()}
    torch.save({"state_dict": state | {"n_averaged": torch.tensor(9)}}, folder / "model.ckpt")
    found = build_model(read_checkpoint(folder), CPU, torch.float32).state_dict()
    assert all(torch.equal(value, state[prefix + name]) for name, value in found.items())


def test_scores_in_numbers_of_numpy_are_passed_over(folder: Path, reference: Any) -> None:
    """As Music-Source-Separation-Training keeps them in what it saves."""
    state = reference("band").state_dict()
    held = {
        "model_state_dict": state,
        "epoch": 3,
        "best_metric": np.float64(8.5),
        "all_metrics": {"sdr": {"vocals": [np.float32(1.5)]}},
    }
    torch.save(held, folder / "model.ckpt")
    assert read_checkpoint(folder).state.keys() == state.keys()


@pytest.mark.parametrize("name", ["b.yaml", "config_b.yaml", "b_config.yaml", "b.ckpt.yaml"])
def test_several_models_in_one_folder_are_told_apart(folder: Path, name: str) -> None:
    shutil.move(folder / "config.yaml", folder / name)
    shutil.move(folder / "model.ckpt", folder / "b.ckpt")
    for other in ("c.ckpt", "config_c.yaml"):
        (folder / other).write_bytes(b"")
    assert find_described(folder / "b.ckpt") == find_described(folder / name) == (folder / name, folder / "b.ckpt")


def test_a_merged_checkpoint_may_keep_its_lora_section(folder: Path) -> None:
    rewrite(folder, "training:", "lora: {r: 8}\ntraining:")
    build_model(read_checkpoint(folder), CPU, torch.float32)
    state = torch.load(folder / "model.ckpt", weights_only=True)
    torch.save(state | {"layers.0.lora_A": torch.ones(1)}, folder / "model.ckpt")
    with pytest.raises(WeightsError, match="Use a merged checkpoint"):
        build_model(read_checkpoint(folder), CPU, torch.float32)


def test_safetensors_and_the_older_torch_format_are_read(folder: Path, reference: Any) -> None:
    state = reference("band").state_dict()
    torch.save(state, folder / "model.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(folder).state.keys() == state.keys()
    (folder / "model.ckpt").unlink()
    save_file({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")
    found = read_checkpoint(folder).state
    assert found.keys() == state.keys() and torch.equal(found["band_split.to_features.0.1.bias"],
                                                        state["band_split.to_features.0.1.bias"])  # fmt: skip


def test_half_precision_files_are_read_and_angles_stay_float32(folder: Path, reference: Any) -> None:
    torch.save(reference("band").half().state_dict(), folder / "model.ckpt")
    model = build_model(read_checkpoint(folder), CPU, torch.bfloat16)
    kinds = {name.rpartition(".")[2]: value.dtype for name, value in model.named_parameters()}
    assert kinds["freqs"] == torch.float32 and kinds["weight"] == kinds["gamma"] == torch.bfloat16


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_checkpoint_is_refused_and_not_run(folder: Path, tmp_path: Path, new_format: bool) -> None:
    trace = tmp_path / "it-was-run"
    torch.save({"state_dict": Hostile(trace)}, folder / "model.ckpt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_checkpoint(folder)
    assert not trace.exists()


def test_a_bare_hostile_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-was-run"
    (folder / "model.ckpt").write_bytes(pickle.dumps(Hostile(trace), protocol=2))
    with pytest.raises(WeightsError):
        read_checkpoint(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    "line",
    [
        "x: !!python/object/apply:os.mkdir ['{trace}']",
        "x: !!python/object/new:os.mkdir ['{trace}']",
        "x: !!python/name:os.mkdir ''",
        "x: !!python/module:os ''",
        "x: !!python/object:pathlib.Path {{}}",
        "x: !!python/tuple {{a: 1}}",
        "x: &a [1]\ny: [*a, *a]",
    ],
)
def test_a_hostile_yaml_is_refused_and_not_run(folder: Path, tmp_path: Path, line: str) -> None:
    trace = tmp_path / "it-was-run"
    path = folder / "config.yaml"
    path.write_text(path.read_text() + line.format(trace=trace) + "\n")
    with pytest.raises(WeightsError, match="nothing was run"):
        read_checkpoint(folder)
    assert not trace.exists()


def test_tuples_are_read_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: !!python/tuple\n- 1\n- !!python/tuple [2, 3]\nb: !!python/tuple []\n")
    assert read_yaml(path) == {"a": (1, (2, 3)), "b": ()}


@pytest.mark.parametrize("text", ["", "- 1", "model: [", "\x00", "model: 3\ntraining: {}", "a: " + "[" * 300])
def test_a_yaml_that_describes_nothing_is_refused(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(WeightsError):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("depth: 2", "depth: 100000", "depth: Input should be less than or equal to 256"),
        ("dim: 16", "dim: 1.5", "dim: Input should be a valid integer"),
        ("dim: 16", "dim: null", "dim: Field required"),
        ("dim_head: 8", "dim_head: 7", "dim_head must be even"),
        ("stft_n_fft: 256", "stft_n_fft: 512", "sum up to 129, the spectrogram has 257 bins"),
        ("stft_hop_length: 64", "stft_hop_length: 200", "at most half"),
        ("stereo: true", "stereo: true\n  num_bands: 12", "exclude each other"),
        ("stereo: true", "stereo: true\n  use_pope: true", "asks for use_pope"),
        ("stereo: true", "stereo: true\n  linear_transformer_depth: 1", "asks for linear_transformer_depth"),
        ("num_stems: 2", "num_stems: 3", "num_stems is 3, and the outputs named are vocals, other"),
        ("- other", "- vocals", "named twice"),
        ("target_instrument: null", "target_instrument: bass", "none of the instruments"),
        ("training:", "audio: {num_channels: 1}\ntraining:", "num_channels is 1"),
        ("training:", "audio: {chunk_size: 0}\ntraining:", "chunk_size"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_right_are_refused(folder: Path, old: str, new: str, reason: str) -> None:
    rewrite(folder, old, new)
    with pytest.raises(WeightsError, match=reason):
        read_checkpoint(folder)


def test_options_without_effect_or_off_are_passed_over(folder: Path) -> None:
    before = read_description(folder / "config.yaml").config
    more = "flash_attn: true\n  ff_dropout: 0.1\n  linear_transformer_depth: 0\n  use_pope: false\n  some: null"
    rewrite(folder, "stereo: true", f"stereo: true\n  {more}\n  sage_attention: true")
    assert read_description(folder / "config.yaml").config == before


def test_what_is_not_said_takes_the_families_defaults() -> None:
    band = RoformerConfig.from_options({"dim": 256, "depth": 12})
    assert band.freqs_per_bands == STANDARD_BANDS and sum(STANDARD_BANDS) == 1025 and band.n_hidden_layers == 1
    mel = RoformerConfig.from_options({"dim": 256, "depth": 12, "num_bands": 60})
    assert mel.freqs_per_bands == () and mel.n_hidden_layers == 1 and mel.mask_estimator_depth == 1


@pytest.mark.parametrize(
    ("sections", "samples"),
    [
        ("inference: {chunk_size: 588800}\naudio: {chunk_size: 352800}", 588_800),
        ("audio: {chunk_size: 352800}\ninference: {dim_t: 1101}", 352_800),
        ("inference: {dim_t: 801}", 51_200),
        ("inference: {num_overlap: 2}", 352_800),
    ],
)
def test_the_stretch_taken_at_once_is_the_files(folder: Path, sections: str, samples: int) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text() + sections + "\n")
    assert read_description(path).segment_samples == samples


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("final_norm.gamma"), r"1 parameters missing \(final_norm.gamma\)"),
        (lambda state: state.update(more=torch.ones(1)), r"1 unknown \(more\)"),
        (lambda state: state.update({"final_norm.gamma": torch.ones(3)}), r"final_norm.gamma has shape \(3,\)"),
        (lambda state: state["final_norm.gamma"].fill_(torch.nan), "not finite"),
        (lambda state: state.update({"final_norm.gamma": torch.ones(16).int()}), "another kind of number"),
        (lambda state: state.update({"final_norm.gamma": "text"}), "not the name of a tensor"),
        (lambda state: state.update({"final_norm.gamma": torch.ones(1).expand(16)}), "claims more numbers"),
        (lambda state: state.clear(), "no parameters"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(folder: Path, change: Any, reason: str) -> None:
    state = torch.load(folder / "model.ckpt")
    change(state)
    torch.save(state, folder / "model.ckpt")
    with pytest.raises(WeightsError, match=reason):
        build_model(read_checkpoint(folder), CPU, torch.float32)


@pytest.mark.parametrize("n_bytes", [0, 10, 1000, -100])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_cut_short_is_refused(folder: Path, suffix: str, n_bytes: int) -> None:
    path = folder / "model.ckpt"
    if suffix == "safetensors":
        save_file({"a": torch.ones(1000)}, folder / "model.safetensors")
        path.unlink()
        path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(WeightsError):
        read_checkpoint(folder)
