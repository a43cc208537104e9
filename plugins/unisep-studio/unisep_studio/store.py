"""What outlives the process: recordings, jobs and results, in SQLite and in files beside it.

Used by one thread, that of the event loop. Each change is one transaction in a write-ahead log: it is there after
`kill -9`, whole or not at all. (A power cut may take the last moments with it.)
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unisep.errors import OptionError
from unisep_studio.schemas import MAX_QUERIES, Question, State, recordings_in

TERMINAL = ("done", "failed", "cancelled")
MAX_ATTEMPTS = 10  # of a job that ran when the server ended
_TOUCH_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS recordings (
  id TEXT PRIMARY KEY, owner TEXT, sha256 TEXT, facts TEXT, n_bytes INTEGER, created REAL, used REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS recordings_content ON recordings (owner, sha256);
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, owner TEXT, recording TEXT, question TEXT, key TEXT, pass_key TEXT,
  state TEXT, attempts INTEGER DEFAULT 0, alone INTEGER DEFAULT 0, error_type TEXT, error_message TEXT,
  created REAL, finished REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, owner, number);
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (key);
CREATE TABLE IF NOT EXISTS results (
  key TEXT PRIMARY KEY, installation TEXT, facts TEXT, n_bytes INTEGER, used REAL
);
"""


@dataclass(frozen=True)
class Recording:
    """An uploaded file; `facts` are what was found in it: name, suffix, seconds, rate, channels, format."""

    id: str
    owner: str
    sha256: str
    facts: dict[str, Any]
    n_bytes: int
    created: float


@dataclass(frozen=True)
class Job:
    """A separation that was asked for, as the database has it."""

    number: int
    id: str
    owner: str
    recording: str
    question: Question
    key: str
    pass_key: str
    state: State
    attempts: int
    alone: bool
    error_type: str | None
    error_message: str | None
    created: float
    finished: float | None


class Store:
    """The data folder of one server."""

    def __init__(self, folder: Path, *, quota_bytes: int, keep_seconds: float) -> None:
        """Open or make the folder. Raises OptionError where another server has it, or it cannot be written to."""
        self.folder = folder = folder.absolute()
        self._quota_bytes, self._keep_seconds = quota_bytes, keep_seconds
        try:
            for name in ("recordings", "results", "incoming", "scratch"):
                (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = FileLock(folder / "lock")
            self._lock.acquire(timeout=0)
            self._database = sqlite3.connect(folder / "studio.sqlite", isolation_level=None)
        except Timeout as error:
            raise OptionError(f"Another server uses --data {folder}. Stop it, or choose another folder.") from error
        except (OSError, sqlite3.Error) as error:
            raise OptionError(f"--data {folder} cannot be used: {error}.") from error
        self._database.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database and let others have the folder."""
        self._database.close()
        self._lock.release()

    def recover(self) -> None:
        """Put what was running back into the queue, and remove what no row knows; once, when the server starts."""
        for name in ("incoming", "scratch"):
            for path in (self.folder / name).iterdir():
                remove(path)
        self._execute("UPDATE jobs SET state = 'queued', attempts = attempts + 1 WHERE state = 'running'")
        for table, column in (("recordings", "id"), ("results", "key")):
            known = {row[column]: row["n_bytes"] for row in self._execute(f"SELECT * FROM {table}")}
            places = {path.name: path for path in (self.folder / table).iterdir()}
            for name, n_bytes in known.items():
                for partial in places[name].glob(".*") if name in places else ():  # a file that was being converted
                    remove(partial)
                if name not in places or size_of(places[name]) < n_bytes:
                    self._drop(table, name)
                else:
                    self.weigh_again(table, name)
            for name in places.keys() - known.keys():
                if table == "recordings" or not self.adopt(name):
                    remove(places[name])

    def adopt(self, key: str) -> bool:
        """Take in a result that a job waits or runs for and that is complete, though its worker could not tell."""
        query = "SELECT 1 FROM jobs WHERE key = ? AND state IN ('queued', 'running')"
        place = self.place_of_result(key)
        if self.result(key) is not None or self._execute(query, key).fetchone() is None:
            return False
        try:
            facts = json.loads((place / "result.json").read_text(encoding="utf-8"))
            self.add_result(key, str(facts["installation"]), facts)
        except (OSError, ValueError, KeyError):
            return False
        return True

    # recordings

    def add_recording(self, owner: str, sha256: str, facts: dict[str, Any], place: Path) -> Recording:
        """Take in the folder of a new recording; where the owner has its content already, only the new name."""
        known = self._execute("SELECT * FROM recordings WHERE owner = ? AND sha256 = ?", owner, sha256).fetchone()
        if known is not None:
            remove(place)
            facts = {**json.loads(known["facts"]), "name": facts["name"]}
            self._execute(
                "UPDATE recordings SET facts = ?, used = ? WHERE id = ?", json.dumps(facts), time.time(), known["id"]
            )
            return replace(_recording(known), facts=facts)
        id, now, n_bytes = secrets.token_hex(16), time.time(), size_of(place)
        place.rename(self.folder / "recordings" / id)
        values = (id, owner, sha256, json.dumps(facts), n_bytes, now, now)
        self._execute("INSERT INTO recordings VALUES (?, ?, ?, ?, ?, ?, ?)", *values)
        return Recording(id, owner, sha256, facts, n_bytes, now)

    def recording(self, id: str, owner: str) -> Recording | None:
        """Return a recording of the owner's, and count that as use."""
        row = self._execute("SELECT * FROM recordings WHERE id = ? AND owner = ?", id, owner).fetchone()
        if row is None:
            return None
        self._touch("recordings", "id", row)
        return _recording(row)

    def forget_recording(self, id: str) -> bool:
        """Remove a recording, unless a job that has not ended needs it; tell whether it is gone."""
        if id in self._busy():
            return False
        self._drop("recordings", id)
        return True

    def place_of_recording(self, id: str) -> Path:
        """Return the folder of a recording that is known."""
        return self.folder / "recordings" / id

    # jobs

    def add_job(self, owner: str, recording: str, question: Question, key: str, pass_key: str, state: str) -> Job:
        """Keep a job, waiting or done already."""
        id, now = secrets.token_hex(16), time.time()
        self._execute(
            "INSERT INTO jobs (id, owner, recording, question, key, pass_key, state, created, finished) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            id, owner, recording, json.dumps(question), key, pass_key, state, now, now if state in TERMINAL else None,
        )  # fmt: skip
        job = self.job(id)
        assert job is not None
        return job

    def job(self, id: str, owner: str | None = None) -> Job | None:
        """Return the job with this id, of any owner or of the one given."""
        row = self._execute("SELECT * FROM jobs WHERE id = ?", id).fetchone()
        return None if row is None or owner not in (None, row["owner"]) else _job(row)

    def waiting_before(self, job: Job) -> int:
        """Count the jobs that came before and still wait."""
        query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND number < ?"
        return int(self._execute(query, job.number).fetchone()[0])

    def count_waiting(self, owner: str) -> int:
        """Count the jobs of an owner that wait."""
        query = "SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = ?"
        return int(self._execute(query, owner).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Count the jobs by state."""
        return dict(self._execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def claim(self, served: Callable[[str], int]) -> list[Job]:
        """Mark the jobs of the next pass as running and return them; none where nothing waits.

        The owner least recently served is next, with the oldest job; then all that wait for the same pass join it, as far
        as one pass has room. What another worker computes right now is left to wait for its result.
        """
        heads = self._execute(
            "SELECT * FROM jobs WHERE state = 'queued' AND key NOT IN (SELECT key FROM jobs WHERE state = 'running') "
            "GROUP BY owner HAVING number = min(number)"
        ).fetchall()
        if not heads:
            return []
        first = _job(min(heads, key=lambda row: (served(row["owner"]), row["number"])))
        jobs = [first, *(job for job in self._partners(first) if not job.alone and not first.alone)]
        with self._transaction():
            for job in jobs:
                self._execute("UPDATE jobs SET state = 'running' WHERE number = ?", job.number)
        return jobs

    def _partners(self, first: Job) -> list[Job]:
        if not first.pass_key:
            return []
        rows = self._execute(
            "SELECT * FROM jobs WHERE state = 'queued' AND pass_key = ? AND number != ? "
            "AND key NOT IN (SELECT key FROM jobs WHERE state = 'running') ORDER BY number",
            first.pass_key, first.number,
        )  # fmt: skip
        partners, keys, n_queries = [], {first.key}, len(first.question["query"])
        for job in map(_job, rows):
            n_more = len(job.question["query"])
            if job.key not in keys and n_queries + n_more <= MAX_QUERIES:
                partners.append(job)
                keys.add(job.key)
                n_queries += n_more
        return partners

    def finish(self, job: Job, state: str, error_type: str | None = None, error_message: str | None = None) -> bool:
        """End a job, unless it has ended already; tell whether this did."""
        done = self._execute(
            "UPDATE jobs SET state = ?, error_type = ?, error_message = ?, finished = ? "
            "WHERE number = ? AND state IN ('queued', 'running')",
            state, error_type, error_message, time.time(), job.number,
        )  # fmt: skip
        return done.rowcount == 1

    def put_back(self, job: Job, *, alone: bool = False) -> None:
        """Let a running job wait again; `alone`, with no other in its pass."""
        self._execute(
            "UPDATE jobs SET state = 'queued', alone = max(alone, ?) WHERE number = ? AND state = 'running'",
            int(alone), job.number,
        )  # fmt: skip

    def waiting_for(self, key: str) -> list[Job]:
        """Return the jobs that wait for what this key stands for."""
        return [_job(row) for row in self._execute("SELECT * FROM jobs WHERE key = ? AND state = 'queued'", key)]

    def forget_job(self, job: Job) -> None:
        """Remove a job, and its result where no other job has it."""
        with self._transaction():
            self._execute("DELETE FROM jobs WHERE number = ?", job.number)
            others = "SELECT 1 FROM jobs WHERE key = ? AND state NOT IN ('failed', 'cancelled')"
            if self._execute(others, job.key).fetchone() is None:
                self._drop_result(job.key)

    # results

    def result(self, key: str, installation: str | None = None) -> dict[str, Any] | None:
        """Return the facts of a result, and count that as use; None where there is none, or another installation made it."""
        row = self._execute("SELECT * FROM results WHERE key = ?", key).fetchone()
        if row is None or installation not in (None, row["installation"]):
            return None
        self._touch("results", "key", row)
        return dict(json.loads(row["facts"]))

    def add_result(self, key: str, installation: str, facts: dict[str, Any]) -> None:
        """Keep a result whose files are in place."""
        values = (key, installation, json.dumps(facts), size_of(self.place_of_result(key)), time.time())
        self._execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", *values)

    def drop_stale_result(self, key: str) -> None:
        """Remove a result that another installation made, with the jobs that have it."""
        with self._transaction():
            self._execute("DELETE FROM jobs WHERE key = ? AND state = 'done'", key)
            self._drop_result(key)

    def place_of_result(self, key: str) -> Path:
        """Return the folder of a result."""
        return self.folder / "results" / key

    def weigh_again(self, table: str, id: str) -> None:
        """Count the bytes of a recording or a result anew, after a file came into its folder."""
        column = "id" if table == "recordings" else "key"
        n_bytes = size_of(self.folder / table / id)
        self._execute(f"UPDATE {table} SET n_bytes = ? WHERE {column} = ?", n_bytes, id)

    # room

    @property
    def used_bytes(self) -> int:
        """What recordings and results take."""
        query = (
            "SELECT (SELECT ifnull(sum(n_bytes), 0) FROM recordings) + (SELECT ifnull(sum(n_bytes), 0) FROM results)"
        )
        return int(self._execute(query).fetchone()[0])

    def make_room(self, n_bytes: int = 0, keep: str = "") -> bool:
        """Remove what is too old, then what was used least recently, until `n_bytes` fit; tell whether they do.

        What a job needs that has not ended stays, and the recording to `keep`.
        """
        oldest, busy = time.time() - self._keep_seconds, self._busy() | {keep}
        items = self._execute(
            "SELECT 'recordings' AS kind, id AS id, used FROM recordings "
            "UNION ALL SELECT 'results', key, used FROM results ORDER BY used"
        ).fetchall()
        for item in items:
            if item["id"] in busy:
                continue
            if item["used"] >= oldest and self.used_bytes + n_bytes <= self._quota_bytes:
                break
            self._drop(item["kind"], item["id"])
        ended = "DELETE FROM jobs WHERE state IN ('failed', 'cancelled') AND finished < ?"
        self._execute(ended, oldest)
        return self.used_bytes + n_bytes <= self._quota_bytes

    def _busy(self) -> set[str]:
        """Return the recordings and results that jobs need which have not ended."""
        rows = self._execute("SELECT * FROM jobs WHERE state IN ('queued', 'running')").fetchall()
        jobs = [_job(row) for row in rows]
        return {id for job in jobs for id in (job.key, job.recording, *recordings_in(job.question))}

    def _drop(self, kind: str, id: str) -> None:
        if kind == "results":
            self.drop_stale_result(id)
        else:
            self._execute("DELETE FROM recordings WHERE id = ?", id)
            remove(self.place_of_recording(id))

    def _drop_result(self, key: str) -> None:
        self._execute("DELETE FROM results WHERE key = ?", key)
        remove(self.place_of_result(key))

    def _touch(self, table: str, column: str, row: sqlite3.Row) -> None:
        now = time.time()
        if now - row["used"] > _TOUCH_SECONDS:
            self._execute(f"UPDATE {table} SET used = ? WHERE {column} = ?", now, row[column])

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._database.execute(statement, values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _recording(row: sqlite3.Row) -> Recording:
    values = {name: row[name] for name in Recording.__dataclass_fields__}
    return Recording(**{**values, "facts": json.loads(row["facts"])})


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(**{**values, "question": json.loads(row["question"]), "alone": bool(row["alone"])})
