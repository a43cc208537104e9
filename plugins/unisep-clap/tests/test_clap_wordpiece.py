"""WordPiece agrees with the tokenizers package on whatever is typed."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer
from unisep_clap.wordpiece import WordPiece

VOCABULARY = resources.files("unisep_clap").joinpath("data", "vocab.txt")
PIECES = VOCABULARY.read_text(encoding="utf-8").splitlines()
OURS = WordPiece(PIECES, n_tokens_max=10_000)
THEIRS = BertWordPieceTokenizer({piece: i for i, piece in enumerate(PIECES)}, lowercase=True)


@pytest.mark.parametrize(
    "phrase",
    [
        "electric guitar",
        "Hi-Hat!",
        "Jew's harp",
        "808 bass, sub",
        "naïve Café",
        "tom\u00adtom",
        "鼓 drum",
        "a\tb\nc",
        "x" * 150,
    ],
)
def test_known_hard_cases(phrase):
    assert OURS.encode(phrase) == THEIRS.encode(phrase).ids


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=300, deadline=None)
def test_agrees_on_any_latin_text(phrase):
    # The package takes its own marks from the text; here they are brackets and letters like any others.
    assume(not any(mark in phrase for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")))
    assert OURS.encode(phrase) == THEIRS.encode(phrase).ids


def test_long_phrases_are_cut_with_both_marks():
    ids = WordPiece(PIECES, n_tokens_max=8).encode("one two three four five six seven eight nine")
    assert len(ids) == 8 and ids[0] == PIECES.index("[CLS]") and ids[-1] == PIECES.index("[SEP]")
