"""Backends for catalogues: `--plugin benchmarks/catalogue_toys.py`.

The toy's bands after a second of sleep, or as many as CATALOGUE_TOYS_SLEEP says (`sleepy`), and bands from a backend that ends its process when a recording peaks
beyond 0.95 (`deadly`), as a lack of memory does. Nothing heavy is imported to list them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from unisep import Backend, BackendSpec, EncoderSpec, hookimpl

SPACE = "toy-bands-1"
SLEEP_SECONDS = float(os.environ.get("CATALOGUE_TOYS_SLEEP", "1"))
DEADLY_PEAK = 0.95


def toy(before: Any, device: Any) -> Backend:
    """Return the toy's backend that does something first."""
    from unisep.testing.toy import ToyBackend

    class Busy(ToyBackend):
        """The toy, with something to do first."""

        def separate(self, mixture: Any, queries: Any = None, negatives: Any = None) -> Any:
            """Return the bands."""
            before(mixture)
            return super().separate(mixture, queries, negatives)

    return Busy(device)


def load_sleepy(*, weights: Path | None, device: Any, dtype: Any) -> Backend:
    """Return the backend that sleeps."""
    return toy(lambda mixture: time.sleep(SLEEP_SECONDS), device)


def load_deadly(*, weights: Path | None, device: Any, dtype: Any) -> Backend:
    """Return the backend that ends its process."""
    return toy(lambda mixture: os._exit(9) if float(mixture.abs().max()) > DEADLY_PEAK else None, device)


@hookimpl
def unisep_backends() -> list[BackendSpec]:
    """Return both, and the toy itself."""
    shared: dict[str, Any] = {"summary": "Bands", "stems": ("low", "high"), "spaces": (SPACE,), "licence": "MIT"}
    loads = {"toy": "unisep.testing.toy:load_backend"} | {
        name: f"{__name__}:load_{name}" for name in ("sleepy", "deadly")
    }
    return [BackendSpec(name=name, load=load, **shared) for name, load in loads.items()]


@hookimpl
def unisep_encoders() -> list[EncoderSpec]:
    """Return the toy's encoder."""
    return [EncoderSpec(name="toy", load="unisep.testing.toy:load_encoder", space=SPACE, licence="MIT")]
