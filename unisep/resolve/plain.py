"""Which words plainly name a stem."""

from __future__ import annotations

_PLAIN_NAMES = {
    "vocals": ("vocal", "voice", "voices", "singing", "singing voice"),
    "drums": ("drum", "drum kit", "drumkit", "drum set"),
    "bass": (),
    "guitar": ("guitars",),
    "piano": ("pianos",),
}


def plainly_names(text: str, stem: str) -> bool:
    """Whether `text` means the whole stem, not a part or a kind of it.

    >>> plainly_names("The vocals", "vocals"), plainly_names("lead vocals", "vocals")
    (True, False)
    """
    words = " ".join(text.casefold().split()).removeprefix("the ")
    return words in (stem.casefold(), *_PLAIN_NAMES.get(stem, ()))
