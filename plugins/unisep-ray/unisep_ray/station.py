"""What a worker does with one recording: fetch, separate, store, whole or not at all, and tell what became of it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import threading
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import unisep
from unisep.cli.console import describe
from unisep.cli.questions import deciding_options
from unisep.errors import AudioFileError, Cancelled, OptionError, UnisepError
from unisep.files.paths import check_recordings_stay
from unisep.query.parsed import parse_queries
from unisep.query.query import Query
from unisep.separator import Separator
from unisep.weights.hashes import sha256_of
from unisep_ray.ledger import PARTIAL, Row
from unisep_ray.recordings import Recording
from unisep_ray.storage import Folder, etag, storage_error

_SCRATCH = f"unisep-catalogue-{platform.node()}-"


@dataclass(frozen=True)
class Job:
    """What all recordings of a catalogue share.

    Attributes:
        separator: Arguments of `Separator`.
        question: `query`, `stems` and `route`, as `Separator.separate_file` takes them.
        writing: `filename`, `format` and so on, as it takes them.
        basis: All that decides a result, as plain values.
        n_beside: How many recordings a worker has in hand; one of them is fetched or stored while others are separated.
    """

    destination: Folder
    separator: Mapping[str, Any]
    question: Mapping[str, Any]
    writing: Mapping[str, Any]
    basis: Mapping[str, Any]
    n_beside: int = 2
    retries_failed: bool = False


@dataclass
class Station:
    """A loaded Separator and a place on the local disk. Recordings come from several threads."""

    job: Job
    separator: Separator = field(init=False)
    cancel: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.separator = Separator(**self.job.separator)
        self._computing = threading.Semaphore(max(1, self.job.n_beside - 1))
        self._scratch = Path(tempfile.gettempdir(), f"{_SCRATCH}{os.getpid()}")  # the beginning of each folder's name
        _remove_left_behind()

    def check(self) -> None:
        """Raise what no recording would fare better with."""
        self.separator.provenance(**self.job.question)

    def stop(self) -> None:
        """Have what is being separated end before the next segment."""
        self.cancel.set()

    def separate(self, recording: Recording, former: Row | None) -> Row:
        """Return the row of a recording, with an error where it failed; `former` is its row in the ledger."""
        started, folder = perf_counter(), self._scratch.with_name(f"{self._scratch.name}-{uuid4().hex}")
        source = folder / "in" / (recording.folder_name or "-") / recording.file_name
        row: Row = {
            "recording": recording.url,
            "question": recording.question,
            "node": platform.node(),
            "state": "failed",
        }
        try:
            self._fill(row, recording, former, source, folder)
        except Cancelled:
            raise
        except Exception as error:
            message = describe(error).replace(str(source), recording.url).replace(f"{folder}/", "")
            row |= {"error_type": type(error).__name__, "error": message[:2000]}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        row.setdefault("seconds", round(perf_counter() - started, 3))
        return row

    def _fill(self, row: Row, recording: Recording, former: Row | None, source: Path, folder: Path) -> None:
        """Do all the steps, and put what is learnt on the way into the row."""
        recording.check()
        place = Folder(recording.url)
        with storing(f"{recording.url} cannot be read"):
            info = place.info()
        if info is not None:
            row |= {"etag": etag(info), "length": info["size"]}
        question, basis = self._question(recording, folder)
        with suppress(UnisepError):  # that nobody can answer is told below
            row["request"] = self._request(question, basis)
        if former is not None and self._is_settled(former, row):
            row |= {**former, "state": "skipped"}
            return
        if info is None or info["type"] == "directory":
            raise AudioFileError(f"There is no file at {recording.url}.")
        with storing(f"{recording.url} cannot be read"):
            source.parent.mkdir(parents=True)
            place.fetch("", source)
            if source.stat().st_size != info["size"]:
                raise OSError(f"{source.stat().st_size} of {info['size']} bytes came")
        with self._computing:
            started = perf_counter()
            files = self.separator.separate_file(
                source, folder / "out", **question, **self.job.writing, cancel=self.cancel
            )
            row |= {"seconds": round(perf_counter() - started, 3), "audio_seconds": files.seconds, "gain": files.gain}
        row |= {"request": self._request(question, basis), "plan": json.dumps(files.plan.to_json())}
        row |= {"outputs": self._stored(files, folder / "out", place), "state": "done"}

    def _question(self, recording: Recording, folder: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Return what is asked of this recording, and all that decides its result but for what models there are."""
        question = dict(self.job.question)
        if not recording.question:
            return question, self.job.basis
        question["stems"] = recording.stems or None
        question["query"] = None
        if recording.query or recording.example:
            question["query"] = parse_queries(self._queries(recording, folder))
        changed = deciding_options(Namespace(stems=question["stems"]), question["query"])
        return question, {**self.job.basis, **changed}

    def _queries(self, recording: Recording, folder: Path) -> list[Query]:
        if not recording.example:
            return [Query(text=text) for text in recording.query]
        if len(recording.query) > 1:
            raise OptionError("A row with an example has one query at most.")
        clip = folder / "clip" / recording.example.rpartition("/")[2]
        with storing(f"{recording.example} cannot be read"):
            clip.parent.mkdir(parents=True)
            Folder(recording.example).fetch("", clip)
        return [Query(text=recording.query[0] if recording.query else None, audio=clip)]

    def _request(self, question: Mapping[str, Any], basis: Mapping[str, Any]) -> str:
        """Return the sha256 of all that decides a result beside the recording."""
        provenance = self.separator.provenance(**question)
        whole = {**basis, "version": unisep.__version__, "provenance": provenance}
        return sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _is_settled(self, former: Row, row: Row) -> bool:
        """Tell whether an earlier run came to an end with the same recording and request, and its results are still there."""
        names = ("etag", "length", "request")
        if former["state"] == "failed":
            is_same = all(former[name] in (None, row.get(name)) for name in names)
            return is_same and not self.job.retries_failed
        if any(former[name] != row.get(name) for name in names):
            return False
        found = (self.job.destination.info(output["path"]) for output in former["outputs"])
        return all(
            info is not None and info["size"] == output["length"]
            for info, output in zip(found, former["outputs"], strict=True)
        )

    def _stored(self, files: Any, out: Path, recording: Folder) -> list[Row]:
        """Put all files in the destination: first under temporary names, then, once all are there, under their own."""
        destination, attempt = self.job.destination, f"{PARTIAL}/{uuid4().hex}"
        named = {**files} if files.rest is None else {**files, "rest": files.rest}
        outputs = []
        for name, path in named.items():
            outputs.append({
                "name": name, "path": path.relative_to(out).as_posix(), "sha256": sha256_of(path),
                "length": path.stat().st_size, "presence": files.presence.get(name),
            })  # fmt: skip
        if recording.is_local and destination.is_local:
            paths = {output["name"]: Path(destination.path(output["path"])) for output in outputs}
            check_recordings_stay(paths, Path(recording.root))
        moved = []
        with storing(f"The results cannot be written to {destination}"):
            try:
                for number, path in enumerate(named.values()):
                    destination.put(path, f"{attempt}/{number}")
                for number, output in enumerate(outputs):
                    moved.append(output["path"])
                    destination.move(f"{attempt}/{number}", output["path"])
            except BaseException:
                for place in moved:
                    with suppress(Exception):
                        destination.remove(place)
                raise
            finally:
                with suppress(Exception):
                    destination.remove(attempt)
        return outputs


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Open a `with` block whose errors of file systems become those of unisep."""
    try:
        yield
    except UnisepError:
        raise
    except Exception as error:
        raise storage_error(error, what) from error


def _remove_left_behind() -> None:
    """Remove what workers that died have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)
