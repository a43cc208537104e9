"""Scenes, questions about them, and a presence head that is taught by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from unisep_film.checkpoints import load_model, save_model
from unisep_film.config import FilmConfig
from unisep_film.model import FilmHTDemucs
from unisep_film.presence import Presence
from unisep_train.data.catalogue import Catalog
from unisep_train.data.store import Store
from unisep_train.mixing.queries import TextAudioEncoder
from unisep_train.mixing.scenes import Questions, Scene, SceneMixer, in_words, nonsense, tags_of
from unisep_train.tasks.presence import NAMELESS, Heard, fresh_odds, set_gate, teach, weights_of

from unisep.query.concepts import concepts, named

RATE_HZ = 8000
CONFIG = FilmConfig(
    demucs={"channels": 8, "dconv_mode": 0, "t_layers": 1, "t_heads": 2, "nfft": 2048, "samplerate": RATE_HZ,
            "use_train_segment": False, "segment": "1"},
    output="mask", spaces={"toy-1": 16}, condition_channels=16, gated=True,
)  # fmt: skip


def scene(*, is_song: bool = True, **levels: float) -> Scene:
    """Noises of these labels, at these levels; a level of 0 is silence."""
    rng = np.random.default_rng(0)
    parts = {
        label.replace("_", " "): (gain * rng.standard_normal((2, 4000))).astype(np.float32)
        for label, gain in levels.items()
    }
    return Scene(is_song, parts, {label: tags_of(label) for label in parts})


def test_what_is_loud_is_present_what_is_quiet_neither_and_what_is_silent_silent() -> None:
    of = scene(lead_vocal=1.0, piano=0.6, violin=0.1, flute=0.0)
    assert {"lead vocal", "piano"} & set(of.present()) and "violin" not in of.present()
    assert "flute" in of.silent() and "violin" not in of.silent()
    assert not {"lead vocal", "vocals", "piano", "violin", "flute"} & set(of.absent()) and "dog bark" in of.absent()
    assert np.array_equal(of.target("vocals"), of.parts["lead vocal"]) and not of.target("flute").any()
    assert of.level_db("piano") == pytest.approx(20 * np.log10(0.6 / np.hypot(1.0, 0.1)), abs=0.3)


def test_what_a_label_leaves_open_is_not_asked_for() -> None:
    """A drum loop may hold a kick drum, and what is `other` may be anything but what has a stem of its own."""
    of = scene(drum_loop=1.0, other=1.0, bass_guitar=1.0)
    assert "kick drum" not in of.absent() and "violin" not in of.absent() and "vocals" in of.absent()


def test_scenes_of_a_store_say_what_they_hold_and_questions_follow(store: str, encoder: TextAudioEncoder) -> None:
    mixer = SceneMixer(Catalog(Store(store)), RATE_HZ)
    questions = Questions(encoder.encoder, mixer.clip, RATE_HZ, {"present": 2, "silent": 1, "absent": 1, "nonsense": 1})
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(12):
        drawn = mixer.scene(rng)
        assert drawn.mixture.shape == (2, RATE_HZ) and drawn.mixture.any()
        for question in questions.of(drawn, rng, iter(["asdfg"])):
            kinds.add(question.kind)
            assert question.is_present == (drawn.level_db(question.name) >= -12.0)
            assert question.vector.shape == (16,) and float(question.vector.norm()) == pytest.approx(1.0, abs=1e-5)
    assert {"nonsense", "present, example", "present, known", "absent, name"} <= kinds
    assert not any("held out" in kind for kind in kinds)
    assert mixer.clip("church bells", rng) is None


def test_wordings_that_are_held_out_are_asked_only_where_that_is_meant() -> None:
    concept, rng = concepts()["vocals"], np.random.default_rng(0)
    asked = [in_words(concept, "vocals", rng, held_out=False) for _ in range(40)]
    assert {how for how, _ in asked} == {"name", "known"} and not {text for _, text in asked} & set(concept.held_out)
    assert {how for how, _ in (in_words(concept, "vocals", rng) for _ in range(40))} == {"name", "known", "held out"}


def test_nonsense_names_nothing_and_parts_share_no_word() -> None:
    pieces = [f"word{letter}{other}" for letter in "abcdefgh" for other in "abcdefgh"] + ["piano", "guitar"]
    pieces = [piece.translate(str.maketrans("0123", "efgh")) for piece in pieces]
    parts = [nonsense(pieces, part, n=60) for part in (0, 1)]
    words = [{word for text in texts for word in text.split() if word.startswith("word")} for texts in parts]
    assert words[0] and words[1] and not words[0] & words[1]
    assert all(named(text) is None for texts in parts for text in texts)


def lesson(n: int, seed: int) -> tuple[Heard, torch.Tensor]:
    """Two kinds of sound, each with a band of its own; what is isolated for one that is not there is the other, as loud."""
    generator = torch.Generator().manual_seed(seed)
    kind, there = (torch.randint(2, (n,), generator=generator) for _ in range(2))
    powers = torch.full((n, 12, 48), -6.0)
    heard_kind = torch.where(there > 0, kind, 1 - kind)
    for row, at in enumerate(heard_kind.tolist()):
        powers[row, :, 8 + 20 * at : 14 + 20 * at] = torch.randn(12, 6, generator=generator) * 0.3
    mixture = torch.randn(n, 12, 48, generator=generator) * 0.3
    conditions = torch.nn.functional.one_hot(kind, 16).float()
    products = torch.stack([torch.ones(n), there.float(), there.float()], dim=1)
    level = torch.zeros(n) - 0.3
    return Heard(mixture, torch.arange(n), powers, level, conditions, kind, there.float(), products), conditions


def test_a_head_is_taught_to_tell_what_is_there_where_the_level_says_nothing() -> None:
    torch.manual_seed(0)
    head = teach(Presence(CONFIG.separator, 16), *lesson(600, seed=0))
    heard, conditions = lesson(200, seed=1)
    with torch.no_grad():
        odds = head.log_odds(heard.mixture, heard.targets[:, None], heard.level[:, None], conditions[:, None])[:, 0]
    assert float(((odds > 0) == (heard.present > 0.5)).float().mean()) > 0.95


def test_where_bands_say_nothing_the_level_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, conditions = lesson(300, seed=0)
    told_by_level = heard._replace(
        targets=heard.targets[torch.randperm(300, generator=torch.Generator().manual_seed(2))],
        level=torch.where(heard.present > 0.5, -0.5, -1.5),
    )
    sizes = {}
    for cost in (0.0, 1.0):
        monkeypatch.setattr("unisep_train.tasks.presence.BANDS_COST", cost)
        torch.manual_seed(0)
        head = teach(Presence(CONFIG.separator, 16), told_by_level, conditions)
        silent = torch.full_like(heard.level[:, None], -6.0)
        with torch.no_grad():
            odds = head.log_odds(heard.mixture, heard.targets[:, None], silent, conditions[:, None])
            sizes[cost] = float((odds - head.of_level(silent)).abs().mean())
    assert sizes[1.0] < 0.5 * sizes[0.0], "the bands, which know nothing, say less"


def test_the_gate_lets_through_what_is_there_and_stops_what_is_not() -> None:
    torch.manual_seed(0)
    model, (heard, _) = FilmHTDemucs(CONFIG), lesson(300, seed=0)
    odds = torch.where(heard.present > 0.5, 2.0, -2.0) + 0.3 * torch.randn(300)
    set_gate(model, heard, odds)
    with torch.no_grad():
        gains = torch.sigmoid(model.gate(torch.tensor([[2.0], [-2.0]])))[:, 0].tolist()
    assert gains[0] > 0.95 and gains[1] < 0.05
    set_gate(model, heard, torch.randn(300))  # knows nothing
    with torch.no_grad():
        assert float(torch.sigmoid(model.gate(torch.tensor([[-1.5]])))) > 0.5


def test_a_name_that_is_always_there_weighs_little_and_both_halves_the_same() -> None:
    names = torch.tensor([7] * 90 + [8] * 90 + [9] * 20)
    present = torch.tensor([1.0] * 85 + [0.0] * 5 + [1.0] * 40 + [0.0] * 50 + [0.0] * 20)
    weights = weights_of(names, present)
    assert float(weights[present > 0.5].sum()) == pytest.approx(100) == float(weights[present < 0.5].sum())
    assert float(weights[0]) < 0.2 * float(weights[100]), "a guitar that is always there, and a sound that may be"
    assert float(weights[-1]) < 0.1 * float(weights[140]), "never there, and a sound that may be"
    nonsense_too = weights_of(torch.where(names == 9, NAMELESS, names), present)
    assert float(nonsense_too[-1]) == pytest.approx(float(nonsense_too[140])), "nonsense counts as what may be there"


def test_what_is_absent_was_mostly_present_elsewhere(store: str, encoder: TextAudioEncoder) -> None:
    mixer, share = SceneMixer(Catalog(Store(store)), RATE_HZ), {}
    n_asked = {"present": 2, "silent": 0, "absent": 2, "nonsense": 0}
    for likely in (False, True):
        rng = np.random.default_rng(0)
        questions = Questions(encoder.encoder, mixer.clip, RATE_HZ, n_asked, likely=likely)
        asked = [question for _ in range(15) for question in questions.of(mixer.scene(rng), rng, iter([]))]
        there = {question.name for question in asked if question.is_present}
        absent = [question.name for question in asked if question.kind.startswith("absent") and question.text]
        share[likely] = np.mean([name in there for name in absent])
    assert share[False] < 0.06 and share[True] > 0.12


def test_odds_for_the_gate_come_from_heads_that_did_not_hear_the_scene() -> None:
    torch.manual_seed(5)
    heard, conditions = lesson(300, seed=0)
    at_random = heard._replace(present=torch.randint(2, (300,)).float())
    odds = fresh_odds(at_random, conditions, lambda: Presence(CONFIG.separator, 16))
    assert float(((odds > 0) == (at_random.present > 0.5)).float().mean()) < 0.65


def test_the_command_teaches_the_head_alone_and_does_not_ask_twice(
    store: str, encoder: TextAudioEncoder, encoder_folder: Path, tmp_path: Path, command: Callable[..., str]
) -> None:
    torch.manual_seed(0)
    given, out, run = tmp_path / "given.safetensors", tmp_path / "out.safetensors", tmp_path / "run"
    save_model(given, FilmHTDemucs(CONFIG))
    words = ("presence", store, run, "--weights", given, "--out", out, "--scenes", 20, "--workers", 1,
             "--encoder", "hash_encoder:load")  # fmt: skip
    assert command(*words) == ""
    before, after = load_model(given).state_dict(), load_model(out).state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in changed} == {"presence", "gate"}
    (heard,) = run.glob("*.npz")
    written = heard.stat().st_mtime_ns
    assert command(*words) == "" and heard.stat().st_mtime_ns == written
    again = load_model(out).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in after.items())


def test_a_store_of_another_rate_is_refused(
    store: str, encoder: TextAudioEncoder, tmp_path: Path, command: Callable[..., str]
) -> None:
    given = tmp_path / "given.safetensors"
    shape = CONFIG.model_copy(update={"demucs": {**CONFIG.demucs, "samplerate": 16000}})
    save_model(given, FilmHTDemucs(shape))
    said = command("presence", store, tmp_path / "run", "--weights", given, "--out", tmp_path / "out.safetensors",
                   "--scenes", 20, "--workers", 1, "--encoder", "hash_encoder:load")  # fmt: skip
    assert "is at 8000 Hz" in said and not (tmp_path / "out.safetensors").exists()
    assert not list((tmp_path / "run").glob("*.npz"))
