"""The rule that makes the captions from the words: `python -m unisep_align.compose` writes captions.txt."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from unisep_align.captions import FILE, Caption

N_WAYS = 4
_STRIDE = 3  # coprime with the eight ways of a family, so that neighbours are spoken of differently


def compose() -> list[Caption]:
    """Every sound by itself and in four of its family's ways, each caption once."""
    words = tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8"))
    found: dict[str, Caption] = {}
    for family in words.values():
        for caption in _of_family(family):
            found.setdefault(caption.text, caption)
    return list(found.values())


def _of_family(family: dict[str, Any]) -> Iterator[Caption]:
    ways: list[str] = family["ways"]
    for index, sound in enumerate(family["sounds"]):
        yield Caption(sound, sound)
        for way in range(N_WAYS):
            yield Caption(ways[(index + _STRIDE * way) % len(ways)].format(sound), sound)


def as_text(captions: list[Caption]) -> str:
    """The content of the shipped file: a line a caption, sound and text with a tab between."""
    return "".join(f"{caption.sound}\t{caption.text}\n" for caption in captions)


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).with_name(FILE).write_text(as_text(compose()), encoding="utf-8")
