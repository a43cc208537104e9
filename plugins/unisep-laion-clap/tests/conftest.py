"""A tokenizer in RoBERTa's form, small enough to be made for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

tokenizers = pytest.importorskip("tokenizers")


def save_tokenizer(path: Path) -> int:
    """Write a byte-level BPE without merges; returns how many words it knows."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = marks + sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.save(str(path))
    return len(pieces)


@pytest.fixture(scope="session")
def write_tokenizer():
    return save_tokenizer
