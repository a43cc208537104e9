"""The shipped captions: sounds in words, on which the spaces of two encoders are brought together."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

FILE = "captions.txt"


@dataclass(frozen=True)
class Caption:
    """A text, and the sound that it speaks of; several captions may share a sound."""

    text: str
    sound: str


def captions() -> tuple[Caption, ...]:
    """All shipped captions, in order.

    >>> captions()[0]
    Caption(text='drums', sound='drums')
    """
    lines = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines)
    return tuple(Caption(text, sound) for sound, text in pairs)
