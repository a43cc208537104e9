"""Measure what `Separator.separate` costs beyond the backend itself: a one-second array, the second call and later.

    python benchmarks/overhead.py          # prints milliseconds: whole call, time in the backend, the difference

The toy backend answers a text query. Figures are medians of processor-bound calls in one process with one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from unisep import Separator
from unisep.testing import ToyBackend, noise, toy_plugin

N_CALLS = 40


def measure(n_calls: int = N_CALLS) -> dict[str, float]:
    """Return medians in milliseconds over `n_calls` calls, after one that loads everything."""
    in_backend: list[float] = []
    separate = ToyBackend.separate

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return separate(*arguments, **options)
        finally:
            in_backend[-1] += time.perf_counter() - started

    audio = noise(1.0)
    whole: list[float] = []
    ToyBackend.separate = timed  # type: ignore[method-assign]
    try:
        with toy_plugin(), Separator(query_backend="toy", encoder="toy", offline=True) as separator:
            for _ in range(n_calls + 1):
                in_backend.append(0.0)
                started = time.perf_counter()
                separator.separate(audio, "guitar", route="conditioned")
                whole.append(time.perf_counter() - started)
    finally:
        ToyBackend.separate = separate  # type: ignore[method-assign]
    beyond = [call - backend for call, backend in zip(whole[1:], in_backend[1:], strict=True)]
    rows = {"whole_ms": whole[1:], "backend_ms": in_backend[1:], "beyond_ms": beyond}
    return {name: round(1000 * statistics.median(seconds), 2) for name, seconds in rows.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=N_CALLS, help="how many are measured (%(default)s)")
    torch.set_num_threads(1)
    print(json.dumps(measure(parser.parse_args().calls)))
