"""What a model costs, as far as its card and its files tell without loading it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unisep.errors import WeightsError
from unisep.weights import Card, WeightsStore, read_card

_LONGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Cost:
    """None: not known. n_download_bytes is 0 where nothing has to be downloaded.

    n_parameters: as the card states. n_values: the numbers in its safetensors files, if those are here; with buffers.
    segment_seconds, sample_rate_hz: what it takes at once, and at which rate.
    """

    n_download_bytes: int | None = None
    n_weight_bytes: int | None = None
    n_parameters: int | None = None
    n_values: int | None = None
    segment_seconds: float | None = None
    sample_rate_hz: int | None = None
    licence: str = field(default="", repr=False)


def cost_of(place: str, weights: str, store: WeightsStore) -> Cost:
    """The cost of the model whose card is at `place` ("" for none) and whose weights are in the state `weights`."""
    if not place:
        return Cost(n_download_bytes=0, n_weight_bytes=0)
    try:
        card = read_card(place)
        folder = store.path(card)
    except WeightsError:
        return Cost()
    n_bytes = card.n_bytes or None
    return Cost(
        n_download_bytes=n_bytes if weights == "missing" else 0,
        n_weight_bytes=n_bytes,
        n_parameters=card.n_parameters or None,
        n_values=_counted(card, folder),
        segment_seconds=card.segment_seconds or None,
        sample_rate_hz=card.sample_rate_hz or None,
        licence=card.licence,
    )


def total(costs: Sequence[Cost]) -> Cost:
    """The cost of all together; what is not known of one is not known of all."""

    def summed(name: str) -> int | None:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values)

    return Cost(
        summed("n_download_bytes"), summed("n_weight_bytes"), summed("n_parameters"), summed("n_values")
    )


def _counted(card: Card, folder: Path) -> int | None:
    """The numbers in all safetensors files of the card; None unless all are here."""
    paths = [folder / file.name for file in card.files if file.name.endswith(".safetensors")]
    counts = [n_numbers(path) for path in paths]
    return sum(count or 0 for count in counts) if counts and all(counts) else None


def n_numbers(path: Path) -> int | None:
    """How many numbers a safetensors file holds, by its header alone; None for what is no such file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
