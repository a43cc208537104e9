"""Backends that make a server work hard without much to compute: `--plugin benchmarks/studio_toys.py`.

The toy's bands, at a pace (`paced`), behind a gate (`gated`: waits while a file is there), and one that ends its process
(`crashing`). Each notes every call in the file that STUDIO_TOYS_LOG names.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from unisep import BackendSpec, Output, hookimpl
from unisep.testing.toy import (
    SPACE,
    ToyBackend,
    unisep_encoders,  # noqa: F401  # the toy's encoder, too
)

PACE_SECONDS = 0.05


class Paced(ToyBackend):
    """Takes its time for each segment."""

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the bands, after a while."""
        note(f"{type(self).__name__} {0 if queries is None else len(queries)}")
        self.wait()
        return super().separate(mixture, queries, negatives)

    def wait(self) -> None:
        """Wait for what the backend waits for."""
        time.sleep(PACE_SECONDS)


class Gated(Paced):
    """Waits as long as the file STUDIO_TOYS_GATE is there."""

    def wait(self) -> None:
        """Wait until the gate is open."""
        while os.path.exists(os.environ["STUDIO_TOYS_GATE"]):
            time.sleep(0.01)


class Crashing(Paced):
    """Ends its process, as a lack of memory does."""

    def wait(self) -> None:
        """End."""
        os.kill(os.getpid(), signal.SIGKILL)


def note(line: str) -> None:
    """Append a line to the log, in one write."""
    if "STUDIO_TOYS_LOG" in os.environ:
        with Path(os.environ["STUDIO_TOYS_LOG"]).open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")


def load_paced(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Paced:
    """Return the backend that takes its time."""
    return Paced(device)


def load_gated(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Gated:
    """Return the backend behind a gate."""
    return Gated(device)


def load_crashing(*, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Crashing:
    """Return the backend that ends its process."""
    return Crashing(device)


@hookimpl
def unisep_backends() -> list[BackendSpec]:
    """Return the three of them."""
    return [
        BackendSpec(
            name=name, load=f"{__name__}:load_{name}", summary="Bands", stems=("low", "high"), spaces=(SPACE,), licence="MIT"
        )
        for name in ("paced", "gated", "crashing")
    ]  # fmt: skip
