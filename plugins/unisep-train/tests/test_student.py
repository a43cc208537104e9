"""Distillation: a student comes to give what its teacher gives, resumes exactly, and separates as an HT Demucs."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_htdemucs.saving import save_checkpoint
from unisep_train.mixing.examples import MixConfig
from unisep_train.mixing.queries import MixtureStream
from unisep_train.tasks.student import Distillation, StudentRun, distil, standardised
from unisep_train.trainer.losses import plain_sdr_db

from unisep import Audio, Separator
from unisep.errors import OptionError, WeightsError
from unisep.testing import noise

Command = Callable[..., str]
RATE_HZ = 8000
FOUR = ("drums", "bass", "other", "vocals")
TEACHER = HTDemucsConfig(
    sources=FOUR, channels=12, t_layers=2, t_heads=2, nfft=1024, depth=3, samplerate=RATE_HZ,
    segment=Fraction(1, 2), bottom_channels=32, t_layer_scale_init=1.0,
)  # fmt: skip
SMALLER = {"channels": 8, "bottom_channels": 16, "t_layers": 1, "dconv_mode": 0}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return save_checkpoint(path, TEACHER, HTDemucs(TEACHER).state_dict())


def recipe(teacher: Path, **changes: Any) -> Distillation:
    given: dict[str, Any] = {
        "teacher": teacher, "student": SMALLER, "mix": MixConfig(segment_seconds=0.5, batch=4), "n_steps": 6,
        "warmup_steps": 2, "learning_rate": 3e-3, "average_decay": 0.9, "bfloat16": False, "log_every": 2, "save_every": 2,
    }  # fmt: skip
    return Distillation(**(given | changes))


@torch.no_grad()
def agreement_of(run: StudentRun, student: HTDemucs, store: str) -> float:
    """How closely the student follows the teacher, on mixtures of another seed."""
    mixture = standardised(next(iter(MixtureStream(store, run.recipe.mix, 99, range(1)))))
    return float(plain_sdr_db(student(mixture).flatten(1), run.teacher(mixture).flatten(1)).median())


def test_a_student_comes_closer_to_its_teacher(store: str, teacher: Path, tmp_path: Path) -> None:
    run = StudentRun(recipe(teacher, n_steps=60), tmp_path)
    before = agreement_of(run, run.averaged(), store)
    distil(store, run, n_workers=0)
    after = agreement_of(run, run.averaged(), store)
    assert after > before + 3 and after > 1, "0 dB is what silence scores"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 30 and lines[-1]["loss"] < lines[0]["loss"]


def test_a_resumed_run_ends_where_an_unbroken_one_does(store: str, teacher: Path, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    given = recipe(teacher, spectral=0.1)
    whole = distil(store, StudentRun(given, tmp_path / "whole"), n_workers=0)
    first = distil(store, StudentRun(given, tmp_path / "broken"), stop_after_seconds=0, n_workers=0)
    assert first.step == 1
    second = distil(store, StudentRun(given, tmp_path / "broken"), n_workers=0)
    assert second.step == whole.step == 6
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name]), name


def test_the_student_separates(store: str, teacher: Path, tmp_path: Path, command: Command, capsys: Any) -> None:
    config = tmp_path / "distil.json"
    config.write_text(recipe(teacher).model_dump_json())
    out = tmp_path / "student.safetensors"
    words = ["distil", store, tmp_path / "run", "--config", config, "--device", "cpu", "--workers", "0"]
    assert not command(*words, "--release", out)
    assert "agreement_db" in capsys.readouterr().out
    song = noise(1.2, RATE_HZ, channels=2)
    separator = Separator("htdemucs", weights=out, device="cpu", precision="float32", offline=True)
    stems = separator.separate(Audio(song.samples, RATE_HZ))
    assert tuple(stems) == FOUR and stems["bass"].samples.any()
    assert out.stat().st_size < 0.6 * teacher.stat().st_size


def test_a_student_may_have_sparse_attention(store: str, teacher: Path, tmp_path: Path) -> None:
    sparse = {"t_sparse_self_attn": True, "t_sparse_cross_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.5}
    given = recipe(teacher, student=SMALLER | {"t_layers": 2} | sparse, bfloat16=True, n_steps=2)
    run = StudentRun(given, tmp_path)
    assert run.model.config.self_sparsity == run.model.config.cross_sparsity == 0.5
    weight = "crosstransformer.layers.0.self_attn.in_proj_weight"
    before = run.averaged().state_dict()[weight].clone()
    assert not torch.equal(distil(store, run, n_workers=0).average[weight], before)
    with pytest.raises(OptionError, match="t_auto_sparsity"):
        StudentRun(recipe(teacher, student=sparse | {"t_auto_sparsity": False}), tmp_path)


def test_a_run_that_has_ended_needs_no_teacher_and_one_that_goes_on_takes_no_other(
    store: str, teacher: Path, tmp_path: Path, command: Command
) -> None:
    own = tmp_path / "teacher.safetensors"
    own.write_bytes(teacher.read_bytes())
    config = tmp_path / "distil.json"
    config.write_text(recipe(own).model_dump_json())
    words = ["distil", store, tmp_path / "run", "--device", "cpu", "--workers", "0"]
    assert not command(*words, "--config", config, "--stop-after", "0")
    torch.manual_seed(6)
    save_checkpoint(own, TEACHER, HTDemucs(TEACHER).state_dict())
    assert "not the teacher this run began with" in command(*words)
    own.unlink()
    assert "No checkpoint" in command(*words)
    own.write_bytes(teacher.read_bytes())
    assert not command(*words)
    own.unlink()
    assert not command(*words, "--release", tmp_path / "student.safetensors")
    assert Separator("htdemucs", weights=tmp_path / "student.safetensors", offline=True)


@pytest.mark.parametrize(
    "student", [{"sources": ["a"]}, {"samplerate": 44100}, {"chanels": 8}, {"channels": -1}, {"nfft": 1000}]
)
def test_a_student_that_cannot_learn_from_this_teacher(teacher: Path, tmp_path: Path, student: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        StudentRun(recipe(teacher, student=student), tmp_path)


def test_segments_longer_than_the_teacher_takes_are_refused_before_a_run_begins(
    store: str, teacher: Path, tmp_path: Path, command: Command
) -> None:
    config = tmp_path / "distil.json"
    config.write_text(recipe(teacher, mix=MixConfig(segment_seconds=0.6, batch=4)).model_dump_json())
    assert "takes 0.5 s at most" in command("distil", store, tmp_path / "run", "--config", config)
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_rate_and_a_teacher_that_is_not_there(store: str, teacher: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = HTDemucsConfig(**{**vars(TEACHER), "samplerate": 16_000})
    other = save_checkpoint(tmp_path / "other.safetensors", config, HTDemucs(config).state_dict())
    with pytest.raises(OptionError, match="16000"):
        distil(store, StudentRun(recipe(other), tmp_path))
    with pytest.raises(WeightsError, match="No checkpoint"):
        StudentRun(recipe(tmp_path / "none.th"), tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"teacher": "x", "student": {}, "n_steps": 0}', '{"surprise": 1}'])
def test_a_recipe_that_is_none(store: str, tmp_path: Path, command: Command, text: str) -> None:
    (tmp_path / "distil.json").write_text(text)
    words = ["distil", store, tmp_path / "run"]
    assert "cannot be read as a recipe" in command(*words, "--config", tmp_path / "distil.json")
    assert "--config" in command(*words)
    assert not (tmp_path / "run").exists()
