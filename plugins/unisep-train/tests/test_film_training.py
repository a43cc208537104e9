"""Training: the losses say what they claim, a resumed run equals an unbroken one, and it learns."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.nn.functional import normalize
from unisep_film.config import FilmConfig
from unisep_train.data import corpus
from unisep_train.measuring.measure import averaged_model, by_class, by_kind, measure_item, presence_auc, sdr_db
from unisep_train.measuring.validation import ValidationItem
from unisep_train.mixing.examples import MixConfig
from unisep_train.mixing.queries import QueryMix, TextAudioEncoder
from unisep_train.tasks.recipe import Recipe, load_recipe
from unisep_train.tasks.run import Run
from unisep_train.tasks.train import train
from unisep_train.trainer.losses import LossWeights, separation_loss, si_sdr_db

from unisep import Audio, QueryEncoder
from unisep.errors import OptionError

RATE_HZ = 8000
HZ = {"kick drum": 100, "synth bass": 220, "lead vocal": 700, "synthesizer": 1300}
RECIPE = Recipe(
    model=FilmConfig(
        demucs={"channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
                "t_layer_scale_init": 1.0, "use_train_segment": False, "segment": "1"},
        output="mask", bands=((512, 1), (512, 2)), spaces={"toy-1": 16}, condition_channels=16,
    ),
    mix=MixConfig(segment_seconds=0.5, batch=4, example_seconds=0.5, absent_probability=0.3),
    queries=QueryMix(audio_from=2), n_steps=6, warmup_steps=2, absent_from=3, bfloat16=False, log_every=2, save_every=2,
)  # fmt: skip


class HashEncoder(QueryEncoder):
    """Gives every text a random vector of its own, and clips vectors of their spectra."""

    space = "toy-1"
    dim = 16

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        rows = [torch.randn(16, generator=torch.Generator().manual_seed(zlib.crc32(t.encode()))) for t in texts]
        return normalize(torch.stack(rows), dim=-1)

    def encode_audio(self, clips: Sequence[Audio]) -> torch.Tensor:
        rows = [
            torch.from_numpy(np.abs(np.fft.rfft(clip.samples[0]))[:512].reshape(16, 32).sum(1) + 1e-6) for clip in clips
        ]
        return normalize(torch.stack(rows).float(), dim=-1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stems")
    time = np.arange(3 * RATE_HZ) / RATE_HZ
    rng = np.random.default_rng(0)
    lines = []
    for song in ("one", "two"):
        for label, frequency in HZ.items():
            path = f"{song}-{label}.wav"
            noise = 0.02 * rng.standard_normal(time.size)
            soundfile.write(folder / path, 0.3 * np.sin(2 * np.pi * frequency * time) + noise, RATE_HZ)
            stem = {"kick drum": "drums", "synth bass": "bass", "lead vocal": "vocals"}.get(label, "other")
            lines.append({"path": path, "kind": "song", "song": song, "stem": label, "label": label,
                          "four_stem": stem})  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path_factory.mktemp("store")
    corpus.build(folder, out, RATE_HZ)
    return str(out)


def fresh(folder: Path, recipe: Recipe = RECIPE) -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    return folder


def test_si_sdr_is_the_ratio_after_projection() -> None:
    target = torch.tensor([1.0, 0.0, 0.0])
    estimate = torch.tensor([2.0, 0.2, 0.0])
    assert si_sdr_db(estimate, target).item() == pytest.approx(20.0, abs=1e-3)
    assert si_sdr_db(7 * estimate, target).item() == pytest.approx(20.0, abs=1e-3)
    assert si_sdr_db(target, target, ceiling_db=30).item() == pytest.approx(30.0, abs=1e-2)


def test_sdr_of_silence_is_0_db() -> None:
    target = torch.randn(2, 100)
    assert sdr_db(torch.zeros(2, 100), target) == pytest.approx(0.0, abs=1e-5)
    assert sdr_db(0.9 * target, target) == pytest.approx(20.0, abs=1e-3)


def test_the_loss_prefers_the_target_and_silence_where_absent() -> None:
    mixture, target = torch.randn(1, 2, 400), torch.randn(1, 2, 400)
    logits, weights = torch.zeros(1), LossWeights()

    def loss(estimate: torch.Tensor, present: float, wanted: torch.Tensor) -> float:
        value, _ = separation_loss(estimate, wanted, mixture, logits, torch.tensor([present]), weights)
        return value.item()

    assert loss(target, 1.0, target) < loss(0.5 * target, 1.0, target) < loss(mixture, 1.0, target)
    silence = torch.zeros_like(target)
    assert loss(0.01 * mixture, 0.0, silence) < loss(mixture, 0.0, silence)


def test_gradients_are_finite_for_silence_and_perfection() -> None:
    for estimate, target in ((torch.zeros(1, 1, 9), torch.ones(1, 1, 9)), (torch.ones(1, 1, 9), torch.ones(1, 1, 9))):
        leaf = estimate.clone().requires_grad_()
        loss, _ = separation_loss(leaf, target, torch.ones(1, 1, 9), torch.zeros(1), torch.ones(1), LossWeights())
        loss.backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


def test_the_schedule_before_the_fall_does_not_depend_on_the_length() -> None:
    short, long = RECIPE.model_copy(update={"n_steps": 100}), RECIPE.model_copy(update={"n_steps": 1000})
    assert [short.learning_rate_at(s) for s in range(60)] == [long.learning_rate_at(s) for s in range(60)]
    assert short.learning_rate_at(0) == RECIPE.learning_rate / 2
    assert 0 < short.learning_rate_at(99) < 0.05 * RECIPE.learning_rate


def test_a_resumed_run_equals_an_unbroken_one(store: str, tmp_path: Path) -> None:
    whole = train(store, Run(RECIPE, fresh(tmp_path / "whole")), TextAudioEncoder(HashEncoder), 600)
    folder = fresh(tmp_path / "parts")
    first = train(store, Run(RECIPE, folder), TextAudioEncoder(HashEncoder), 0)
    assert 0 < first.step < RECIPE.n_steps
    second = train(store, Run(RECIPE, folder), TextAudioEncoder(HashEncoder), 600)
    assert whole.step == second.step == RECIPE.n_steps
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_training_lowers_the_loss(store: str, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(
        update={"n_steps": 60, "learning_rate": 5e-3, "absent_from": 60, "log_every": 20, "save_every": 60}
    )
    folder = fresh(tmp_path / "run", recipe)
    train(store, Run(recipe, folder), TextAudioEncoder(HashEncoder), 600)
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.05
    model, saved, n_steps = averaged_model(folder)
    assert (saved, n_steps) == (recipe, 60)
    item = ValidationItem(
        np.ones((2, 800), np.float32), np.ones((2, 800), np.float32), "x", "x", "song", "s", "song", 0.0, None
    )
    assert np.isfinite(measure_item(model, item, normalize(torch.randn(16), dim=-1)).sdr_db)


def test_a_run_keeps_its_recipe(tmp_path: Path) -> None:
    given = tmp_path / "recipe.json"
    given.write_text(RECIPE.model_dump_json())
    assert load_recipe(tmp_path / "run", given) == RECIPE
    changed = RECIPE.model_copy(update={"seed": 5, "n_steps": 9})
    given.write_text(changed.model_dump_json())
    assert load_recipe(tmp_path / "run", given) == changed  # nothing has been learnt yet
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"")
    assert load_recipe(tmp_path / "run", given) == load_recipe(tmp_path / "run", None) == changed
    given.write_text(RECIPE.model_dump_json())
    with pytest.raises(OptionError, match=r"differs in (n_steps, seed|seed, n_steps)\. Leave out --config"):
        load_recipe(tmp_path / "run", given)
    with pytest.raises(OptionError, match="--config"):
        load_recipe(tmp_path / "other", None)


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(RECIPE, tmp_path)
    run.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def broken(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_figures_are_grouped_and_presence_is_ranked() -> None:
    from unisep_train.measuring.measure import Figures

    rows = [
        Figures("drums", "song", "song", 3.0, 2.0, 0.0, -3.0, 0.9),
        Figures("drums", "song", "song", 5.0, 4.0, 0.0, -3.0, 0.4),
        Figures("violin", "absent", "song", 0.0, 0.0, 0.0, -40.0, 0.5),
    ]
    rows.append(Figures("oboe", "single", "notes", 1.0, 2.0, 0.0, -3.0, 0.9))
    assert by_kind(rows)["all: stems of songs"]["si_sdr_gain_db"] == 4.0
    assert by_kind(rows)["all: instruments"]["n_windows"] == 1
    table = by_class(rows[:3])
    assert table["song: drums"]["si_sdr_gain_db"] == 4.0
    assert table["absent"] == {"n_windows": 1, "level_db": -40.0, "presence": 0.5}
    assert presence_auc(rows[:3]) == 0.5
    assert presence_auc(rows[:2]) is None
