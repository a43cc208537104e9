"""The Hugging Face hub and its cache: addresses, commits, tokens, and weights named by owner/name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from unisep.errors import DownloadError, OptionError, WeightsError
from unisep.files.paths import is_there
from unisep.weights.cards import CardFile

HUB = "https://huggingface.co"


_HUB_PATH = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


_COMMIT = re.compile(r"[0-9a-f]{40}")


def offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE asks to stay off the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def home() -> Path:
    """The Hugging Face home: $HF_HOME, else `huggingface` in $XDG_CACHE_HOME or ~/.cache."""
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface"


def _parts(file: CardFile) -> dict[str, str] | None:
    """The repo, revision and path of a file on the hub, or None for any other address."""
    if not file.url.startswith(f"{HUB}/"):
        return None
    match = _HUB_PATH.match(urlsplit(file.url).path)
    return match.groupdict() if match else None


def cached_file(file: CardFile) -> Path | None:
    """The file in the hub's own cache, at the revision of its address, or None."""
    parts = _parts(file)
    if parts is None or ".." in parts["path"].split("/"):
        return None
    repo = _cache_of(parts["repo"])
    commit = _commit_at(repo, parts["revision"])
    cached = repo / "snapshots" / commit / parts["path"]
    return cached if commit and cached.is_file() else None


def cached_commit(repo: str, revision: str = "") -> str:
    """The commit at which the hub's cache holds `repo` ("owner/name"), or "".

    revision: a commit, branch or tag; without it `main`, or the only commit that is there.
    """
    folder = _cache_of(repo)
    snapshots = [path.name for path in (folder / "snapshots").glob("*") if _COMMIT.fullmatch(path.name)]
    commit = _commit_at(folder, revision or "main")
    if commit in snapshots:
        return commit
    return snapshots[0] if len(snapshots) == 1 and not revision else ""


def _cache_of(repo: str) -> Path:
    hub = os.environ.get("HF_HUB_CACHE")
    folder = Path(hub).expanduser() if hub else home() / "hub"
    return folder / f"models--{repo.replace('/', '--')}"


def _commit_at(cache: Path, revision: str) -> str:
    """The commit that the cache of a repository knows a revision by, or ""."""
    reference = cache / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    return commit if _COMMIT.fullmatch(commit) else ""


def commit_of(cached: Path) -> str:
    """The commit of a file in the hub's cache."""
    return next((part for part in reversed(cached.parts[:-1]) if _COMMIT.fullmatch(part)), "")


def at_commit(file: CardFile, commit: str) -> str:
    """The file's address, at the commit of the first download where the card names a branch."""
    parts = _parts(file)
    if parts is None or not commit or _COMMIT.fullmatch(parts["revision"]):
        return file.url
    return f"{HUB}/{parts['repo']}/resolve/{commit}/{parts['path']}"


def at_endpoint(url: str) -> str:
    """The address at $HF_ENDPOINT, where that is set and the address is on the hub."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return f"{endpoint}{url.removeprefix(HUB)}" if endpoint and url.startswith(f"{HUB}/") else url


def token(url: str) -> str:
    """HF_TOKEN for the hub, nothing for any other host."""
    return os.environ.get("HF_TOKEN", "").strip() if url.startswith(f"{HUB}/") else ""


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
