"""Names that may hold anything: made safe for files on every system, or asked whether they are there."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

MAX_NAME_BYTES = 150
_FORBIDDEN = set('<>:"/\\|?*')
RESERVED_NAMES = ("rest", "mixture")  # of results that unisep gives by itself
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789¹²³"
}


def is_reserved(name: str) -> bool:
    """Whether it is what unisep calls a result of its own, in whatever case.

    >>> is_reserved("Rest"), is_reserved("restless")
    (True, False)
    """
    return name.casefold() in RESERVED_NAMES


def safe_name(name: str) -> str:
    """A file name, without suffix, for `name`: one part of a path that cannot leave its folder.

    Letters of all scripts stay. Separators and characters that Windows forbids become `_`; control
    and formatting characters, dots and spaces at the ends go; names of devices get a `_` in front.

    >>> safe_name("../../etc/passwd"), safe_name("Gitarre: laut"), safe_name("nul.wav"), safe_name("")
    ('_.._etc_passwd', 'Gitarre_ laut', '_nul.wav', 'unnamed')
    """
    composed = unicodedata.normalize("NFC", name)
    kept = "".join(
        "_" if letter in _FORBIDDEN or unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in composed
        if unicodedata.category(letter) not in ("Cf", "Cs", "Co", "Cn")
    )
    short = kept.strip(". ").encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip(". ")
    if short.split(".")[0].strip().upper() in _RESERVED:
        return f"_{short}"
    return short or "unnamed"


def safe_names(names: Iterable[str]) -> list[str]:
    """A safe file name for each name, all different even where case does not count.

    >>> safe_names(["Lead", "lead", "a/b", "a:b"])
    ['Lead', 'lead-2', 'a_b', 'a_b-2']
    """
    taken: set[str] = set()
    result = []
    for name in names:
        plain = candidate = safe_name(name)
        n_tries = 1
        while candidate.casefold() in taken:
            n_tries += 1
            candidate = f"{plain}-{n_tries}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a path that is too long or too strange to exist is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
