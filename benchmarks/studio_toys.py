"""Backends that make a server work hard without much to compute: `--plugin benchmarks/studio_toys.py`.

The toy's bands, at a pace (`paced`), behind a gate (`gated`: waits while a file is there), and one that ends its process
(`crashing`). Each notes every call in the file that STUDIO_TOYS_LOG names. Nothing heavy is imported to list them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unisep import Backend, BackendSpec, EncoderSpec, hookimpl

SPACE = "toy-bands-1"
PACE_SECONDS = 0.05


def toy(name: str, wait: Callable[[], None], device: Any) -> Backend:
    """Return the toy's backend that notes each call and waits before it computes."""
    from unisep.testing.toy import ToyBackend

    class Waiting(ToyBackend):
        """The toy, with a wait."""

        def separate(self, mixture: Any, queries: Any = None, negatives: Any = None) -> Any:
            """Return the bands, after the wait."""
            if "STUDIO_TOYS_LOG" in os.environ:
                with Path(os.environ["STUDIO_TOYS_LOG"]).open("a", encoding="utf-8") as log:
                    log.write(f"{name} {0 if queries is None else len(queries)}\n")
            wait()
            return super().separate(mixture, queries, negatives)

    return Waiting(device)


def load_paced(*, weights: Path | None, device: Any, dtype: Any) -> Backend:
    """Return the backend that takes its time."""
    return toy("paced", lambda: time.sleep(PACE_SECONDS), device)


def load_gated(*, weights: Path | None, device: Any, dtype: Any) -> Backend:
    """Return the backend that waits as long as the file STUDIO_TOYS_GATE is there."""

    def wait() -> None:
        while os.path.exists(os.environ["STUDIO_TOYS_GATE"]):
            time.sleep(0.01)

    return toy("gated", wait, device)


def load_crashing(*, weights: Path | None, device: Any, dtype: Any) -> Backend:
    """Return the backend that ends its process, as a lack of memory does."""
    return toy("crashing", lambda: os.kill(os.getpid(), signal.SIGKILL), device)


@hookimpl
def unisep_backends() -> list[BackendSpec]:
    """Return the three of them."""
    shared: dict[str, Any] = {"summary": "Bands", "stems": ("low", "high"), "spaces": (SPACE,), "licence": "MIT"}
    names = ("paced", "gated", "crashing")
    return [BackendSpec(name=name, load=f"{__name__}:load_{name}", **shared) for name in names]


@hookimpl
def unisep_encoders() -> list[EncoderSpec]:
    """Return the toy's encoder."""
    return [EncoderSpec(name="toy", load="unisep.testing.toy:load_encoder", space=SPACE, licence="MIT")]
