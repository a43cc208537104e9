"""Bags of models: which checkpoints make a named model, and how much each counts for each source."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisep import Backend, EnsembleBackend, EnsemblePart
from unisep.errors import WeightsError
from unisep.weights.checkpoints import read_yaml

_LONGEST_SEGMENT_SECONDS = 3600
_FIELDS = frozenset({"models", "weights", "segment"})


@dataclass(frozen=True)
class Bag:
    """Checkpoints that together make a named model.

    Attributes:
        signatures: The checkpoints, by the first digits of their hash.
        weights: `weights[model][source]` says how much each counts; () is equally.
        segment_seconds: Instead of what the checkpoints say; None for what they say.
    """

    signatures: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...] = ()
    segment_seconds: float | None = None


# The released models, as demucs 4.1.0 defines them; each specialist of `htdemucs_ft` gives one source.
RELEASED: dict[str, Bag] = {
    "htdemucs": Bag(("955717e8",)),
    "htdemucs_6s": Bag(("5c90dfd2",)),
    "htdemucs_ft": Bag(
        ("f7e0c4bc", "d12395a8", "92cfc3b6", "04573f0d"),
        ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    ),
}


def find_bag(name: str, weights: Path, released: Mapping[str, Bag] = RELEASED) -> tuple[tuple[Path, ...], Bag]:
    """Find the checkpoint files of model `name` under `weights`, and the bag they make.

    `weights` is one checkpoint file, or a folder that holds either `name`.yaml and its checkpoints, the released
    checkpoints of `name`, or a single checkpoint.

    Raises:
        WeightsError: It is none of these.
    """
    if weights.is_file():
        return (weights,), Bag((weights.stem,))
    if not weights.is_dir():
        raise WeightsError(f"No weights at {weights}. Give a checkpoint file, or a folder that holds it.")
    definition = weights / f"{name}.yaml"
    bag = read_bag(definition) if definition.is_file() else released[name]
    paths = [_find(weights, signature) for signature in bag.signatures]
    absent = [f"{s}.safetensors" for s, path in zip(bag.signatures, paths, strict=True) if path is None]
    if not absent:
        return tuple(path for path in paths if path), bag
    files = sorted(path for path in weights.iterdir() if path.suffix in (".safetensors", ".th", ".ckpt"))
    if len(files) == 1 and not definition.is_file():
        return (files[0],), Bag((files[0].stem,))
    raise WeightsError(
        f"{weights} lacks {', '.join(absent)} of {name}. Run `unisep models pull {name}`, or give the checkpoint file "
        "itself."
    )


def mean_of(backends: Sequence[Backend], bag: Bag) -> Backend:
    """Make one backend of a bag: for each source the weighted mean of those models that count for it.

    Raises:
        WeightsError: The models differ in more than their parameters, or the weights do not fit them.
    """
    info, n_sources = backends[0].info, len(backends[0].info.sources)
    if any(backend.info != info for backend in backends):
        raise WeightsError("The models of a bag differ in sources, sample rate, channels or segment.")
    rows = bag.weights or ((1.0,) * n_sources,) * len(backends)
    if any(len(row) != n_sources for row in rows):
        raise WeightsError(f"A bag needs {n_sources} weights a model, one for each source.")
    if not all(any(column) for column in zip(*rows, strict=True)):
        raise WeightsError("A bag must count at least one model for every source; some weights are all 0.")
    if len(backends) == 1:
        return backends[0]
    parts = []
    for backend, row, signature in zip(backends, rows, bag.signatures, strict=True):
        weights = {name: weight for name, weight in zip(info.sources, row, strict=True) if weight}
        parts.append(EnsemblePart(backend.for_sources(tuple(weights)), weights, name=signature))
    return EnsembleBackend(parts, info.sources)


def read_bag(path: Path) -> Bag:
    """Read the bag in a YAML file such as demucs's `htdemucs_ft.yaml`: `models`, `weights` and `segment`."""
    try:
        fields = read_yaml(path)
        if not fields.keys() <= _FIELDS:
            raise ValueError(f"it may define {', '.join(sorted(_FIELDS))} only")
        return _bag(fields)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path} is no bag of models that can be read: {error!s:.300}.") from error


def _bag(fields: dict[str, Any]) -> Bag:
    signatures = tuple(str(name) if isinstance(name, int) else name for name in fields.get("models", ()))
    weights = tuple(tuple(float(weight) for weight in row) for row in fields.get("weights", ()))
    if not signatures or not all(isinstance(s, str) and re.fullmatch(r"[\w.]{1,64}", s) for s in signatures):
        raise ValueError("its models are not a list of signatures")
    if weights and len(weights) != len(signatures):
        raise ValueError(f"it has {len(weights)} rows of weights for {len(signatures)} models")
    if any(not math.isfinite(weight) or weight < 0 for row in weights for weight in row):
        raise ValueError("its weights are not numbers from 0")
    segment = fields.get("segment")
    if segment is not None and (type(segment) not in (int, float) or not 0 < segment <= _LONGEST_SEGMENT_SECONDS):
        raise ValueError(f"its segment is no number of seconds up to {_LONGEST_SEGMENT_SECONDS}")
    return Bag(signatures, weights, None if segment is None else float(segment))


def _find(folder: Path, signature: str) -> Path | None:
    """Find `signature.safetensors`, `signature.th` or `signature-hash.th` in a folder."""
    plain = [folder / f"{signature}.safetensors", folder / f"{signature}.th"]
    named = sorted(folder.glob(f"{signature}-*.th"))
    return next((path for path in (*plain, *named) if path.is_file()), None)
