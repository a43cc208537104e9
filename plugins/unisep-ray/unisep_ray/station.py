"""What a worker does with one recording: fetch, separate, store, whole or not at all, and tell what became of it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import threading
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import unisep
from unisep.cli.console import describe
from unisep.cli.questions import deciding_options
from unisep.engine.device import Options, find_device
from unisep.errors import AudioFileError, Cancelled, OptionError, UnisepError
from unisep.files.paths import check_recordings_stay
from unisep.query.parsed import parse_queries
from unisep.query.query import Query
from unisep.separation import SeparatedFiles
from unisep.separator import Separator
from unisep.weights.hashes import sha256_of
from unisep_ray.batching import Batching
from unisep_ray.ledger import Row, is_alive
from unisep_ray.recordings import Recording
from unisep_ray.storage import PARTIAL, Folder, etag, storing

SCRATCH = f"unisep-catalogue-{platform.node()}-"


@dataclass(frozen=True)
class Job:
    """What all recordings of a catalogue share.

    Attributes:
        separator: Arguments of `Separator`.
        question: `query`, `stems` and `route`, as `Separator.separate_file` takes them.
        writing: `filename`, `format` and so on, as it takes them.
        basis: All that decides a result beside models and what a row asks, as plain values.
        n_beside: How many recordings a worker has in hand; one of them is fetched or stored while others are separated.
        retries_failed: Whether what failed in an earlier run is tried again.
        batches: Whether recordings share the calls of a backend, as is quick on a GPU.
    """

    destination: Folder
    separator: Mapping[str, Any]
    question: Mapping[str, Any]
    writing: Mapping[str, Any]
    basis: Mapping[str, Any]
    n_beside: int = 2
    retries_failed: bool = False
    batches: bool = False


class Station:
    """A loaded Separator and a place on the local disk. Recordings come from several threads."""

    def __init__(self, job: Job) -> None:
        """Raise what no recording would fare better with."""
        self._job, self._cancel = job, threading.Event()
        self._computing = threading.Semaphore(max(1, job.n_beside - 1))
        self._separator = Separator(**job.separator)
        self._separator.provenance(**job.question)
        if job.batches:
            options = Options(find_device(job.separator.get("device", "auto")))
            self._separator._pool.wrap = partial(Batching, n_most=options.n_at_once)
        _remove_left_behind()

    def stop(self) -> None:
        """Have what is being separated end before the next segment."""
        self._cancel.set()

    def separate(self, recording: Recording, former: Row | None) -> Row:
        """Return the row of a recording, with an error where it failed; `former` is its row in the ledger."""
        started, about = perf_counter(), {"recording": recording.url, "question": recording.question}
        row: Row = {**about, "node": platform.node(), "state": "failed"}
        with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
            source = Path(folder, "in", recording.folder_name or "-", recording.file_name)
            try:
                self._fill(row, recording, former, source, Path(folder))
            except Cancelled:
                raise
            except Exception as error:
                message = describe(error).replace(str(source), recording.url).replace(f"{folder}/", "")
                row |= {"error_type": type(error).__name__, "error": message[:2000]}
        return {"seconds": round(perf_counter() - started, 3), **row}

    def _fill(self, row: Row, recording: Recording, former: Row | None, source: Path, folder: Path) -> None:
        """Do all the steps, and put what is learnt on the way into the row."""
        if recording.problem is not None:
            raise recording.problem
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
        _fetch(place, source)
        if source.stat().st_size != info["size"]:
            raise AudioFileError(f"Of {recording.url} only {source.stat().st_size} of {info['size']} bytes came.")
        with self._computing:
            started = perf_counter()
            files = self._separator.separate_file(
                source, folder / "out", **question, **self._job.writing, cancel=self._cancel
            )
            row |= {"seconds": round(perf_counter() - started, 3), "audio_seconds": files.seconds, "gain": files.gain}
        row |= {"request": self._request(question, basis), "plan": json.dumps(files.plan.to_json())}
        row |= {"outputs": self._stored(files, folder / "out", place), "state": "done"}

    def _question(self, recording: Recording, folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what is asked of this recording, and all that decides its result but for what models there are."""
        if not recording.question:
            return self._job.question, self._job.basis
        queries = [Query(text=text) for text in recording.query]
        if recording.example:
            if len(queries) > 1:
                raise OptionError("A row with an example has one query at most.")
            clip = _fetch(Folder(recording.example), folder / "clip" / recording.example.rpartition("/")[2])
            queries = [Query(text=recording.query[0] if recording.query else None, audio=clip)]
        query, stems = parse_queries(queries) if queries else None, recording.stems or None
        changed = deciding_options(Namespace(stems=stems), query)
        return {**self._job.question, "query": query, "stems": stems}, {**self._job.basis, **changed}

    def _request(self, question: Mapping[str, Any], basis: Mapping[str, Any]) -> str:
        """Return the sha256 of all that decides a result beside the recording."""
        whole = {**basis, "version": unisep.__version__, "provenance": self._separator.provenance(**question)}
        return sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _is_settled(self, former: Row, row: Row) -> bool:
        """Tell whether an earlier run came to an end with the same recording and request, and its results are still there."""
        names = ("etag", "length", "request")
        if former["state"] == "failed":
            return not self._job.retries_failed and all(former[name] in (None, row.get(name)) for name in names)
        if any(former[name] != row.get(name) for name in names):
            return False
        found = ((self._job.destination.info(output["path"]), output) for output in former["outputs"])
        return all(info is not None and info["size"] == output["length"] for info, output in found)

    def _stored(self, files: SeparatedFiles, out: Path, recording: Folder) -> list[Row]:
        """Put all files in the destination: first under temporary names, then, once all are there, under their own."""
        destination, named = self._job.destination, {**files} if files.rest is None else {**files, "rest": files.rest}
        outputs: list[Row] = [
            {
                "name": name, "path": path.relative_to(out).as_posix(), "sha256": sha256_of(path),
                "length": path.stat().st_size, "presence": files.presence.get(name),
            }
            for name, path in named.items()
        ]  # fmt: skip
        if recording.is_local and destination.is_local:
            paths = {output["name"]: Path(destination.path(output["path"])) for output in outputs}
            check_recordings_stay(paths, Path(recording.root))
        temporaries = [f"{PARTIAL}/{uuid4().hex}" for _ in outputs]
        moved: list[str] = []
        with storing(f"The results cannot be written to {destination}"):
            try:
                for path, temporary in zip(named.values(), temporaries, strict=True):
                    destination.put(path, temporary)
                for temporary, output in zip(temporaries, outputs, strict=True):
                    moved.append(output["path"])
                    destination.move(temporary, output["path"])
            except BaseException:
                for place in [*temporaries, *moved]:
                    with suppress(Exception):
                        destination.remove(place)
                raise
        return outputs


def _fetch(place: Folder, file: Path) -> Path:
    with storing(f"{place} cannot be read"):
        file.parent.mkdir(parents=True)
        place.fetch("", file)
    return file


def _remove_left_behind() -> None:
    """Remove what workers that died have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
