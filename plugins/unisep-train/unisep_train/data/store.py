"""The training store: labelled sounds in one flat int16 file a part, read through the page cache.

A store is a folder with a subfolder for every part (`corpus`, `rendered`, ...). A part holds

- `samples.i16`: all sounds one after another, channels interleaved, each scaled to use the full range;
- `activity.i8`: loudness in dBFS of every 0.1 s of every sound, in its original scale;
- `index.jsonl`: one line a sound (`Item`);
- `begun`: the rate and the source, written first, so that an interrupted build goes on with no other;
- `part.json`: the rate and the number of sounds. It is written last: a folder without it is unfinished.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from unisep.errors import OptionError, UnisepError

FORMAT_VERSION = 1
ACTIVITY_SECONDS = 0.1
SILENCE_DB = -120
FULL_SCALE = 32767.0


class StoreError(UnisepError, ValueError):
    """A training store, or the folder it is built from, that is missing, damaged or inconsistent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """What is known of one sound of a store.

    `first_value` counts int16 values in `samples.i16`; `n_samples` counts samples a channel;
    `scale` turns int16 values into the original float samples; `split` is train, valid or excluded.
    """

    id: str
    kind: str
    song: str
    stem: str
    label: str
    synonyms: tuple[str, ...]
    family: str
    four_stem: str
    split: str
    licence: str
    source_rate_hz: int
    n_channels: int
    n_samples: int
    first_value: int
    first_activity: int
    n_activity: int
    scale: float
    part: str = ""


def parsed(line: bytes, path: Path, part: str) -> Item:
    """The sound that a line of the index at `path` describes. Raises StoreError for a damaged one."""
    try:
        row = json.loads(line)
        row["synonyms"] = tuple(row["synonyms"])
        return Item(**row, part=part)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path} is damaged ({error}). Delete its folder and build it again.") from error


@final
class Store:
    """Sounds of a store, read without loading it: `read` touches only the samples asked for.

    Pickles as its path, so that data-loading processes each map the files themselves.
    """

    def __init__(self, folder: str | Path, parts: tuple[str, ...] | None = None) -> None:
        self.folder = Path(folder)
        self.parts = parts if parts is not None else _finished_parts(self.folder)
        facts = [part_facts(self.folder / part) for part in self.parts]
        rates = {fact["sample_rate_hz"] for fact in facts}
        if len(rates) != 1:
            each = ", ".join(
                f"{part} at {fact['sample_rate_hz']} Hz" for part, fact in zip(self.parts, facts, strict=True)
            )
            raise StoreError(f"{self.folder} has parts at different rates: {each}. Build them alike.")
        self.sample_rate_hz: int = rates.pop()
        self.items = _songs_apart([item for part in self.parts for item in self._index(part)])
        if len(self.items) != sum(fact["n_items"] for fact in facts):
            raise StoreError(f"{self.folder}: the index does not match the sounds. Build it again.")

    def __reduce__(self) -> tuple[type[Store], tuple[Path, tuple[str, ...]]]:
        return Store, (self.folder, self.parts)

    def _index(self, part: str) -> Iterator[Item]:
        path = self.folder / part / "index.jsonl"
        return (parsed(line, path, part) for line in path.read_bytes().splitlines())

    @cached_property
    def _samples(self) -> dict[str, NDArray[np.int16]]:
        files = {part: self.folder / part / "samples.i16" for part in self.parts}
        return {part: np.memmap(path, dtype="<i2", mode="r") for part, path in files.items() if path.stat().st_size}

    @cached_property
    def _activity(self) -> dict[str, NDArray[np.int8]]:
        return {p: np.fromfile(self.folder / p / "activity.i8", dtype=np.int8) for p in self.parts}

    def activity(self, item: Item) -> NDArray[np.int8]:
        """Loudness in dBFS of each 0.1 s of the sound."""
        return self._activity[item.part][item.first_activity : item.first_activity + item.n_activity]

    def read(self, item: Item, start: int, n_samples: int) -> NDArray[np.float32]:
        """Samples `[2, n_samples]` from `start` (may be negative); silence outside the sound."""
        out = np.zeros((2, n_samples), dtype=np.float32)
        first, last = max(start, 0), min(start + n_samples, item.n_samples)
        if first < last:
            n = item.n_channels
            flat = self._samples[item.part][item.first_value + first * n : item.first_value + last * n]
            np.multiply(flat.reshape(-1, n).T, np.float32(item.scale), out=out[:, first - start : last - start])
        return out

    def at_rate(self, sample_rate_hz: int) -> Store:
        """This store. Raises OptionError when its sounds are not at the model's `sample_rate_hz`."""
        if self.sample_rate_hz != sample_rate_hz:
            raise OptionError(
                f"The store is at {self.sample_rate_hz} Hz, the model at {sample_rate_hz}. Build a store at its rate."
            )
        return self

    def loudness_db(self, item: Item) -> float:
        """Level of the sound while it sounds: mean power of the 0.1 s within 25 dB of its loudest."""
        activity = self.activity(item).astype(np.float64)
        sounding = activity[activity >= max(activity.max() - 25, SILENCE_DB)]
        return 10 * math.log10(np.mean(10 ** (sounding / 10)))


def _songs_apart(items: list[Item]) -> tuple[Item, ...]:
    """The items, songs that only share their name with one of another part named apart."""
    parts: dict[str, set[str]] = {}
    for item in items:
        parts.setdefault(item.song, set()).add(item.part)
    return tuple(
        dataclasses.replace(item, song=f"{item.part}/{item.song}") if item.song and len(parts[item.song]) > 1 else item
        for item in items
    )


def parts_of(folder: Path) -> tuple[str, ...]:
    """The finished parts of a store, if it has any."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/part.json")))


def _finished_parts(folder: Path) -> tuple[str, ...]:
    parts = parts_of(folder)
    if not parts:
        raise StoreError(
            f"{folder} holds no finished part of a training store. Build one with "
            f"'python -m unisep_train.data.corpus SOURCE {folder}'."
        )
    return parts


def part_facts(folder: Path) -> dict[str, int]:
    """What a finished part says of itself: format, rate, number of sounds. Raises StoreError where it is damaged."""
    path = folder / "part.json"
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Build this part again.") from error
    if facts.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{path} is of another format version than {FORMAT_VERSION}. Build it again.")
    return facts
