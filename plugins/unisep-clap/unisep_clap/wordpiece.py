"""WordPiece: a phrase becomes numbers, with any word covered by smaller pieces."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import final

PADDING, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


@final
class WordPiece:
    """A tokeniser: lower case, no accents, then the longest known piece first, left to right.

    Source: Wu et al. 2016 (arXiv:1609.08144); pieces inside a word carry the prefix `##` as in BERT.

    >>> WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hi", "##hat", "-"]).encode("Hi-hat hihat")
    [2, 4, 6, 1, 4, 5, 3]
    """

    def __init__(self, pieces: Iterable[str], *, n_tokens_max: int = 64, n_characters_max: int = 100) -> None:
        self.pieces = tuple(pieces)
        self.n_tokens_max = n_tokens_max
        self._n_characters_max = n_characters_max
        self._id_of = {piece: i for i, piece in enumerate(self.pieces)}
        self.padding_id, self._unknown_id, self._start_id, self._end_id = (
            self._id_of[special] for special in (PADDING, UNKNOWN, START, END)
        )

    def encode(self, phrase: str) -> list[int]:
        """Ids of the phrase between start and end marks; what exceeds `n_tokens_max` is cut off."""
        ids = [i for word in _words(phrase) for i in self._pieces_of(word)]
        return [self._start_id, *ids[: self.n_tokens_max - 2], self._end_id]

    def _pieces_of(self, word: str) -> list[int]:
        if len(word) > self._n_characters_max:
            return [self._unknown_id]
        ids: list[int] = []
        start = 0
        while start < len(word):
            end = self._longest_match(word, start)
            if end == start:
                return [self._unknown_id]
            ids.append(self._id_of[_piece(word, start, end)])
            start = end
        return ids

    def _longest_match(self, word: str, start: int) -> int:
        """End of the longest known piece from `start`, or `start` where there is none."""
        ends = range(len(word), start, -1)
        return next((end for end in ends if _piece(word, start, end) in self._id_of), start)


def _piece(word: str, start: int, end: int) -> str:
    return ("##" if start else "") + word[start:end]


def _words(phrase: str) -> Iterator[str]:
    """Words and single punctuation marks, lower case, without accents or control characters."""
    spaced = "".join(_spaced(character) for character in unicodedata.normalize("NFD", phrase.lower()))
    yield from spaced.split()


def _spaced(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Mn":
        return ""
    if category.startswith("C"):
        return " " if character in "\t\n\r" else ""
    ascii_symbol = character.isascii() and not character.isalnum() and not character.isspace()
    if ascii_symbol or category.startswith("P") or _is_ideograph(character):
        return f" {character} "
    return character


def _is_ideograph(character: str) -> bool:
    """Chinese characters stand alone: their words are not set apart by spaces."""
    code = ord(character)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or code >= 0x20000
