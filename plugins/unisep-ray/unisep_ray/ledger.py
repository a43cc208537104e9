"""What became of each recording: a ledger in Parquet that grows by parts, and the lease by which one driver writes it."""

from __future__ import annotations

import io
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import parquet

from unisep.errors import OptionError
from unisep_ray.storage import Folder, storage_error

HOME = ".unisep"
PARTIAL = f"{HOME}/partial"
_PARTS, _LEASE = f"{HOME}/ledger", f"{HOME}/lease.json"
_N_ROWS, _SECONDS = 500, 10.0  # of a part
_MAX_WAITING = 10_000  # rows that a place which is full, or away, may keep waiting
LEASE_SECONDS = 60.0
SCHEMA = pa.schema(
    {
        "recording": pa.string(), "place": pa.string(), "question": pa.string(), "etag": pa.string(), "length": pa.int64(),
        "request": pa.string(), "state": pa.string(),
        "outputs": pa.list_(pa.struct(
            {"name": pa.string(), "path": pa.string(), "sha256": pa.string(), "length": pa.int64(), "presence": pa.float64()}
        )),
        "plan": pa.string(), "gain": pa.float64(), "audio_seconds": pa.float64(), "seconds": pa.float64(),
        "node": pa.string(), "attempts": pa.int32(), "error_type": pa.string(), "error": pa.string(),
        "finished": pa.timestamp("us", "UTC"),
    }
)  # fmt: skip
Row = dict[str, Any]


class Ledger:
    """The ledger of a destination. One row a place of results counts: the last that was written.

    In memory are a few bytes for each row, not the rows.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._rows: list[Row] = []
        self._last = time.monotonic()
        self._part = lru_cache(4)(self._read)
        self._index: dict[bytes, tuple[str, int]] = {}
        self._superseded: dict[str, set[int]] = {}
        for part in self._parts():
            for number, place in enumerate(self._part(part)["place"].to_pylist()):
                self._note(place, part, number)

    def __len__(self) -> int:
        return len(self._index)

    def former(self, place: str) -> Row | None:
        """Return the row of a place, as an earlier run wrote it."""
        part, number = self._index.get(_key(place), ("", 0))
        return self._part(part).slice(number, 1).to_pylist()[0] if part else None

    def add(self, row: Row) -> None:
        """Keep a row until it is written with others."""
        self._rows.append(row)
        if len(self._rows) >= _N_ROWS:
            self.flush_if_due(1.0)

    def flush_if_due(self, seconds: float = _SECONDS) -> None:
        """Write the rows that wait as a part, if the last one is old enough."""
        if time.monotonic() - self._last >= seconds:
            self.flush()

    def flush(self, *, may_wait: bool = True) -> None:
        """Write the rows that wait as a part. Where that fails they go on waiting, if they may and are not too many."""
        self._last = time.monotonic()
        if not self._rows:
            return
        part = f"{_PARTS}/{time.time_ns():020d}-{uuid4().hex[:8]}.parquet"
        try:
            self._write(part, pa.Table.from_pylist(self._rows, SCHEMA))
        except Exception as error:
            if may_wait and len(self._rows) < _MAX_WAITING:
                return
            raise storage_error(error, f"The ledger of {self._folder} cannot be written") from error
        for number, row in enumerate(self._rows):
            self._note(row["place"], part, number)
        self._rows = []

    def close(self) -> None:
        """Write what waits, and take out the rows that later ones have taken the place of."""
        self.flush(may_wait=False)
        for part, numbers in self._superseded.items():
            table = self._part(part)
            kept = table.filter(pa.array([number not in numbers for number in range(table.num_rows)]))
            if kept.num_rows:
                self._write(part, kept)
            else:
                self._folder.remove(part)
        self._superseded = {}

    def rows(self) -> Iterator[Row]:
        """Yield the rows that count."""
        for part in self._parts():
            for number, row in enumerate(self._part(part).to_pylist()):
                if self._index.get(_key(row["place"])) == (part, number):
                    yield row

    def _note(self, place: str, part: str, number: int) -> None:
        former, former_number = self._index.get(_key(place), ("", 0))
        if former:
            self._superseded.setdefault(former, set()).add(former_number)
        self._index[_key(place)] = part, number

    def _parts(self) -> list[str]:
        if self._folder.info(_PARTS) is None:
            return []
        return sorted(f"{_PARTS}/{name}" for name, _ in _below(self._folder) if name.endswith(".parquet"))

    def _read(self, part: str) -> pa.Table:
        return parquet.read_table(io.BytesIO(self._folder.read(part)), schema=SCHEMA)

    def _write(self, part: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        self._folder.write(part, buffer.getvalue(), through=f"{PARTIAL}/{uuid4().hex}")


def read_ledger(destination: str) -> pa.Table:
    """Return what became of each recording, one row each, also while a driver is at work.

    Raises:
        OptionError: There is no such place.
    """
    return pa.Table.from_pylist(list(Ledger(Folder(destination)).rows()), SCHEMA)


class Lease:
    """The right of one driver to write to a destination, renewed as long as it lives. Others are refused.

    Raises OptionError where another driver has it, or the destination cannot be written to.
    """

    def __init__(self, folder: Folder, seconds: float = LEASE_SECONDS) -> None:
        self._folder, self._seconds = folder, seconds
        self.id, self._stopped, self._other = uuid4().hex, threading.Event(), ""
        try:
            self._acquire()
        except OptionError:
            raise
        except Exception as error:
            raise OptionError(f"{folder} cannot be written to: {type(error).__name__}: {error}") from error
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise OptionError where another driver has taken over."""
        if self._other:
            raise OptionError(f"Another driver has taken over {self._folder}: {self._other}. This one stops.")

    def release(self) -> None:
        """Let the next driver begin at once."""
        self._stopped.set()
        self._thread.join(self._seconds)
        if not self._other:
            self._folder.remove(_LEASE)

    def _acquire(self) -> None:
        while not self._folder.create(_LEASE, self._content()):
            holder = self._holder()
            if not holder:
                time.sleep(1.0)  # it may be about to be written
                holder = self._holder()
            if holder.get("id") == self.id:  # an earlier try got through
                return
            if holder and not _is_over(holder):
                left = max(0.0, holder["expires"] - time.time())
                raise OptionError(
                    f"{self._folder} belongs to another driver: {_described(holder)}. Wait for its end, or for {left:.0f} s "
                    "after it died."
                )
            self._folder.remove(_LEASE)
        if self._holder().get("id") != self.id:
            raise OptionError(f"Another driver has just taken {self._folder}.")

    def _content(self) -> bytes:
        mine = {"id": self.id, "host": platform.node(), "pid": os.getpid(), "expires": time.time() + self._seconds}
        return json.dumps(mine).encode()

    def _holder(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, ValueError, TypeError):
            holder = json.loads(self._folder.read(_LEASE))
            return {**holder, "expires": float(holder["expires"]), "pid": int(holder["pid"])}
        return {}

    def _renew(self) -> None:
        while not self._stopped.wait(self._seconds / 4):
            with suppress(Exception):  # the store is away for longer; what counts is who has the lease then
                holder = self._holder()
                if holder and holder.get("id") != self.id:
                    self._other = _described(holder)
                    return
                self._folder.write(_LEASE, self._content(), through=f"{PARTIAL}/{uuid4().hex}")


def _is_over(holder: dict[str, Any]) -> bool:
    """Tell whether a lease has ended, by the clock, or because its process on this machine has."""
    if holder["expires"] < time.time():
        return True
    if holder.get("host") != platform.node():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _described(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _below(folder: Folder) -> Iterator[tuple[str, dict[str, Any]]]:
    return Folder(f"{folder}/{_PARTS}").walk()


def _key(place: str) -> bytes:
    return blake2b(place.encode(errors="surrogatepass"), digest_size=12).digest()
