from __future__ import annotations

import json
import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

KINDS = {"voice", "speech", "drums", "instrument", "everyday", "nature", "animal", "machine", "effect"}


@pytest.fixture(scope="module")
def concepts() -> dict[str, Any]:
    return json.loads(files("unisep.query").joinpath("concepts.json").read_text("utf-8"))


def test_there_are_enough_concepts_and_wordings_a_third_of_them_held_out(concepts: dict[str, Any]) -> None:
    assert len(concepts) >= 150
    for name, concept in concepts.items():
        n_known, n_held_out = len(concept["wordings"]), len(concept["held_out"])
        assert n_known + n_held_out >= 12, name
        assert n_held_out >= 0.3 * (n_known + n_held_out), name


def test_a_concept_is_made_of_these_fields_and_kinds(concepts: dict[str, Any]) -> None:
    for name, concept in concepts.items():
        assert [key for key in concept if key != "stem"] == ["kind", "within", "wordings", "held_out"], name
        assert concept["kind"] in KINDS, name
        assert concept["wordings"][0] == name


def test_every_wording_is_lower_case_and_stands_under_one_concept(concepts: dict[str, Any]) -> None:
    wordings = [text for concept in concepts.values() for text in concept["wordings"] + concept["held_out"]]
    assert [text for text in wordings if text != " ".join(text.lower().split())] == []
    assert [text for text, count in Counter(map(str.casefold, wordings)).items() if count > 1] == []


def test_wider_concepts_exist_and_none_contains_itself(concepts: dict[str, Any]) -> None:
    def wider(name: str, below: tuple[str, ...] = ()) -> set[str]:
        assert name not in below, f"a cycle: {[*below, name]}"
        return {name}.union(*(wider(parent, (*below, name)) for parent in concepts[name]["within"]))

    for name, concept in concepts.items():
        for parent in concept["within"]:  # direct steps only: no parent is reached through another
            assert not any(parent in wider(other) for other in set(concept["within"]) - {parent}), name


def test_the_phrases_that_matching_is_measured_with_are_mostly_others(concepts: dict[str, Any]) -> None:
    stems = tomllib.loads(Path(__file__).parents[1].joinpath("routing", "phrases.toml").read_text("utf-8"))
    phrases = [phrase.casefold() for stem in stems.values() for phrase in stem]
    assert len(set(phrases)) == len(phrases) == 300
    assert len(set(phrases).intersection(w for c in concepts.values() for w in c["wordings"])) <= 60
    assert set(phrases).isdisjoint(w for c in concepts.values() for w in c["held_out"])
