"""The Hugging Face hub: its addresses, its cache on this machine, and the variables that steer both."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from unisep.cards import CardFile

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
    hub = os.environ.get("HF_HUB_CACHE")
    folder = Path(hub).expanduser() if hub else home() / "hub"
    repo = folder / f"models--{parts['repo'].replace('/', '--')}"
    revision, reference = parts["revision"], repo / "refs" / parts["revision"]
    commit = reference.read_text().strip() if reference.is_file() else revision
    cached = repo / "snapshots" / commit / parts["path"]
    return cached if _COMMIT.fullmatch(commit) and cached.is_file() else None


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
