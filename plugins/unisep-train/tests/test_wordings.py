from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from unisep_clap.mini import load_mini
from unisep_train.__main__ import main
from unisep_train.tasks import wordings

from unisep.query.concepts import Concept

FEW = {
    "vocals": Concept("vocals", "voice", ("vocals", "woman singing", "who sings here"), ("a lady who sings",)),
    "kick drum": Concept("kick drum", "drums", ("kick drum", "the low thump", "boom boom"), ("the big low drum",)),
}


def test_wordings_are_learnt_and_other_words_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordings, "concepts", lambda: FEW)
    monkeypatch.setattr(wordings, "N_KEPT", 30)
    monkeypatch.setattr(wordings.vocabulary, "TABLE", {"spellings": {"violin": [], "snare drum": []}})
    main(["wordings", "--out", str(tmp_path), "--n-steps", "12"])
    report = json.loads((tmp_path / "text.json").read_text())
    state = load_file(tmp_path / "text.safetensors")
    encoder = load_mini()
    assert state.keys() == encoder.text_tower.state_dict().keys()
    assert len((tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()) == len(encoder.tokens.pieces)
    assert report["held_out_wordings"]["n"] == 2
    assert report["kept"]["mean"] > 0.9
    before = wordings.embed(encoder.text_tower, encoder.tokens, ["boom boom", "kick drum"])
    encoder.text_tower.load_state_dict(state)
    after = wordings.embed(encoder.text_tower, encoder.tokens, ["boom boom"])
    assert float(after[0] @ before[1]) > float(before[0] @ before[1]) + 0.01


def test_held_out_wordings_are_never_in_the_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordings, "N_KEPT", 10)
    encoder = load_mini()
    lesson = wordings.lesson_of(encoder.text_tower, encoder.tokens, seed=0)
    held_out = {wording for concept in wordings.concepts().values() for wording in concept.held_out}
    assert not held_out & set(lesson.phrases[: lesson.n_sounds])
