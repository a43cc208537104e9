"""The Hugging Face hub and its cache: addresses, commits, tokens, and weights named by owner/name.

huggingface_hub says where things are and who is logged in, and is imported on use. Downloads are our own (`download`):
its own neither resume in a later run, nor compare the sha256, nor limit the size.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from unisep.errors import DownloadError, OptionError, WeightsError, arg
from unisep.files.paths import is_there

HUB = "https://huggingface.co"
_FILE = re.compile(rf"{re.escape(HUB)}/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>[^?#]+)")
_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def offline_by_environment() -> bool:
    """Tell whether HF_HUB_OFFLINE asks to stay off the network."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def cached_file(url: str) -> Path | None:
    """Return the file of an address on the hub, if the hub's own cache holds it at that revision."""
    file = _FILE.match(url)
    if file is None or ".." in file["path"].split("/"):
        return None
    snapshot = cached_snapshot(file["repo"], file["revision"])
    return snapshot / file["path"] if snapshot is not None and (snapshot / file["path"]).is_file() else None


def cached_snapshot(repo: str, revision: str = "") -> Path | None:
    """Return the folder, named after the commit, that the hub's cache holds of a repository "owner/name".

    Without a `revision` (commit, branch or tag) it is `main`, or the only commit that is there.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}")
    reference = cache / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshots = {path.name: path for path in (cache / "snapshots").glob("*") if _COMMIT.fullmatch(path.name)}
    only = next(iter(snapshots.values())) if len(snapshots) == 1 and not revision else None
    return snapshots.get(commit, only)


def commit_of(cached: Path) -> str:
    """Return the commit that a file in the hub's cache belongs to, after which a folder above it is named."""
    return next(part for part in cached.parts if _COMMIT.fullmatch(part))


def address(url: str, commit: str = "") -> str:
    """Return where to fetch a file of the hub: at $HF_ENDPOINT, and at `commit` if `url` names a branch. Others stay."""
    from huggingface_hub import constants

    if not url.startswith(f"{HUB}/"):
        return url
    file = _FILE.match(url)
    if commit and file is not None and not _COMMIT.fullmatch(file["revision"]):
        url = f"{HUB}/{file['repo']}/resolve/{commit}/{file['path']}"
    return f"{constants.ENDPOINT.rstrip('/')}{url.removeprefix(HUB)}"


def token(url: str) -> str:
    """Return the login token (HF_TOKEN, or of `hf auth login`) for an address on the hub, "" for any other host."""
    if not url.startswith(f"{HUB}/"):
        return ""
    from huggingface_hub import get_token

    try:
        return get_token() or ""
    except Exception as error:  # a file that cannot be read, or a login over the network that fails
        raise DownloadError(f"The hub's login token cannot be had ({error}). Log in again, or set HF_TOKEN.") from error


def split_place(encoder: str) -> tuple[str, str]:
    """Split an encoder's name and the place of its weights, "" without one. Raises OptionError for neither.

    >>> split_place("clap@laion/larger_clap_music"), split_place("clap-mini")
    (('clap', 'laion/larger_clap_music'), ('clap-mini', ''))
    """
    if not isinstance(encoder, str):
        raise OptionError(f"{arg('encoder', encoder)}: name who reads these weights, such as 'clap@{encoder}'.")
    name, at, place = encoder.partition("@")
    if not name or (at and not place):
        raise OptionError(
            f"{arg('encoder', encoder)} is incomplete. Write 'clap', 'clap@./folder' or 'clap@owner/name'."
        )
    return name, place


def find_place(place: str, *, offline: bool) -> Path:
    """Return what the encoder's loader gets: the path of a file or folder, or the name of a repository as it is.

    Offline, a repository `owner/name[@revision]` is pinned to the commit that the hub's cache holds, or refused.
    """
    local = Path(os.path.expanduser(place))
    if is_there(local):
        return local.resolve()
    name = None if place.startswith((".", "/", "~", "\\")) else _REPOSITORY.fullmatch(place)
    if name is None:
        raise WeightsError(
            f"There is no file or folder {place!r}. Give one that exists, or a repository on the hub: owner/name."
        )
    if not offline:
        return Path(place)
    snapshot = cached_snapshot(name["repo"], name["revision"] or "")
    if snapshot is None:
        raise DownloadError(
            f"{place!r} is not in the hub's cache on this machine, and downloads are off. "
            "Use it once while online, or give a folder that holds it."
        )
    return Path(f"{name['repo']}@{snapshot.name}")
