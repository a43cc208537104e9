"""The captions on which the spaces of two encoders are brought together, and the rule that makes them.

`python -m unisep_align.captions` writes captions.txt anew from words.toml.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

FILE = "captions.txt"
N_WAYS = 4
_STRIDE = 3  # coprime with the eight ways of a family, so that neighbours are spoken of differently


@dataclass(frozen=True)
class Caption:
    """A text, and the sound that it speaks of; several captions may share a sound."""

    text: str
    sound: str


def captions() -> tuple[Caption, ...]:
    """Read all shipped captions, in order.

    >>> captions()[0]
    Caption(text='drums', sound='drums')
    """
    pairs = (line.split("\t") for line in _read(FILE).splitlines())
    return tuple(Caption(text, sound) for sound, text in pairs)


def compose() -> list[Caption]:
    """Make every sound by itself and in four of its family's ways into captions, each text once."""
    composed: dict[str, Caption] = {}
    for family in tomllib.loads(_read("words.toml")).values():
        ways: list[str] = family["ways"]
        for index, sound in enumerate(family["sounds"]):
            chosen = [ways[(index + _STRIDE * way) % len(ways)] for way in range(N_WAYS)]
            for text in (sound, *(way.format(sound) for way in chosen)):
                composed.setdefault(text, Caption(text, sound))
    return list(composed.values())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


if __name__ == "__main__":
    from pathlib import Path

    text = "".join(f"{caption.sound}\t{caption.text}\n" for caption in compose())
    Path(__file__).with_name(FILE).write_text(text, encoding="utf-8")
