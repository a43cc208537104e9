"""A small query model learns the answers of a larger one, through the recipe, and goes on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from unisep_film.checkpoints import load_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.film import FiLM
from unisep_film.model import FilmHTDemucs
from unisep_train.mixing.queries import QueryBatch
from unisep_train.tasks.query_model import QueryModelRun, Recipe
from unisep_train.tasks.teacher import Answers, Teacher, answers, taught_loss
from unisep_train.trainer.losses import LossWeights, plain_sdr_db

from unisep import Embedding, Separator
from unisep.errors import OptionError, WeightsError

RATE_HZ = 8000
SPACE = "clap-mini-1"  # that of the embedded encoder, so that students can be asked through the public door
N_DIMS = 16
SHAPE: dict[str, Any] = {
    "channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
    "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1",
}  # fmt: skip
LARGE = FilmConfig(demucs=SHAPE | {"channels": 12}, output="mask", spaces={SPACE: N_DIMS}, condition_channels=16)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A model that hears its queries: what it gives differs from one to the next."""
    torch.manual_seed(3)
    model = FilmHTDemucs(LARGE)
    with torch.no_grad():
        for film in (module for module in model.modules() if isinstance(module, FiLM)):
            film.scale.weight.normal_(std=0.3)
            film.shift.weight.normal_(std=0.3)
    return save_model(tmp_path / "teacher.safetensors", model, torch.float32)


def given(folder: Path, weights: Path, **fields: Any) -> Path:
    """A recipe as a person writes it, for a student with fewer channels."""
    path = folder / "given.json"
    recipe = {
        "teacher": {"film": str(weights)},
        "model": {"demucs": SHAPE, "output": "mask", "spaces": {SPACE: N_DIMS}, "condition_channels": 16},
        "mix": {"segment_seconds": 0.5}, "n_steps": 40, "warmup_steps": 5, "learning_rate": 5e-3, "bfloat16": False,
    }  # fmt: skip
    path.write_text(json.dumps(recipe | fields))
    return path


def batch_of(seed: int, n_samples: int = 4000) -> QueryBatch:
    """Noise in which the true target is half of the mixture, asked by random vectors."""
    generator = torch.Generator().manual_seed(seed)
    sounds = torch.randn(2, 4, 2, n_samples, generator=generator) * 0.1
    queries = normalize(torch.randn(4, N_DIMS, generator=generator), dim=-1)
    return QueryBatch(sounds.sum(0), sounds[0], queries, torch.ones(4), ["a"] * 4, torch.zeros_like(queries))


@torch.no_grad()
def agreement_db(student: FilmHTDemucs, teacher: FilmHTDemucs, batch: QueryBatch) -> float:
    heard = [answers(model.eval(), batch, SPACE).targets.flatten(1) for model in (student, teacher)]
    return float(plain_sdr_db(*heard).mean())


def test_a_student_comes_closer_to_its_teacher_on_what_it_has_not_heard(teacher: Path, tmp_path: Path) -> None:
    run = QueryModelRun(Recipe.read(given(tmp_path, teacher)), tmp_path)
    run.restore()
    known, unheard = load_model(teacher), batch_of(10_000)
    before = agreement_db(run.model, known, unheard)
    run.model.train()
    figures = [run.train_step(batch_of(step)) for step in range(40)]
    after = agreement_db(run.model, known, unheard)
    assert after > before + 4
    assert figures[-1]["agreement_db"].mean() > figures[0]["agreement_db"].mean() + 4
    assert not any(parameter.grad is not None for parameter in run.taught_by.parameters())


def test_a_share_of_the_truth_is_the_weighted_sum_of_both_losses(teacher: Path, tmp_path: Path) -> None:
    losses = {}
    for share in (1.0, 0.25, None):
        fields: dict[str, Any] = {"teacher": None if share is None else {"film": str(teacher), "share": share}}
        run = QueryModelRun(Recipe.read(given(tmp_path, teacher, **fields)), tmp_path)
        losses[share] = float(run.train_step(batch_of(0))["loss"])
    assert losses[0.25] == pytest.approx(0.25 * losses[1.0] + 0.75 * losses[None], rel=1e-5)
    assert abs(losses[1.0] - losses[None]) > 0.01


def test_the_taught_loss_is_zero_for_the_same_waveform_and_hears_spectra() -> None:
    wanted = batch_of(0).target
    far = torch.full((4,), 40.0)  # presence beyond doubt, which costs nothing when said alike
    said, mixture = Answers(wanted, far), batch_of(0).mixture

    def loss(estimate: torch.Tensor, logits: torch.Tensor = far, spectral: float = 0.0) -> float:
        teacher = Teacher(film=Path("x"), spectral=spectral)
        return float(taught_loss(estimate, logits, said, mixture, teacher, LossWeights())[0])

    assert max(loss(wanted), loss(wanted, spectral=1.0)) < 1e-12
    halved = loss(0.5 * wanted)
    assert loss(0.5 * wanted, spectral=1.0) == pytest.approx(halved + math.log(2), abs=1e-2)
    assert loss(wanted, -far) == pytest.approx(40 * LossWeights().presence, rel=1e-4)


def test_a_resumed_student_is_the_unbroken_one(teacher: Path, tmp_path: Path) -> None:
    recipe = Recipe.of_run(tmp_path / "run", given(tmp_path, teacher, n_steps=6))
    (tmp_path / "whole").mkdir()
    whole = QueryModelRun(recipe, tmp_path / "whole")
    for step in range(6):
        whole.train_step(batch_of(step))
    for steps in (range(3), range(3, 6)):
        part = QueryModelRun(Recipe.of_run(tmp_path / "run"), tmp_path / "run")
        part.restore()
        for step in steps:
            part.train_step(batch_of(step))
        part.save()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, part.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], part.average[name]), name


def test_a_spectrogram_teacher_hears_each_mixture_on_the_scale_of_songs(tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = FilmConfig(demucs=SHAPE | {"bottom_channels": 16}, spaces={SPACE: N_DIMS}, condition_channels=16)
    model, batch = FilmHTDemucs(config).eval(), batch_of(0)
    conditions = model.conditions(batch.queries[:, None], SPACE)
    # Far below the small constants of the model's own normalisation, where it would fall silent.
    quiet = QueryBatch(batch.mixture * 1e-5, batch.target, batch.queries, batch.present, batch.names,
                          batch.negatives)  # fmt: skip
    with torch.no_grad():
        loud, direct = answers(model, batch, SPACE).targets, model(quiet.mixture, conditions)[0][:, 0]
    found = answers(model, quiet, SPACE).targets * 1e5
    agreement, without = (plain_sdr_db(x.flatten(1), loud.flatten(1)) for x in (found, 1e5 * direct))
    assert (agreement > without + 10).all() and agreement.min() > 40


def test_a_student_answers_through_the_public_door(teacher: Path, tmp_path: Path) -> None:
    run = QueryModelRun(Recipe.read(given(tmp_path, teacher)), tmp_path)
    run.train_step(batch_of(0))
    weights = save_model(tmp_path / "student.safetensors", run.model, in_8_bits=True)
    batch = batch_of(1)
    query = Embedding(batch.queries[0].numpy(), SPACE)
    separator = Separator(query_weights=weights, segment_seconds=0.5)
    found = separator.separate(batch.mixture[0].numpy(), query=query).target
    expected = answers(run.model.eval(), batch, SPACE).targets[0]
    assert found.sample_rate_hz == RATE_HZ
    assert plain_sdr_db(torch.from_numpy(found.samples).flatten(), expected.flatten()) > 30


def test_teachers_that_cannot_teach_are_refused_before_a_run_exists(teacher: Path, tmp_path: Path) -> None:
    def model(**changes: Any) -> dict[str, Any]:
        fields = {"demucs": SHAPE, "output": "mask", "spaces": {SPACE: N_DIMS}, "condition_channels": 16}
        return {"model": fields | changes}

    (tmp_path / "damaged").write_bytes(teacher.read_bytes()[:-100])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"teacher": {"film": str(tmp_path / "none")}}, WeightsError, "cannot be read"),
        ({"teacher": {"film": str(tmp_path / "damaged")}}, WeightsError, "cannot be read"),
        ({"teacher": {"film": str(teacher), "share": 0}}, OptionError, "share"),
        ({"teacher": {"film": str(teacher), "weight": 1}}, OptionError, "weight"),
        (model(demucs=SHAPE | {"samplerate": 16000}), OptionError, "samplerate 8000"),
        (model(demucs=SHAPE | {"audio_channels": 1}) | {"mix": {"n_channels": 1}}, OptionError, "audio_channels 2"),
        (model(spaces={"toy-2": N_DIMS}), OptionError, "toy-2"),
        (model(spaces={SPACE: 8}), OptionError, "understands"),
    ]  # fmt: skip
    for fields, error, said in cases:
        with pytest.raises(error, match=said):
            Recipe.of_run(tmp_path / "run", given(tmp_path, teacher, **fields))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_a_run_goes_on_with_the_teacher_it_began_with(teacher: Path, tmp_path: Path) -> None:
    recipe = Recipe.of_run(tmp_path / "run", given(tmp_path, teacher))
    assert recipe.teacher is not None and len(recipe.teacher.sha256) == 64
    torch.manual_seed(9)
    save_model(teacher, FilmHTDemucs(LARGE), torch.float32)
    with pytest.raises(WeightsError, match="not the teacher this run began with"):
        QueryModelRun(recipe, tmp_path / "run").train_step(batch_of(0))


def test_a_segment_longer_than_the_teacher_takes_is_refused(tmp_path: Path) -> None:
    shape = SHAPE | {"bottom_channels": 16, "use_train_segment": True}
    config = FilmConfig(demucs=shape, spaces={SPACE: N_DIMS}, condition_channels=16)
    path = save_model(tmp_path / "teacher.safetensors", FilmHTDemucs(config))
    with pytest.raises(OptionError, match="takes at most 1"):
        Recipe.read(given(tmp_path, path, mix={"segment_seconds": 1.5}))
