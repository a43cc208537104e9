"""What the plugin tells before any model is loaded."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from unisep_audiosep import plugin
from unisep_audiosep.backend import load

from unisep.errors import WeightsError
from unisep.weights.cards import read_card
from unisep.weights.store import WeightsStore

(SPEC,) = plugin.unisep_backends()


def test_the_spec_names_a_function_and_answers_queries_only():
    module, function = SPEC.load.split(":")
    assert callable(getattr(import_module(module), function))
    assert SPEC.spaces == (plugin.SPACE,) and SPEC.stems == ()


def test_the_card_agrees_with_the_spec(tmp_path):
    card = read_card(SPEC.card)
    (file,) = card.files
    assert (card.name, card.licence, card.sample_rate_hz) == (SPEC.name, SPEC.licence, 32_000)
    assert len(file.sha256) == 64 and file.revision in file.url and file.url.endswith(file.name)
    assert WeightsStore(offline=True, folder=tmp_path).state(card) == "missing"


def test_the_space_is_a_file_and_its_hash():
    name, _, sha256 = plugin.SPACE.partition("@")
    assert name == "music_speech_audioset_epoch_15_esc_89.98" and len(sha256) == 64


def test_without_weights_it_says_what_to_do():
    with pytest.raises(WeightsError, match="unisep models pull audiosep"):
        load(weights=None, device=torch.device("cpu"), dtype=torch.float32)
