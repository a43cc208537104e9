"""Writes one part of a training store, sound by sound; an interrupted build goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from unisep_train.data.store import (
    ACTIVITY_SECONDS,
    FORMAT_VERSION,
    FULL_SCALE,
    SILENCE_DB,
    Item,
    StoreError,
    parsed,
    part_facts,
    parts_of,
)


@final
class PartWriter:
    """Appends sounds to one part of a store; what an interrupted run has finished is kept.

    Use as a context manager: the part becomes readable only when the block ends without an error.

    source: what the sounds are from; an unfinished part goes on with no other.
    """

    def __init__(self, store: Path, name: str, sample_rate_hz: int, source: str = "") -> None:
        if name in ("", ".", "..") or Path(name).name != name:
            raise StoreError(f"{name!r} is no name of a part: give one without folders.")
        self.folder = Path(store) / name
        self.source = source
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self._n_values = 0
        self._n_activity = 0
        self.done: set[str] = set()

    def __enter__(self) -> PartWriter:
        if (self.folder / "part.json").exists():
            raise StoreError(f"{self.folder} is a finished part. Delete that folder to build it again.")
        rates = {part_facts(self.folder.parent / part)["sample_rate_hz"] for part in parts_of(self.folder.parent)}
        if rates - {self.sample_rate_hz}:
            raise StoreError(
                f"The other parts of {self.folder.parent} are at {', '.join(map(str, sorted(rates)))} Hz, not "
                f"{self.sample_rate_hz}: all parts of a store have one rate."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep_facts()
        kept = self._recover()
        self._samples = _open_at(self.folder / "samples.i16", 2 * self._n_values)
        self._activity = _open_at(self.folder / "activity.i8", self._n_activity)
        self._index = _open_at(self.folder / "index.jsonl", len(kept))
        return self

    def _keep_facts(self) -> None:
        path, origin = self.folder / "begun", f" from {self.source}" if self.source else ""
        facts = f"{self.sample_rate_hz} Hz{origin}\n"
        begun = path.read_text(encoding="utf-8") if path.exists() else facts
        if begun != facts:
            raise StoreError(
                f"{self.folder} was begun at {begun.strip()}, not {facts.strip()}. Go on as it was begun, or delete it."
            )
        path.write_text(facts, encoding="utf-8")

    def _recover(self) -> bytes:
        """The complete lines an earlier run left; positions are moved behind the sounds they name."""
        path = self.folder / "index.jsonl"
        text = path.read_bytes() if path.exists() else b""
        kept = text[: text.rfind(b"\n") + 1]
        for line in kept.splitlines():
            item = parsed(line, path, self.name)
            self.done.add(item.id)
            self._n_values = item.first_value + item.n_samples * item.n_channels
            self._n_activity = item.first_activity + item.n_activity
        return kept

    def add(self, samples: NDArray[np.float32], **facts: Any) -> None:
        """Append `samples [samples, channels]`; `facts` are the fields of `Item` that are not positions."""
        if samples.ndim != 2 or len(samples) == 0 or not np.isfinite(samples).all():
            raise StoreError(f"{facts.get('id')}: expected finite [samples, channels], got {samples.shape}.")
        if facts.get("id") in self.done:
            raise StoreError(f"{facts.get('id')} is in {self.folder} already: each sound has a name of its own.")
        if samples.shape[1] == 2 and np.array_equal(samples[:, 0], samples[:, 1]):
            samples = samples[:, :1]  # half the bytes to read during training
        peak = float(np.abs(samples).max())
        scale = max(peak, 1e-6) / FULL_SCALE
        activity = activity_db(samples, self.sample_rate_hz)
        item = Item(
            **facts,
            n_samples=len(samples), n_channels=samples.shape[1], scale=scale,
            first_value=self._n_values, first_activity=self._n_activity, n_activity=len(activity),
        )  # fmt: skip
        # The line goes last: a sound without its line is overwritten by the next run.
        self._samples.write(np.round(samples / scale).astype("<i2").tobytes())
        self._activity.write(activity.tobytes())
        self._samples.flush()
        self._activity.flush()
        row = {key: value for key, value in dataclasses.asdict(item).items() if key != "part"}
        self._index.write((json.dumps(row) + "\n").encode())
        self._index.flush()
        self._n_values += samples.size
        self._n_activity += len(activity)
        self.done.add(item.id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._samples, self._activity, self._index):
            os.fsync(file.fileno())
            file.close()
        if kind is None:
            facts = {"format_version": FORMAT_VERSION, "sample_rate_hz": self.sample_rate_hz, "n_items": len(self.done)}
            partial = self.folder / "part.json.partial"
            partial.write_text(json.dumps(facts) + "\n")
            partial.replace(self.folder / "part.json")


def activity_db(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.int8]:
    """Loudness in dBFS of every 0.1 s of `samples [samples, channels]`, the last one perhaps shorter."""
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
