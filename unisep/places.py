"""Which encoder a name such as "clap@./folder" asks for, and where the weights behind the @ lie.

A name is needed even for a folder: nothing in a folder of weights says which plugin can read them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from unisep.errors import DownloadError, OptionError, WeightsError
from unisep.hub import cached_commit
from unisep.names import is_there

_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?")
_LOCAL_STARTS = (".", "/", "~", "\\")


def split_place(asked: str) -> tuple[str, str]:
    """The encoder's name and the place of its weights, "" without one.

    >>> split_place("clap@laion/larger_clap_music"), split_place("clap-mini")
    (('clap', 'laion/larger_clap_music'), ('clap-mini', ''))

    Raises:
        OptionError: not a text, or nothing on one side of the @.
    """
    if not isinstance(asked, str):
        raise OptionError(
            f"encoder={asked!r}: name the encoder that reads these weights, such as encoder='clap@{asked}'."
        )
    name, at, place = asked.partition("@")
    if not name or (at and not place):
        raise OptionError(
            f"encoder={asked!r} is incomplete. Write a name, or name@place: 'clap@./folder', 'clap@owner/name'."
        )
    return name, place


def find_place(place: str, *, offline: bool) -> Path:
    """What the encoder's loader gets: the path of a file or folder, or the name of a repository as it is.

    Offline, a repository `owner/name[@revision]` is pinned to the commit that the hub's cache holds.

    Raises:
        WeightsError: no such file or folder, and no name of a repository.
        DownloadError: offline, and the cache does not hold the repository.
    """
    local = Path(os.path.expanduser(place))
    if is_there(local):
        return local.resolve()
    name = None if place.startswith(_LOCAL_STARTS) else _HUB_NAME.fullmatch(place)
    if name is None:
        raise WeightsError(
            f"There is no file or folder {place!r}. Give one that exists, or a repository on the hub: owner/name."
        )
    if not offline:
        return Path(place)
    commit = cached_commit(name["repo"], name["revision"] or "")
    if not commit:
        raise DownloadError(
            f"{place!r} is not in the hub's cache on this machine, and downloads are off. "
            "Use it once while online, or give a folder that holds it."
        )
    return Path(f"{name['repo']}@{commit}")
