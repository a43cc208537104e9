"""A query model in training: where it starts, its stages, resuming, several processes, the encoder and the plot."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from unisep_film.causal import CausalConfig
from unisep_film.checkpoints import load_model, read_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_htdemucs.checkpoints import build_model, read_checkpoint
from unisep_htdemucs.config import HTDemucsConfig
from unisep_htdemucs.model import HTDemucs
from unisep_train.measuring import plot
from unisep_train.measuring.measure import measure_item
from unisep_train.measuring.validation import ValidationItem
from unisep_train.mixing.config import MixConfig, QueryMix
from unisep_train.mixing.queries import QueryBatch, QueryStream, TextAudioEncoder, load_encoder
from unisep_train.tasks.query_model import QueryModelRun, Recipe, train
from unisep_train.tasks.start import Start
from unisep_train.trainer.distributed import Place, joined
from unisep_train.trainer.learner import begun
from unisep_train.trainer.losses import LossWeights

from unisep.errors import DatasetError, OptionError, WeightsError
from unisep.query.concepts import concepts

Command = Callable[..., str]
RATE_HZ = 8000
SPACES = {"toy-1": 16}
SHAPE: dict[str, Any] = {
    "channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
    "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1",
}  # fmt: skip
MASK = FilmConfig(demucs=SHAPE, output="mask", spaces=SPACES, condition_channels=16)
# Text queries without noise, so that what a process hears does not depend on how many there are.
RECIPE = Recipe(
    model=MASK, mix=MixConfig(segment_seconds=0.5, batch=4, example_seconds=0.5, absent_probability=0.3),
    queries=QueryMix(text_share=1.0, noise=0.0), n_steps=6, warmup_steps=2, absent_from=3, bfloat16=False,
    log_every=2, save_every=2,
)  # fmt: skip


@pytest.fixture
def htdemucs(tmp_path: Path) -> Path:
    """A checkpoint of a small four-stem HT Demucs, as demucs 4.1.0 writes them."""
    torch.manual_seed(1)
    kwargs: dict[str, Any] = {
        "sources": ["drums", "bass", "other", "vocals"], "channels": 8, "t_layers": 1, "t_heads": 2, "nfft": 2048,
        "samplerate": RATE_HZ, "use_train_segment": False, "bottom_channels": 16,
    }  # fmt: skip
    segment = {"_type": "fraction", "numerator": 1, "denominator": 2}
    model = HTDemucs(HTDemucsConfig(segment=Fraction(1, 2), **kwargs))
    path = tmp_path / "separator.safetensors"
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "kwargs": json.dumps(kwargs | {"segment": segment})}
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path, metadata)
    return path


def fresh(folder: Path, recipe: Recipe = RECIPE) -> Path:
    recipe.kept_in(folder)
    return folder


def written(folder: Path, **fields: Any) -> Path:
    """A recipe as a person writes it: only what differs from the defaults."""
    path = folder / "given.json"
    path.write_text(json.dumps({"n_steps": 4, "bfloat16": False} | fields))
    return path


def a_batch(n_samples: int = 4000) -> QueryBatch:
    generator = torch.Generator().manual_seed(0)
    sounds = torch.randn(2, 2, 2, n_samples, generator=generator) * 0.1
    queries = normalize(torch.randn(2, 16, generator=generator), dim=-1)
    return QueryBatch(sounds.sum(0), sounds[0], queries, torch.ones(2), ["a", "b"])


def changed(before: dict[str, torch.Tensor], run: QueryModelRun) -> set[str]:
    return {name for name, value in run.model.state_dict().items() if not torch.equal(before[name], value)}


# Where a run starts


def test_a_start_from_htdemucs_keeps_every_parameter_and_freezes_the_shape(htdemucs: Path, tmp_path: Path) -> None:
    given = written(tmp_path, start={"htdemucs": str(htdemucs)}, model={"spaces": SPACES, "condition_channels": 24})
    recipe = Recipe.of_run(tmp_path / "run", given)
    assert recipe.model.separator.sources == ("drums", "bass", "other", "vocals")
    assert (recipe.model.output, recipe.model.condition_channels) == ("spectrogram", 24)
    run = QueryModelRun(recipe, tmp_path / "run")
    run.restore()
    for name, value in load_file(htdemucs).items():
        assert torch.equal(run.model.state_dict()[f"core.demucs.{name}"], value)
        assert torch.equal(run.average[f"core.demucs.{name}"], value)
    run.train_step(a_batch())
    run.save()
    htdemucs.unlink()  # a run that has begun does not need what it started from
    again = QueryModelRun(Recipe.of_run(tmp_path / "run"), tmp_path / "run")
    again.restore()
    assert again.step == 1
    assert not changed(run.model.state_dict(), again)


def test_an_untrained_start_gives_the_mean_of_the_sources(htdemucs: Path, tmp_path: Path) -> None:
    recipe = Recipe.read(written(tmp_path, start={"htdemucs": str(htdemucs)}, model={"spaces": SPACES}))
    run = QueryModelRun(recipe, tmp_path)
    run.restore()
    mixture = a_batch().mixture
    separator = build_model(read_checkpoint(htdemucs), torch.device("cpu"), torch.float32)
    model = run.model.eval()
    with torch.inference_mode():
        target, _ = model(mixture, model.conditions(a_batch().queries[:, None], "toy-1"))
        expected = separator(mixture).mean(1)
    assert (target[:, 0] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_bfloat16_steps_on_an_htdemucs_start_are_finite(htdemucs: Path, tmp_path: Path) -> None:
    given = written(tmp_path, start={"htdemucs": str(htdemucs)}, model={"spaces": SPACES}, bfloat16=True)
    run = QueryModelRun(Recipe.read(given), tmp_path)
    run.restore()
    parts = [run.train_step(a_batch()) for _ in range(2)]
    assert all(torch.isfinite(value).all() for part in parts for value in part.values())


def test_stages_train_what_hears_the_query_first(htdemucs: Path, tmp_path: Path) -> None:
    given = written(
        tmp_path, start={"htdemucs": str(htdemucs)}, model={"spaces": SPACES}, conditioning_steps=2, warmup_steps=1
    )
    run = QueryModelRun(Recipe.read(given), tmp_path)
    run.restore()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train_step(a_batch())
    first = changed(before, run)
    assert first and not any(name.startswith("core.") for name in first)
    assert {name.split(".")[0] for name in first} >= {"film_inputs", "film_skips", "film_tokens", "mix"}
    run.train_step(a_batch())
    run.save()
    resumed = QueryModelRun(run.recipe, tmp_path)  # the second stage is reached in another process
    resumed.restore()
    for each in (run, resumed):
        each.train_step(a_batch())
        assert any(name.startswith("core.demucs.encoder") for name in changed(before, each))
    assert not changed(run.model.state_dict(), resumed)


def test_a_start_from_film_weights_is_that_model(tmp_path: Path) -> None:
    torch.manual_seed(5)
    donor = FilmHTDemucs(MASK)
    torch.nn.init.normal_(donor.film_skips[0].scale.weight, std=0.1)
    path = save_model(tmp_path / "donor.safetensors", donor, torch.float32)
    recipe = Recipe.read(written(tmp_path, start={"film": str(path)}))
    assert recipe.model == MASK
    run = QueryModelRun(recipe, tmp_path)
    run.restore()
    assert not changed(donor.state_dict(), run)


def test_a_start_from_film_weights_can_learn_another_space(tmp_path: Path) -> None:
    donor = FilmHTDemucs(MASK)
    path = save_model(tmp_path / "donor.safetensors", donor, torch.float32)
    given = written(tmp_path, start={"film": str(path)}, model={"spaces": {"other-space": 24}})
    run = QueryModelRun(Recipe.read(given), tmp_path)
    run.restore()
    state = run.model.state_dict()
    for name, value in donor.state_dict().items():
        if not name.startswith("projectors."):
            assert torch.equal(state[name], value), name
    assert state["projectors.each.0.wanted.0.weight"].shape[1] == 24


def test_a_run_does_not_begin_with_weights_of_another_shape_than_it_read(tmp_path: Path) -> None:
    path = save_model(tmp_path / "donor.safetensors", FilmHTDemucs(MASK))
    recipe = Recipe.of_run(tmp_path / "run", written(tmp_path, start={"film": str(path)}))
    save_model(path, FilmHTDemucs(MASK.model_copy(update={"condition_channels": 8})))
    with pytest.raises(OptionError, match="another shape than the recipe's"):
        QueryModelRun(recipe, tmp_path / "run").restore()


def test_starts_that_make_no_sense_are_refused(htdemucs: Path, tmp_path: Path) -> None:
    film = save_model(tmp_path / "film.safetensors", FilmHTDemucs(MASK))
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"start": {"htdemucs": str(htdemucs), "film": str(film)}}, OptionError, "not from both"),
        ({"start": {"htdemucs": str(htdemucs)}}, OptionError, "needs model.spaces"),
        ({"start": {"htdemucs": str(htdemucs)}, "model": {"spaces": SPACES, "output": "mask"}}, OptionError, "output"),
        ({"start": {"film": str(film)}, "model": {"condition_channels": 8}}, OptionError, "condition_channels"),
        ({"start": {"film": str(film)}, "model": {"demucs": {"t_layers": 3}}}, OptionError, "demucs. Leave that out; only spaces"),
        ({"start": {"htdemucs": str(htdemucs)}, "model": {"demucs": {"t_layers": 3}}}, OptionError, "demucs"),
        ({"start": {"film": str(tmp_path / "none")}}, WeightsError, "cannot be read"),
        ({"start": {"htdemucs": str(film)}, "model": {"spaces": SPACES}}, WeightsError, "not for"),
        ({"start": {"film": str(film)}, "model": {"demucs": 5}}, OptionError, "demucs"),
        ({"start": {"weights": "x"}}, OptionError, "weights"),
        ({"model": {"demucs": SHAPE, "output": "mask", "spaces": {"a": 1, "b": 2}}}, OptionError, "one embedding"),
    ]  # fmt: skip
    for fields, error, said in cases:
        with pytest.raises(error, match=said):
            Recipe.of_run(tmp_path / "run", written(tmp_path, **fields))
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"model": 3}', b"\xff", b'{"start": {"film": 1}}', None])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: bytes | None) -> None:
    given = tmp_path / "recipe.json"
    given.mkdir() if text is None else given.write_bytes(text)
    with pytest.raises(OptionError, match="cannot be read as a recipe"):
        Recipe.of_run(tmp_path / "run", given)
    assert not (tmp_path / "run").exists()


def test_recipes_of_older_runs_stay_readable(tmp_path: Path) -> None:
    """What a run wrote before starts, stages and the spectral loss existed means the same as ever."""
    old = RECIPE.model_dump()
    del old["start"], old["conditioning_steps"], old["losses"]["spectral"], old["losses"]["spectral_windows"]
    (tmp_path / "recipe.json").write_text(json.dumps(old | {"teacher": None}))
    assert Recipe.of_run(tmp_path) == RECIPE
    (tmp_path / "recipe.json").write_text(json.dumps(old | {"teacher": {"film": "large.safetensors"}}))
    with pytest.raises(OptionError, match="teacher"):
        Recipe.of_run(tmp_path)


def test_every_recipe_of_the_package_can_be_read(tmp_path: Path) -> None:
    """Those that go on from a run's weights are read with the embedded ones in their place."""
    recipes = sorted((Path(str(resources.files("unisep_train"))) / "recipes").glob("*.json"))
    embedded = Path(str(resources.files("unisep_film"))) / "weights" / "unisep_film.safetensors"
    assert len(recipes) == 7
    for path in recipes:
        written = json.loads(path.read_text())
        if "start" in written:
            written["start"] = {name: str(embedded) for name in written["start"]}
        (tmp_path / path.name).write_text(json.dumps(written))
        recipe = Recipe.read(tmp_path / path.name)
        assert recipe.space == "clap-mini-1"
        assert (recipe.start == Start()) == (path.stem in ("ablation", "causal", "embedded", "embedded-anew"))


def test_the_recipe_of_one_run_makes_the_embedded_model_with_film_in_the_layers() -> None:
    recipe = Recipe.read(Path(str(resources.files("unisep_train"))) / "recipes" / "embedded-anew.json")
    weights = Path(str(resources.files("unisep_film"))) / "weights" / "unisep_film.safetensors"
    assert recipe.model == load_model(weights).config.model_copy(update={"calibration": {}, "film": "layers"})
    assert recipe.start == Start()


# A causal model

CAUSAL: dict[str, Any] = {
    "causal": True, "spaces": SPACES, "sample_rate_hz": RATE_HZ, "condition_channels": 16, "features": 8, "n_first": 1,
    "n_after": 1, "hidden_time": 8, "hidden_bands": 8, "hidden_mask": 8,
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_causal_model_learns_by_the_same_trainer(tmp_path: Path, optimizer: str) -> None:
    recipe = Recipe.read(written(tmp_path, model=CAUSAL, optimizer=optimizer, warmup_steps=1))
    assert isinstance(recipe.model, CausalConfig) and recipe == Recipe.model_validate_json(recipe.model_dump_json())
    recipe.kept_in(tmp_path / "run")
    run = QueryModelRun(Recipe.of_run(tmp_path / "run"), tmp_path / "run")
    run.restore()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for _ in range(2):
        figures = run.train_step(a_batch())
        assert all(torch.isfinite(value).all() for value in figures.values())
    still = set(before) - changed(before, run)
    assert still <= {name for name in before if ".bias_hh" in name}
    run.save()
    model = QueryModelRun.saved(tmp_path / "run").averaged()
    read = read_model(save_model(tmp_path / "causal.safetensors", model, torch.float32))
    conditions = model.conditions(a_batch().queries[:, None], "toy-1")
    assert torch.equal(read(a_batch().mixture, conditions)[0], model(a_batch().mixture, conditions)[0])


def test_a_causal_model_goes_on_from_weights_of_its_own(tmp_path: Path) -> None:
    donor = QueryModelRun(Recipe.read(written(tmp_path, model=CAUSAL)), tmp_path / "donor")
    weights = save_model(tmp_path / "causal.safetensors", donor.model, torch.float32)
    recipe = Recipe.read(written(tmp_path, start={"film": str(weights)}, seed=7))
    assert isinstance(recipe.model, CausalConfig)
    run = QueryModelRun(recipe, tmp_path / "run")
    assert changed(donor.model.state_dict(), run)
    run.begin()
    assert not changed(donor.model.state_dict(), run)
    with pytest.raises((ValueError, OptionError, WeightsError)):
        Recipe.read(written(tmp_path, model=CAUSAL, start={"htdemucs": str(weights)}))


# A run


def test_a_run_keeps_its_recipe(tmp_path: Path) -> None:
    given = tmp_path / "recipe.json"
    given.write_text(RECIPE.model_dump_json())
    assert Recipe.of_run(tmp_path / "run", given) == RECIPE
    changed = RECIPE.model_copy(update={"seed": 5, "n_steps": 9})
    given.write_text(changed.model_dump_json())
    assert Recipe.of_run(tmp_path / "run", given) == changed  # nothing has been learnt yet
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"")
    assert Recipe.of_run(tmp_path / "run", given) == Recipe.of_run(tmp_path / "run") == changed
    given.write_text(RECIPE.model_dump_json())
    with pytest.raises(OptionError, match=r"differs in (n_steps, seed|seed, n_steps)\. Leave out --config"):
        Recipe.of_run(tmp_path / "run", given)
    with pytest.raises(OptionError, match="--config"):
        Recipe.of_run(tmp_path / "other")


def test_numbers_too_small_for_a_float_are_zero_in_a_run_alone(tmp_path: Path) -> None:
    """Gradients of what reaches nothing yet are such numbers; a CPU takes ten times as long over them."""
    (tmp_path / "recipe.json").write_text(RECIPE.model_dump_json())
    small = torch.full((64,), 1e-38)
    with begun(Recipe, tmp_path / "run", tmp_path / "recipe.json", "cpu", torch.get_num_threads()):
        assert (small * 0.1).count_nonzero() == 0
    with pytest.raises(OptionError), begun(Recipe, tmp_path / "none", None, "cpu", torch.get_num_threads()):
        pass
    assert (small * 0.1).count_nonzero() == 64


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = QueryModelRun(RECIPE, tmp_path)
    run.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def broken(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_schedule_before_the_fall_does_not_depend_on_the_length() -> None:
    short, long = RECIPE.model_copy(update={"n_steps": 100}), RECIPE.model_copy(update={"n_steps": 1000})
    assert [short.learning_rate_at(s) for s in range(60)] == [long.learning_rate_at(s) for s in range(60)]
    assert short.learning_rate_at(0) == RECIPE.learning_rate / 2
    assert 0 < short.learning_rate_at(99) < 0.05 * RECIPE.learning_rate


@pytest.mark.parametrize("fields", [{}, {"optimizer": "muon", "losses": LossWeights(wordings=1.0)}])
def test_a_resumed_run_equals_an_unbroken_one(
    store: str, encoder: TextAudioEncoder, tmp_path: Path, fields: dict[str, Any]
) -> None:
    recipe = RECIPE.model_copy(update=fields)
    whole = train(store, QueryModelRun(recipe, fresh(tmp_path / "whole", recipe)), encoder, 600)
    folder = fresh(tmp_path / "parts", recipe)
    first = train(store, QueryModelRun(recipe, folder), encoder, 0)
    assert 0 < first.step < RECIPE.n_steps
    second = train(store, QueryModelRun(recipe, folder), encoder, 600)
    assert whole.step == second.step == RECIPE.n_steps
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_training_lowers_the_loss(store: str, encoder: TextAudioEncoder, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(
        update={"n_steps": 60, "learning_rate": 5e-3, "absent_from": 60, "log_every": 20, "save_every": 60}
    )
    folder = fresh(tmp_path / "run", recipe)
    train(store, QueryModelRun(recipe, folder), encoder, 600)
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.05
    saved = QueryModelRun.saved(folder)
    assert (saved.recipe, saved.step) == (recipe, 60)
    item = ValidationItem(np.ones((2, 800), np.float32), np.ones((2, 800), np.float32), "x", "song", "s", "song", None)
    assert np.isfinite(measure_item(saved.averaged(), item, normalize(torch.randn(16), dim=-1)).sdr_db)


def test_wordings_learn_to_mean_their_names_and_the_names_stay(
    store: str, encoder: TextAudioEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = [concepts()[name] for name in ("drums", "piano", "vocals", "rain")]
    few = {one.name: replace(one, wordings=one.wordings[:12]) for one in four}
    monkeypatch.setattr("unisep_train.tasks.query_model.concepts", lambda: few)
    apart = {}
    for weight in (0.0, 10.0):
        recipe = RECIPE.model_copy(
            update={"n_steps": 40, "learning_rate": 2e-3, "losses": LossWeights(wordings=weight), "save_every": 40}
        )
        run = train(store, QueryModelRun(recipe, fresh(tmp_path / f"{weight}", recipe)), encoder, 600)
        texts = [text for one in few.values() for text in one.wordings[:2]]
        conditions = run.model.conditions(encoder.texts(texts), recipe.space).detach()
        conditions = normalize(conditions, dim=-1).unflatten(0, (4, 2))
        names, others = conditions.unbind(1)
        apart[weight] = float((1 - (names * others).sum(-1)).mean()), float(1 - (names[0] * names[1:]).sum(-1).mean())
    assert apart[10.0][0] < 0.8 * apart[0.0][0]
    assert apart[10.0][1] > 0.1
    assert "wordings" in json.loads((tmp_path / "10.0" / "log.jsonl").read_text().splitlines()[0])


# Several processes


def test_shares_make_up_the_batch(store: str, encoder: TextAudioEncoder) -> None:
    def first(items: range | None) -> QueryBatch:
        steps = range(4, 5)
        return next(iter(QueryStream(store, RECIPE.mix, 0, steps, items, queries=RECIPE.queries, encoder=encoder)))

    whole, shares = first(None), [first(Place(rank, 2).share(4)) for rank in range(2)]
    assert torch.equal(whole.mixture, torch.cat([share.mixture for share in shares]))
    assert torch.equal(whole.queries, torch.cat([share.queries for share in shares]))
    assert whole.names == [name for share in shares for name in share.names]
    with pytest.raises(OptionError, match="multiple of 3"):
        Place(0, 3).share(4)


def test_queries_with_noise_differ_between_shares_only(store: str, encoder: TextAudioEncoder) -> None:
    noisy = QueryMix(text_share=1.0, noise=0.5)
    streams = [
        QueryStream(store, RECIPE.mix, items=items, queries=noisy, encoder=encoder, absent_from=9)
        for items in (range(4), range(0, 2), range(2, 4), range(2, 4))
    ]
    whole, one, two, again = (next(iter(stream)).queries for stream in streams)
    assert not torch.allclose(whole[2:], two) and torch.equal(two, again)
    assert not torch.allclose(one, two)


def test_however_many_workers_mix_the_run_is_the_same(store: str, encoder: TextAudioEncoder, tmp_path: Path) -> None:
    n_threads, recipe, runs = torch.get_num_threads(), RECIPE.model_copy(update={"n_steps": 3}), []
    torch.set_num_threads(2)
    try:
        for n_workers in (0, 1, 2):
            folder = fresh(tmp_path / str(n_workers), recipe)
            runs.append(train(store, QueryModelRun(recipe, folder), encoder, n_workers=n_workers))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)
    assert not any(changed(runs[0].model.state_dict(), run) for run in runs[1:])


DRIVER = """
import math, sys
from pathlib import Path
import torch
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.tasks.query_model import QueryModelRun, Recipe, train
from unisep_train.trainer.distributed import joined

store, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
with joined("cpu") as place:
    for name, stop_after_seconds in (("two", math.inf), ("parts", 0.0), ("parts", math.inf)):
        recipe = Recipe.of_run(folder / name)
        encoder = TextAudioEncoder.named("hash_encoder:load", None, recipe.model.spaces)
        run = train(store, QueryModelRun(recipe, folder / name, place), encoder, stop_after_seconds)
        torch.save(run.model.state_dict(), folder / f"{name}-rank{place.rank}.pt")
"""


def torchrun(n_processes: int, script: Path, *arguments: str) -> None:
    """Run a script as torchrun does, with so many processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(n_processes),
        "--master-addr", "127.0.0.1", "--master-port", str(port), str(script), *arguments,
    ]  # fmt: skip
    path = os.pathsep.join([str(script.parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_as_one_would_and_resume_exactly(
    store: str, encoder_folder: Path, encoder: TextAudioEncoder, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"n_steps": 4, "conditioning_steps": 2, "save_every": 1})
    for name in ("alone", "two", "parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(recipe.model_dump_json())
    train(store, QueryModelRun(recipe, tmp_path / "alone"), encoder, 600)
    (encoder_folder / "driver.py").write_text(DRIVER)
    torchrun(2, encoder_folder / "driver.py", store, str(tmp_path))
    logs = [plot.read_log(tmp_path / name) for name in ("alone", "two", "parts")]
    for one, two in zip(logs[0], logs[1], strict=True):
        for key in ("step", "loss", "norm", "presence", "si_sdr_gain_db"):
            assert one[key] == pytest.approx(two[key], rel=2e-2, abs=2e-3), key
    states = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*-rank*.pt")}
    assert set(states) == {"two-rank0", "two-rank1", "parts-rank0", "parts-rank1"}
    for name, value in states["two-rank0"].items():
        assert all(torch.equal(value, other[name]) for other in states.values()), name
    whole, parts = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("two", "parts"))
    assert whole["step"] == parts["step"] == 4
    assert all(torch.equal(value, parts["average"][name]) for name, value in whole["average"].items())


def test_the_command_trains_with_a_plugins_encoder_and_goes_on(
    store: str, encoder: TextAudioEncoder, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given.json"
    given.write_text(RECIPE.model_copy(update={"n_steps": 2}).model_dump_json())
    words = ["train", store, tmp_path / "run", "--encoder", "hash_encoder:load", "--device", "cpu", "--threads", "1"]
    assert not command(*words, "--config", given, "--stop-after", "0")
    assert not command(*words)
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not command(*words)
    assert "has done all 2 steps" in capsys.readouterr().err


def test_a_store_at_another_rate_is_refused(store: str, encoder: TextAudioEncoder, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"model": MASK.model_copy(update={"demucs": SHAPE | {"samplerate": 16000}})})
    with pytest.raises(OptionError, match=f"store is at {RATE_HZ} Hz, the model at 16000"):
        train(store, QueryModelRun(recipe, tmp_path), encoder, 600)


def test_a_recipe_mixes_as_many_channels_as_its_model_hears() -> None:
    with pytest.raises(ValueError, match=r"mix.n_channels is 1, and the model hears 2"):
        Recipe.model_validate(RECIPE.model_dump() | {"mix": {"n_channels": 1}})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(OptionError, match="no GPU of its own: torch sees 0"), joined("cuda"):
        pass


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as place:
        assert (place.rank, place.n_ranks, place.is_first, place.agreed(True)) == (0, 1, True, True)
        assert list(place.share(3)) == [0, 1, 2]


# The encoder and the plot


def test_an_encoder_of_another_space_is_refused(encoder: TextAudioEncoder) -> None:
    clips = encoder.clips([np.ones(800, np.float32)], RATE_HZ)
    assert clips.shape == (1, 16)
    with pytest.raises(OptionError, match="the space 'toy-1'"):
        load_encoder("hash_encoder:load", None, {"toy-2": 16})
    with pytest.raises(OptionError, match="the space 'toy-1'"):
        load_encoder("hash_encoder:load", None, {"toy-1": 8})
    for nowhere in ("hash_encoder:lod", "no_such_module:load", "hash_encoder"):
        with pytest.raises(OptionError, match="No encoder at"):
            load_encoder(nowhere, None, SPACES)


def test_a_log_is_read_past_resumes_and_crashes(tmp_path: Path) -> None:
    rows = [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 6, "lo')
    assert plot.read_log(tmp_path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}]
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(DatasetError, match="no steps"):
        plot.read_log(tmp_path)


def test_the_plot_shows_several_runs(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for run, loss in (("first", 2.0), ("second", 1.0)):
        (tmp_path / run).mkdir()
        lines = [{"step": step, "loss": loss / step, f"only {run}": step} for step in (25, 50, 75)]
        (tmp_path / run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "progress.png"
    assert not command("plot", tmp_path / "first", tmp_path / "second", "--out", out)
    assert out.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out.strip() == str(out)
    assert "cannot be read" in command("plot", tmp_path / "none")


def test_the_full_size_recipe_in_the_docs_is_a_recipe(htdemucs: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = (each for each in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if '"start"' in each)
    given = tmp_path / "full.json"
    given.write_text(json.dumps(json.loads(block) | {"start": {"htdemucs": str(htdemucs)}}))
    recipe = Recipe.read(given)
    assert recipe.mix.batch % 8 == 0 and 0 < recipe.conditioning_steps < recipe.n_steps
    # 7.8 s is the segment of the published weights
    assert recipe.mix.segment_seconds == 7.8


def test_the_command_says_what_is_wrong_in_a_sentence(store: str, tmp_path: Path, command: Command) -> None:
    words = ["train", store, tmp_path / "run", "--device", "cpu", "--threads", "1", "--config"]
    given = written(tmp_path, start={"film": str(tmp_path / "nowhere.safetensors")})
    assert "nowhere.safetensors cannot be read" in command(*words, given)
    given = tmp_path / "other.json"
    given.write_text(RECIPE.model_dump_json())
    assert "the recipe's model listens to" in command(*words, given)  # not from a process that mixes
    given.write_text(json.dumps({**RECIPE.model_dump(mode="json"), "mix": {"batch": 0}}))
    assert "mix.batch: Input should be greater than 0" in command(*words, given)
