"""What became of each recording: a ledger in Parquet that grows by parts, and the lease by which one driver writes it."""

from __future__ import annotations

import io
import json
import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import parquet

from unisep.errors import OptionError, UnisepError
from unisep_ray.storage import HOME, Folder, storing

_PARTS, _LEASE = f"{HOME}/ledger", f"{HOME}/lease.json"
_N_ROWS, _SECONDS, _LEAST_SECONDS = 500, 10.0, 1.0  # of a part
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
        self._part = lru_cache(4)(partial(_read, folder))
        self._index: dict[bytes, tuple[str, int]] = {}
        self._superseded: dict[str, set[int]] = defaultdict(set)
        for part in _parts(folder):
            self._note(part, self._part(part)["place"].to_pylist())

    def __len__(self) -> int:
        return len(self._index)

    def former(self, place: str) -> Row | None:
        """Return the row of a place, as an earlier run wrote it."""
        part, number = self._index.get(digest(place), ("", 0))
        return self._part(part).slice(number, 1).to_pylist()[0] if part else None

    def add(self, row: Row) -> None:
        """Keep a row until it is written with others."""
        self._rows.append(row)

    def flush_if_due(self) -> None:
        """Write the rows that wait as a part, if they are many or old. Where that fails they wait on, unless they are too many."""
        waited_seconds = time.monotonic() - self._last
        if waited_seconds < (_LEAST_SECONDS if len(self._rows) >= _N_ROWS else _SECONDS):
            return
        try:
            self.flush()
        except UnisepError:
            if len(self._rows) >= _MAX_WAITING:
                raise

    def flush(self, *, waits_for_room: bool = False) -> None:
        """Write the rows that wait as a part."""
        self._last = time.monotonic()
        if not self._rows:
            return
        part = f"{_PARTS}/{time.time_ns():020d}-{uuid4().hex[:8]}.parquet"
        with storing(f"The ledger of {self._folder} cannot be written"):
            _write(self._folder, part, pa.Table.from_pylist(self._rows, SCHEMA), waits_for_room)
        self._note(part, [row["place"] for row in self._rows])
        self._rows = []

    def close(self) -> None:
        """Write what waits, and take out the rows that later ones have taken the place of."""
        self.flush(waits_for_room=True)
        with suppress(Exception):  # they do no harm
            for part, numbers in self._superseded.items():
                table = self._part(part)
                kept = table.filter(pa.array([number not in numbers for number in range(table.num_rows)]))
                if kept.num_rows:
                    _write(self._folder, part, kept)
                else:
                    self._folder.remove(part)

    def _note(self, part: str, places: Iterable[str]) -> None:
        for number, place in enumerate(places):
            key = digest(place)
            if key in self._index:
                former, former_number = self._index[key]
                self._superseded[former].add(former_number)
            self._index[key] = part, number


def read_ledger(destination: str) -> pa.Table:
    """Return what became of each recording, one row each, also while a driver is at work.

    Raises:
        OptionError: There is no such place.
    """
    folder = Folder(destination)
    table = pa.concat_tables([SCHEMA.empty_table(), *(_read(folder, part) for part in _parts(folder))])
    last = {place: number for number, place in enumerate(table["place"].to_pylist())}
    return table.take(pa.array(sorted(last.values()), pa.int64()))


class Lease:
    """The right of one driver to write to a destination, renewed as long as it lives. Others are refused.

    Raises OptionError where another driver has it, or the destination cannot be written to.
    """

    def __init__(self, folder: Folder, seconds: float = LEASE_SECONDS) -> None:
        self._folder, self._seconds, self._id = folder, seconds, uuid4().hex
        self._stopped, self._other = threading.Event(), ""
        with storing(f"{folder} cannot be written to", OptionError):
            self._acquire()
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
            if holder["id"] == self._id:  # an earlier try got through
                return
            if not _is_over(holder):
                raise OptionError(
                    f"{self._folder} belongs to another driver: {_described(holder)}. Wait for its end, or for "
                    f"{holder['expires'] - time.time():.0f} s after it died."
                )
            self._folder.remove(_LEASE)
        if self._holder()["id"] != self._id:
            raise OptionError(f"Another driver has just taken {self._folder}.")

    def _content(self) -> bytes:
        mine = {"id": self._id, "host": platform.node(), "pid": os.getpid(), "expires": time.time() + self._seconds}
        return json.dumps(mine).encode()

    def _holder(self) -> dict[str, Any]:
        """Return who has the lease; with the id "" one that is over, where it makes no sense even a second later."""
        for wait_seconds in (1.0, 0.0):  # it may be about to be written
            with suppress(FileNotFoundError, KeyError, TypeError, ValueError):
                holder = json.loads(self._folder.read(_LEASE))
                kinds = {"id": str, "host": str, "pid": int, "expires": float}
                return {name: kind(holder[name]) for name, kind in kinds.items()}
            time.sleep(wait_seconds)
        return {"id": "", "host": "", "pid": 0, "expires": 0.0}

    def _renew(self) -> None:
        while not self._stopped.wait(self._seconds / 4):
            with suppress(Exception):  # the store is away for longer; what counts is who has the lease then
                holder = self._holder()
                if holder["id"] not in ("", self._id):
                    self._other = _described(holder)
                    return
                self._folder.write(_LEASE, self._content())


def digest(text: str) -> bytes:
    """Return what stands for a text in memory, in a few bytes."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=12).digest()


def _parts(folder: Folder) -> list[str]:
    if folder.info(_PARTS) is None:
        return []
    return [place for place, _ in folder.walk(_PARTS) if place.endswith(".parquet")]


def _read(folder: Folder, part: str) -> pa.Table:
    return parquet.read_table(io.BytesIO(folder.read(part)), schema=SCHEMA)


def _write(folder: Folder, part: str, table: pa.Table, waits_for_room: bool = False) -> None:
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    folder.write(part, buffer.getvalue(), waits_for_room=waits_for_room)


def is_alive(pid: int) -> bool:
    """Tell whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def _is_over(holder: dict[str, Any]) -> bool:
    """Tell whether a lease has ended, by the clock, or because its process on this machine has."""
    is_here = holder["host"] == platform.node()
    return bool(holder["expires"] < time.time() or (is_here and not is_alive(holder["pid"])))


def _described(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"
