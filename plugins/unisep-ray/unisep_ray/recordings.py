"""What is to be separated: the audio files of a folder, or the rows of a list."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unisep import errors
from unisep.errors import AudioFileError, OptionError, OverwriteError, UnisepError
from unisep.files.formats import READ_SUFFIXES
from unisep.files.paths import safe_name
from unisep_ray.storage import Folder

COLUMNS = ("path", "query", "stems", "example", "name")
_LISTS = (".parquet", ".csv", ".jsonl")
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
        problem: Why it cannot be separated, as a list's row tells; "" for none.
    """

    url: str
    query: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    example: str = ""
    name: str = ""
    problem: str = ""

    def check(self) -> None:
        """Raise the problem, if there is one."""
        if self.problem:
            name, _, message = self.problem.partition(": ")
            raise getattr(errors, name)(message)

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
    place = Folder(source)
    try:
        info = place.info()
    except Exception as error:
        raise OptionError(f"{source!r:.300} cannot be read: {type(error).__name__}: {error}") from error
    if info is None:
        raise OptionError(f"There is nothing at {source!r:.300}. Give a folder of recordings, or a list of them.")
    if info["type"] == "directory":
        yield from _in_folder(place, str(destination))
        return
    if not source.lower().endswith(_LISTS):
        raise OptionError(f"{source!r:.300} is no folder, and no list whose name ends in {', '.join(_LISTS)}.")
    try:
        for row in _rows(place, source.lower()):
            yield _recording(row, str(place).rpartition("/")[0], str(destination))
    except UnisepError:
        raise
    except Exception as error:  # of pyarrow, of decoding
        raise OptionError(f"{source!r:.300} cannot be read as a list: {type(error).__name__}: {error}") from error


def _in_folder(place: Folder, destination: str) -> Iterator[Recording]:
    if f"{place}/".startswith(f"{destination}/"):
        raise OptionError(f"The results would be among the recordings of {place}. Choose another destination.")
    for below, _ in place.walk():
        url = f"{place}/{below}"
        is_audio = f".{below.rpartition('.')[2].lower()}" in READ_SUFFIXES
        if is_audio and not url.startswith(f"{destination}/"):
            yield Recording(url)


def _rows(place: Folder, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a list, some at a time."""
    with place.fs.open(place.root, "rb") as file:
        if name.endswith(".parquet"):
            from pyarrow import parquet

            table = parquet.ParquetFile(file)
            _check_columns(table.schema_arrow.names)
            wanted = [column for column in COLUMNS if column in table.schema_arrow.names]
            for batch in table.iter_batches(_BATCH_ROWS, columns=wanted):
                yield from batch.to_pylist()
        elif name.endswith(".csv"):
            reader = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline=""))
            _check_columns(reader.fieldnames or ())
            yield from reader
        else:
            for line in file:
                if line.strip():
                    yield _json_row(line)


def _check_columns(columns: Any) -> None:
    if "path" not in columns:
        raise OptionError(f"The list has no column 'path', only {', '.join(map(repr, columns)) or 'none'}.")


def _json_row(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        return {"path": line.decode(errors="replace").strip()[:300], "problem": f"The line is no JSON: {error}."}
    if not isinstance(row, dict):
        return {"path": str(row)[:300], "problem": "The line is no JSON object with a path."}
    return row


def _recording(row: Mapping[str, Any], folder: str, destination: str) -> Recording:
    """Return the recording of a row, with a problem where the row makes no sense."""
    written = row.get("path")
    try:
        if row.get("problem"):
            raise OptionError(str(row["problem"]))
        path, name, example = (_text(row, key) for key in ("path", "name", "example"))
        if not path:
            raise AudioFileError("The row has no path.")
        query, stems = _texts(row, "query"), _texts(row, "stems")
        if name and safe_name(name) != name:
            raise OptionError(f"The name {name!r:.200} is no file name. Write it as {safe_name(name)!r}, say.")
        if stems and (query or example):
            raise OptionError("A row has stems, or else a query and an example.")
        stems = tuple(part.strip() for stem in stems for part in stem.split(","))
        recording = Recording(_resolved(path, folder), query, stems, _resolved(example, folder), name)
        if f"{recording.url}/".startswith(f"{destination}/"):
            raise OverwriteError(f"{path} is in the destination, where results would replace it.")
        return recording
    except UnisepError as error:
        return Recording(str(written)[:1000], problem=f"{type(error).__name__}: {error}")


def _resolved(path: str, folder: str) -> str:
    """Return a path of a list; one that is relative starts at the list's folder."""
    if not path or "://" in path or path.startswith("/"):
        return path
    return f"{folder}/{path}"


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise OptionError(f"{key} is {value!r:.100}, and no text.")
    return value


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, float) and math.isnan(part) for part in parts):
        raise OptionError(f"{key} is NaN, and no text. Leave it empty.")
    return tuple(text for part in parts if (text := _text({key: part}, key)))
