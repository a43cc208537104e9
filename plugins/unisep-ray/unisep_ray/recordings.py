"""What is to be separated: the audio files of a folder, or the rows of a list."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyarrow import parquet

from unisep.errors import AudioFileError, OptionError, OverwriteError, UnisepError
from unisep.files.formats import READ_SUFFIXES
from unisep.files.paths import safe_name
from unisep_ray.storage import Folder, storing

_LISTS = (".parquet", ".csv", ".jsonl")
_COLUMNS = ("path", "query", "stems", "example", "name")
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Recording:
    """One recording, and what is asked of it where that is not what is asked of all.

    Attributes:
        url: Where it is.
        query: Texts of sounds to isolate.
        stems: Fixed stems to give.
        example: Where a clip of such a sound is.
        name: What takes the place of its own name in the names of results.
        problem: Why it cannot be separated, where that is known from the list.
    """

    url: str
    query: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    example: str = ""
    name: str = ""
    problem: UnisepError | None = None

    @property
    def file_name(self) -> str:
        """Its file's name, under which it is separated."""
        own = self.url.rstrip("/").rpartition("/")[2] or "unnamed"
        suffix = own[own.rindex(".") :] if "." in own else ""
        return f"{self.name}{suffix}" if self.name else own

    @property
    def folder_name(self) -> str:
        """The name of the folder that it is in."""
        return self.url.rstrip("/").rpartition("/")[0].rpartition("/")[2]

    @property
    def question(self) -> str:
        """What is asked of this one alone, as JSON; "" where it is asked what all are."""
        values = [self.query, self.stems, self.example]
        return json.dumps(values) if any(values) else ""


def recordings(source: str, destination: Folder) -> Iterator[Recording]:
    """Yield the recordings of a folder, or of a list in Parquet, CSV or JSON lines, in order.

    Rows that cannot be used are recordings with a `problem`. What is in the destination is no recording.

    Raises:
        OptionError: A source that is not there, cannot be read, or is no list with a column `path`.
    """
    place, results = Folder(source), f"{destination}/"
    with storing(f"{source!r:.300} cannot be read", OptionError):
        info = place.info()
        if info is None:
            raise OptionError(f"There is nothing at {source!r:.300}. Give a folder of recordings, or a list of them.")
        if info["type"] != "directory":
            yield from (_recording(row, str(place).rpartition("/")[0], results) for row in _rows(place))
            return
        if f"{place}/".startswith(results):
            raise OptionError(f"The results would be among the recordings of {place}. Choose another destination.")
        for below, _ in place.walk():
            url = f"{place}/{below}"
            if f".{below.rpartition('.')[2].lower()}" in READ_SUFFIXES and not url.startswith(results):
                yield Recording(url)


def _rows(place: Folder) -> Iterator[Any]:
    """Yield the rows of a list, some at a time, as dicts; what is no JSON, as it is."""
    name = place.root.lower()
    if not name.endswith(_LISTS):
        raise OptionError(f"{place} is no folder, and no list whose name ends in {', '.join(_LISTS)}.")
    with place.fs.open(place.root, "rb") as file:
        if name.endswith(".parquet"):
            table = parquet.ParquetFile(file)
            columns = _checked_columns(table.schema_arrow.names)
            for batch in table.iter_batches(_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
        elif name.endswith(".csv"):
            reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            _checked_columns(reader.fieldnames or ())
            yield from reader
        else:
            yield from (_from_json(line) for line in file if line.strip())


def _checked_columns(columns: Any) -> list[str]:
    if "path" not in columns:
        raise OptionError(f"The list has no column 'path', only {', '.join(map(repr, columns)) or 'none'}.")
    return [column for column in _COLUMNS if column in columns]


def _from_json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode(errors="replace").strip()


def _recording(row: Any, folder: str, results: str) -> Recording:
    """Return the recording of a row, with a problem where the row makes no sense."""
    try:
        if not isinstance(row, dict):
            raise OptionError("The line is no JSON object with a path.")
        path, name, example = (_text(row.get(key), key) for key in ("path", "name", "example"))
        query, stems = _texts(row, "query"), _texts(row, "stems")
        if not path:
            raise AudioFileError("The row has no path.")
        if name and safe_name(name) != name:
            raise OptionError(f"The name {name!r:.200} is no file name. Write it as {safe_name(name)!r}, say.")
        if stems and (query or example):
            raise OptionError("A row has stems, or else a query and an example.")
        stems = tuple(part.strip() for stem in stems for part in stem.split(","))
        recording = Recording(_resolved(path, folder), query, stems, _resolved(example, folder), name)
        if f"{recording.url}/".startswith(results):
            raise OverwriteError(f"{path} is in the destination, where results would replace it.")
        return recording
    except UnisepError as error:
        written = row.get("path") if isinstance(row, dict) else row
        return Recording(str(written)[:1000], problem=error)


def _resolved(path: str, folder: str) -> str:
    """Return a path of a list; one that is relative starts at the list's folder."""
    return path if not path or "://" in path or path.startswith("/") else f"{folder}/{path}"


def _texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    values = row.get(key)
    texts = [_text(value, key) for value in (values if isinstance(values, list) else [values])]
    return tuple(filter(None, texts))


def _text(value: Any, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise OptionError(f"{key} is {value!r:.100}, and no text.")
    return value
