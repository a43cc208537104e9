"""The driver of a catalogue: lists recordings, hands them to workers, and writes the ledger."""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from unisep import errors
from unisep.cli.questions import deciding_options
from unisep.errors import OptionError
from unisep.files.formats import checked_subtype, find_format
from unisep.files.paths import DEFAULT_TEMPLATE, Template
from unisep.query.parsed import ParsedQuery, parse_queries
from unisep.query.query import QueryLike
from unisep_ray.ledger import Lease, Ledger, Row, digest
from unisep_ray.pool import Pool, Resources, Task
from unisep_ray.recordings import Recording, recordings
from unisep_ray.station import Job, Station
from unisep_ray.storage import PARTIAL, Folder

_SAME_FOR_ALL = ("PluginError", "WeightsError", "DownloadError")  # no recording would fare better than the first
_N_BESIDE_CPU, _N_BESIDE_GPU = 2, 8  # recordings that a worker has in hand
_CLASH = OptionError(
    "Its results would have the same names as those of another recording. Give it a name in a list, or tell them apart with "
    "--filename '{folder}/{track}/{stem}.{ext}'."
)


@dataclass
class Summary:
    """How far a catalogue is, and in the end what came of it.

    Attributes:
        n_total: Recordings in all; None until they are counted.
        errors: How many failed with which error.
        audio_seconds, seconds: Separated in this run, and its time.
        n_workers, n_workers_lost: That are ready now, and that have died.
    """

    n_total: int | None = None
    n_done: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    audio_seconds: float = 0.0
    seconds: float = 0.0
    n_workers: int = 0
    n_workers_lost: int = 0

    @property
    def speed(self) -> float:
        """Hours of audio an hour."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time that is left; None where nothing tells."""
        n_computed = self.n_done + self.n_failed
        if self.n_total is None or not n_computed:
            return None
        return self.seconds / n_computed * max(0, self.n_total - n_computed - self.n_skipped)


OnRow = Callable[[Row | None, Summary], None]


def separate_catalogue(
    source: str | Path, destination: str | Path, query: QueryLike | tuple[ParsedQuery, ...] | None = None, *,
    stems: str | Sequence[str] | None = None, route: str = "auto", filename: str = DEFAULT_TEMPLATE,
    format: str | None = None, subtype: str | None = None, bitrate_kbps: int | None = None, headroom_db: float = 0.0,
    tags: bool = True, resume: bool = False, retry: str | None = None, address: str | None = None,
    num_gpus_per_worker: float = 0.0, num_cpus_per_worker: float = 1.0, min_workers: int = 1,
    max_workers: int | None = None, attempts: int = 3, plugins: Sequence[str] = (), on_row: OnRow | None = None,
    **separator: Any,
) -> Summary:  # fmt: skip
    """Separate every recording of a folder or a list, on a Ray cluster; what fails is in the ledger with its error.

    `source` is a folder, or a list in Parquet, CSV or JSON lines with `path`, and optionally `query`, `stems`, `example` and
    `name`; what a row asks comes before what is asked of all. `destination` is a folder. Both are anything that fsspec opens.
    The arguments from `query` to `tags` are as of `Separator.separate_file`, and `separator` holds those of `Separator`.

    With `resume`, what is done with the same request, models and options is skipped, and what failed is left; with
    `retry="failed"` that is repeated. `address` is the cluster's, "auto" on one of its machines; without it that in
    RAY_ADDRESS, or Ray on this machine. Work begins once `min_workers` are ready; `max_workers` are asked of Ray and its
    autoscaler, without it as many as have room now. A recording is given up once `attempts` workers have died that had it alone.
    `plugins` are paths that are there on every machine. `on_row` is called with each row and how far it all is, and about
    once a second with None.

    Raises:
        OptionError: What cannot be, or a destination that another driver writes to, or that has a ledger and no `resume`.
        UnisepError: What no recording would fare better with, or a ledger that cannot be written.
    """
    if retry not in (None, "failed"):
        raise OptionError(f"retry={retry!r}: there is only 'failed'.")
    template = Template(filename)
    if format is not None:
        checked_subtype(find_format(Path(), format), subtype)
    n_beside = _N_BESIDE_GPU if num_gpus_per_worker else _N_BESIDE_CPU
    resources = Resources(num_gpus_per_worker, num_cpus_per_worker, min_workers, max_workers, n_beside, attempts)
    writing = {
        "filename": filename, "format": format, "subtype": subtype, "bitrate_kbps": bitrate_kbps,
        "headroom_db": headroom_db, "tags": tags,
    }  # fmt: skip
    parsed = None if query is None else parse_queries(query)
    question = {"query": parsed, "stems": stems, "route": route}
    separator.setdefault("threads", max(1, round(num_cpus_per_worker)))
    basis = deciding_options(Namespace(**separator, **writing, stems=stems, route=route), parsed)
    retries, batches = retry is not None, num_gpus_per_worker > 0
    job = Job(Folder(str(destination)), separator, question, writing, basis, n_beside, retries, batches)
    driver = _Driver(str(source), job, template, resume or retry is not None, on_row or (lambda row, summary: None))
    return driver.run(resources, address, plugins)


@dataclass(frozen=True, eq=False)
class _Item:
    recording: Recording
    place: str
    former: Row | None


class _Driver:
    """One run over a catalogue."""

    def __init__(self, source: str, job: Job, template: Template, resumes: bool, on_row: OnRow) -> None:
        self._job, self._template, self._resumes, self._on_row = job, template, resumes, on_row
        self._destination, self._recordings = job.destination, partial(recordings, source, job.destination)
        self._summary, self._started = Summary(), time.monotonic()
        if next(self._recordings(), None) is None:  # raises for what cannot be read
            raise OptionError(f"There is no recording in {source}.")

    def run(self, resources: Resources, address: str | None, plugins: Sequence[str]) -> Summary:
        """Separate all, and return what came of it."""
        with ExitStack() as stack:
            lease = Lease(self._destination)
            stack.callback(lease.release)
            ledger = Ledger(self._destination)
            if len(ledger) and not self._resumes:
                raise OptionError(
                    f"{self._destination} has a ledger of {len(ledger)} recordings. Go on with --resume (resume=True), or "
                    "choose another destination."
                )
            stack.callback(self._tidy)
            self._tidy()
            stack.callback(ledger.close)
            threading.Thread(target=self._count, daemon=True).start()
            make = partial(Station, self._job)
            pool = stack.enter_context(Pool(make, resources, address=address, stage="separate", plugins=plugins))
            try:
                for task in pool.map(_separate, self._items(ledger)):
                    self._summary.n_workers, self._summary.n_workers_lost = pool.n_ready, pool.n_lost
                    self._tell(None if task is None else self._record(task, ledger))
                    lease.check()
                    ledger.flush_if_due()
            except BaseException:
                for task in pool.stop(Station.stop):
                    if task.value["state"] == "done":
                        self._record(task, ledger)
                raise
        self._tell(None)
        return self._summary

    def _items(self, ledger: Ledger) -> Iterator[_Item]:
        """Yield each recording once, those with clashing names as ones that cannot be separated."""
        taken: dict[bytes, bytes] = {}
        for number, recording in enumerate(self._recordings()):
            source = Path("/", recording.folder_name, recording.file_name)
            place = self._template.place(source, ["stem"], "ext")["stem"].as_posix()
            key, content = digest(place.casefold()), digest(f"{recording.url}\n{recording.question}")
            if recording.problem is not None:
                place = f"row {number}"
            elif key not in taken:
                taken[key] = content
            elif taken[key] == content:
                continue  # it is there twice
            else:
                place, recording = f"{place} of {recording.url}", replace(recording, problem=_CLASH)
            yield _Item(recording, place, ledger.former(place) if self._resumes else None)

    def _record(self, task: Task, ledger: Ledger) -> Row:
        """Return the row of what came of a recording, once it is counted and in the ledger."""
        recording, row = task.item.recording, task.value
        if task.error is not None:
            error = {"error_type": type(task.error).__name__, "error": str(task.error)}
            row = {"recording": recording.url, "question": recording.question, "state": "failed", **error}
        row = {**row, "place": task.item.place, "attempts": task.n_attempts, "finished": datetime.now(UTC)}
        summary, state = self._summary, row["state"]
        if state == "failed":
            nothing_done = not (summary.n_done or summary.n_skipped or recording.question)
            if row["error_type"] in _SAME_FOR_ALL and nothing_done:
                raise getattr(errors, row["error_type"])(row["error"])
            summary.errors[row["error_type"]] += 1
        if state == "done":
            summary.audio_seconds += row["audio_seconds"]
        summary.n_done += state == "done"
        summary.n_failed += state == "failed"
        summary.n_skipped += state == "skipped"
        if state != "skipped":
            ledger.add(row)
        return row

    def _tell(self, row: Row | None) -> None:
        self._summary.seconds = time.monotonic() - self._started
        self._on_row(row, self._summary)

    def _count(self) -> None:
        with suppress(Exception):  # what cannot be read is told by the run itself
            self._summary.n_total = sum(1 for _ in self._recordings())

    def _tidy(self) -> None:
        """Remove what workers that died have left in the destination."""
        self._destination.remove(PARTIAL)
        with suppress(Exception):  # rights to list uploads are not everybody's
            self._destination.abort_uploads(PARTIAL)


def _separate(station: Station, item: _Item) -> Row:
    return station.separate(item.recording, item.former)
