"""The record of what a batch has completed, from which `--resume` goes on.

One JSON line for each finished input, written after its files have their final names and flushed to
the disk; a line cut short by a crash is ignored. A line holds the sha256 of the input as it was when
its separation began, that of every file written, and what decided the result: the question, the
options, and the content of all weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unisep.hashes import sha256_of

FILE_NAME = ".unisep-done.jsonl"


@dataclass(frozen=True)
class Entry:
    """One finished input: its path and sha256, what decided the result, and what it gave.

    outputs: name of the result -> [path in the output folder, sha256].
    details: what is printed about it: presence, plan, gain.
    """

    input: str
    sha256: str
    asked: Mapping[str, Any]
    outputs: Mapping[str, tuple[str, str]]
    details: Mapping[str, Any]


class Ledger:
    """The record of one output folder, read once, appended to after each input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._entries = {(entry.input, _key(entry.asked)): entry for entry in _read(self._path)}

    def is_output(self, path: Path) -> bool:
        """Whether an earlier run wrote this file."""
        if not path.resolve().is_relative_to(self._folder.resolve()):
            return False
        place = path.resolve().relative_to(self._folder.resolve()).as_posix()
        return any(
            place == output for entry in self._entries.values() for output, _ in entry.outputs.values()
        )

    def completed(self, source: Path, asked: Mapping[str, Any]) -> Entry | None:
        """The entry of `source`, if the same was asked of it and every file is still what was written."""
        entry = self._entries.get((str(source.resolve()), _key(asked)))
        if entry is None or sha256_or_nothing(source) != entry.sha256:
            return None
        intact = all(
            sha256_or_nothing(self._folder / place) == sha256 for place, sha256 in entry.outputs.values()
        )
        return entry if intact else None

    def add(
        self,
        source: Path,
        sha256: str,
        asked: Mapping[str, Any],
        outputs: Mapping[str, Path],
        details: Mapping[str, Any],
    ) -> None:
        """Record that `source` is done; `outputs` are paths within the output folder.

        sha256: of the source before it was read, so that one that changed meanwhile is done again.
        """
        written = {
            name: (path.relative_to(self._folder).as_posix(), sha256_or_nothing(path))
            for name, path in outputs.items()
        }
        entry = Entry(str(source.resolve()), sha256, asked, written, details)
        line = json.dumps(asdict(entry))  # in ASCII, which holds names of files that are not UTF-8 too
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries[entry.input, _key(asked)] = entry


def _read(path: Path) -> list[Entry]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            values = json.loads(line)
            outputs = {str(name): (str(place), str(sha)) for name, (place, sha) in values["outputs"].items()}
            entries.append(
                Entry(
                    str(values["input"]), str(values["sha256"]), values["asked"], outputs, values["details"]
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return entries


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True, default=str)


def sha256_or_nothing(path: Path) -> str:
    """The sha256 of a file; empty where there is none."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
