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
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from unisep.errors import DatasetError, OptionError
from unisep.files.paths import write_whole

FORMAT_VERSION = 1
ACTIVITY_SECONDS = 0.1
SILENCE_DB = -120
FULL_SCALE = 32767.0


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One sound of a store.

    Attributes:
        split: train, valid or excluded.
        n_samples: of one channel.
        first_value: where its int16 values begin in `samples.i16`.
        scale: turns int16 values into the original float samples.
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

    @classmethod
    def parsed(cls, line: bytes, path: Path) -> Item:
        """Read a line of the index at `path`. Raises DatasetError for a damaged one."""
        try:
            row = json.loads(line)
            return cls(**{**row, "synonyms": tuple(row["synonyms"])}, part=path.parent.name)
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{path} is damaged ({error}). Delete its folder and build it again.") from error


@final
class Store:
    """Sounds of a store, read without loading it: `read` touches only the samples asked for.

    Pickles as its path, so that data-loading processes each map the files themselves.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.parts = parts_of(self.folder)
        if not self.parts:
            raise DatasetError(
                f"{folder} holds no finished part of a training store. Build one with "
                f"'python -m unisep_train corpus SOURCE {folder}'."
            )
        facts = {part: part_facts(self.folder / part) for part in self.parts}
        rates_hz = {fact["sample_rate_hz"] for fact in facts.values()}
        if len(rates_hz) != 1:
            listed = ", ".join(f"{part} at {fact['sample_rate_hz']} Hz" for part, fact in facts.items())
            raise DatasetError(f"{self.folder} has parts at different rates: {listed}. Build them alike.")
        (self.sample_rate_hz,) = rates_hz
        indices = [self.folder / part / "index.jsonl" for part in self.parts]
        items = [Item.parsed(line, path) for path in indices for line in path.read_bytes().splitlines()]
        if len(items) != sum(fact["n_items"] for fact in facts.values()):
            raise DatasetError(f"{self.folder}: the index does not match the sounds. Build it again.")
        # Songs that only share their name with one of another part get names of their own.
        n_parts = Counter(song for song, _ in {(item.song, item.part) for item in items if item.song})
        shared = {song for song, n in n_parts.items() if n > 1}
        self.items = tuple(
            dataclasses.replace(item, song=f"{item.part}/{item.song}") if item.song in shared else item
            for item in items
        )

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.folder,)

    @cached_property
    def _samples(self) -> dict[str, NDArray[np.int16]]:
        files = {part: self.folder / part / "samples.i16" for part in self.parts}
        return {part: np.memmap(path, dtype="<i2", mode="r") for part, path in files.items() if path.stat().st_size}

    @cached_property
    def _activity(self) -> dict[str, NDArray[np.int8]]:
        return {part: np.fromfile(self.folder / part / "activity.i8", dtype=np.int8) for part in self.parts}

    def activity(self, item: Item) -> NDArray[np.int8]:
        """Return the loudness in dBFS of each 0.1 s of the sound."""
        return self._activity[item.part][item.first_activity : item.first_activity + item.n_activity]

    def read(self, item: Item, start: int, n_samples: int) -> NDArray[np.float32]:
        """Read samples `[2, n_samples]` from `start` (may be negative); outside the sound all is silent."""
        out = np.zeros((2, n_samples), dtype=np.float32)
        first, last = max(start, 0), min(start + n_samples, item.n_samples)
        if first < last:
            n = item.n_channels
            flat = self._samples[item.part][item.first_value + first * n : item.first_value + last * n]
            np.multiply(flat.reshape(-1, n).T, np.float32(item.scale), out=out[:, first - start : last - start])
        return out

    def at_rate(self, sample_rate_hz: int) -> Store:
        """Return this store. Raises OptionError when its sounds are not at the model's `sample_rate_hz`."""
        if self.sample_rate_hz != sample_rate_hz:
            raise OptionError(
                f"The store is at {self.sample_rate_hz} Hz, the model at {sample_rate_hz}. Build a store at its rate."
            )
        return self


def parts_of(folder: Path) -> tuple[str, ...]:
    """List the finished parts of a store, if it has any."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/part.json")))


def part_facts(folder: Path) -> dict[str, int]:
    """Read what a finished part says of itself: format, rate, number of sounds. Raises DatasetError where it is damaged."""
    path = folder / "part.json"
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}). Build this part again.") from error
    if facts.get("format_version") != FORMAT_VERSION:
        raise DatasetError(f"{path} is of another format version than {FORMAT_VERSION}. Build it again.")
    return facts


@final
class PartWriter:
    """Append sounds to one part of a store; what an interrupted run has finished is kept.

    Use as a context manager: the part becomes readable only when the block ends without an error. An unfinished part
    goes on at the same rate and from the same `source` only.
    """

    def __init__(self, store: Path, name: str, sample_rate_hz: int, source: str = "") -> None:
        if name in ("", ".", "..") or Path(name).name != name:
            raise DatasetError(f"{name!r} is no name of a part: give one without folders.")
        self.folder = Path(store) / name
        self.source, self.sample_rate_hz = source, sample_rate_hz
        self.done: set[str] = set()
        self._n_values = self._n_activity = 0

    def __enter__(self) -> PartWriter:
        store = self.folder.parent
        if (self.folder / "part.json").exists():
            raise DatasetError(f"{self.folder} is a finished part. Delete that folder to build it again.")
        others_hz = {part_facts(store / part)["sample_rate_hz"] for part in parts_of(store)} - {self.sample_rate_hz}
        if others_hz:
            raise DatasetError(
                f"The other parts of {store} are at {', '.join(map(str, sorted(others_hz)))} Hz, not "
                f"{self.sample_rate_hz}: all parts of a store have one rate."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = self.folder / "begun"
        facts = f"{self.sample_rate_hz} Hz{f' from {self.source}' if self.source else ''}\n"
        if begun.exists() and (was := begun.read_text(encoding="utf-8")) != facts:
            raise DatasetError(
                f"{self.folder} was begun at {was.strip()}, not {facts.strip()}. Go on as it was begun, or delete it."
            )
        begun.write_text(facts, encoding="utf-8")
        n_index_bytes = self._recover()
        places = {"samples.i16": 2 * self._n_values, "activity.i8": self._n_activity, "index.jsonl": n_index_bytes}
        self._files = [_open_at(self.folder / name, n_bytes) for name, n_bytes in places.items()]
        return self

    def _recover(self) -> int:
        """Move positions behind the sounds that an earlier run left complete; return the length of its index in bytes."""
        path = self.folder / "index.jsonl"
        text = path.read_bytes() if path.exists() else b""
        kept = text[: text.rfind(b"\n") + 1]
        for line in kept.splitlines():
            item = Item.parsed(line, path)
            self.done.add(item.id)
            self._n_values = item.first_value + item.n_samples * item.n_channels
            self._n_activity = item.first_activity + item.n_activity
        return len(kept)

    def add(self, samples: NDArray[np.float32], **facts: Any) -> None:
        """Append `samples [samples, channels]`; `facts` are the fields of `Item` that are not positions."""
        if samples.ndim != 2 or len(samples) == 0 or not np.isfinite(samples).all():
            raise DatasetError(f"{facts.get('id')}: expected finite [samples, channels], got {samples.shape}.")
        if facts.get("id") in self.done:
            raise DatasetError(f"{facts.get('id')} is in {self.folder} already: each sound has a name of its own.")
        if samples.shape[1] == 2 and np.array_equal(samples[:, 0], samples[:, 1]):
            samples = samples[:, :1]  # half the bytes to read during training
        scale = max(float(np.abs(samples).max()), 1e-6) / FULL_SCALE
        activity = activity_db(samples, self.sample_rate_hz)
        item = Item(
            **facts, n_samples=len(samples), n_channels=samples.shape[1], scale=scale,
            first_value=self._n_values, first_activity=self._n_activity, n_activity=len(activity),
        )  # fmt: skip
        row = {key: value for key, value in dataclasses.asdict(item).items() if key != "part"}
        # The line goes last: a sound without its line is overwritten by the next run.
        contents = np.round(samples / scale).astype("<i2"), activity, (json.dumps(row) + "\n").encode()
        for file, content in zip(self._files, contents, strict=True):
            file.write(content)
            file.flush()
        self._n_values += samples.size
        self._n_activity += len(activity)
        self.done.add(item.id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            os.fsync(file.fileno())
            file.close()
        if kind is None:
            facts = {"format_version": FORMAT_VERSION, "sample_rate_hz": self.sample_rate_hz, "n_items": len(self.done)}
            write_whole(self.folder / "part.json", (json.dumps(facts) + "\n").encode())


def activity_db(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.int8]:
    """Return the loudness in dBFS of every 0.1 s of `samples [samples, channels]`, the last one perhaps shorter."""
    n_step = round(ACTIVITY_SECONDS * sample_rate_hz)
    power = np.square(samples, dtype=np.float32).mean(axis=1, dtype=np.float64)
    starts = np.arange(0, len(power), n_step)
    means = np.add.reduceat(power, starts) / np.diff(np.append(starts, len(power)))
    decibels = 10 * np.log10(np.maximum(means, 10.0 ** (SILENCE_DB / 10)))
    return np.clip(np.round(decibels), SILENCE_DB, 0).astype(np.int8)


def _open_at(path: Path, n_bytes: int) -> Any:
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(n_bytes)
    file.seek(n_bytes)
    return file
