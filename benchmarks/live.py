"""How live the live backends are: delay, time for a block, blocks that came too late, memory.

    python benchmarks/live.py                        # DeepFilterNet3, some minutes
    python benchmarks/live.py --minutes 10 --hours 1 --load 1
    python benchmarks/live.py --toy --minutes 10 --hours 1    # what unisep itself takes: a backend that halves
    python benchmarks/live.py --query-backend film-causal --query-weights causal.safetensors --query drums

The delay is where an impulse, and noise by correlation, come out: of targets and rest together. The session is driven as a
device drives it, a block at a time, at the pace of the recording. Memory is measured with the recording as fast as it goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from unisep import BackendInfo, BackendSpec, Live, LiveBackend, Output, Separator, hookimpl

RATE_HZ = 48_000


class Half(LiveBackend):
    """Half of the recording, as soon as it comes."""

    info = BackendInfo(sources=("half",), sample_rate_hz=RATE_HZ, channels=2)
    hop_samples, latency_samples = 64, 0

    def separate(
        self, mixture: torch.Tensor, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None
    ) -> Output:
        """Return half of each mixture."""
        return Output(0.5 * mixture[:, None])

    def open(self, queries: torch.Tensor | None = None, negatives: torch.Tensor | None = None) -> None:
        """Remember nothing."""

    def push(self, state: None, block: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return half of the block."""
        return 0.5 * block[None], None


class Toy:
    """The plugin of `Half`."""

    @hookimpl
    def unisep_backends(self) -> list[BackendSpec]:
        """Declare it."""
        return [BackendSpec(name="half", load=f"{__name__}:Half", summary="", stems=("half",), live=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=None)
    parser.add_argument("--query-backend", default=None)
    parser.add_argument("--query-weights", default=None)
    parser.add_argument("--query", default="speech")
    parser.add_argument("--toy", action="store_true", help="in place of a model, one that takes no time")
    parser.add_argument("--rate", type=int, default=RATE_HZ)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--margin", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=1.0, help="at the pace of the recording")
    parser.add_argument("--hours", type=float, default=0.05, help="of audio, as fast as it goes")
    parser.add_argument("--load", type=int, default=0, help="processes that compute all the while")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options: dict[str, Any] = {
        "backend": arguments.backend,
        "query_backend": arguments.query_backend,
        "query_weights": arguments.query_weights,
    }
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.load)]
    try:
        if arguments.toy:
            options = {"backend": "half", "plugins": Toy()}
        with Separator(**options, device="cpu") as separator:
            live = separator.live(
                None if arguments.toy else arguments.query, sample_rate_hz=arguments.rate, channels=2, block_samples=arguments.block,
                margin_blocks=arguments.margin,
            )  # fmt: skip
            with live:
                figures = {"block_samples": arguments.block, "rate_hz": arguments.rate, "load": arguments.load}
                figures |= delay(live, arguments.rate, arguments.block)
                live.reset()
                figures |= pace(live, arguments.rate, arguments.block, arguments.minutes)
                live.reset()
                figures |= memory(live, arguments.rate, arguments.block, arguments.hours)
    finally:
        for process in load:
            process.kill()
    print(json.dumps(figures, indent=1))


def delay(live: Live, rate_hz: int, block_samples: int) -> dict[str, float]:
    """Where an impulse, and what noise is most alike, come out."""
    n_samples = (rate_hz // block_samples + 1) * block_samples
    impulse = np.zeros((2, n_samples), dtype=np.float32)
    impulse[:, 1000] = 1.0
    noise = np.random.default_rng(0).standard_normal((2, n_samples)).astype(np.float32) / 10
    found = int(heard(live, impulse, block_samples)[0].argmax()) - 1000
    live.reset()
    out = heard(live, noise, block_samples)[0]
    spectra = np.fft.rfft(out, 2 * n_samples) * np.fft.rfft(noise[0], 2 * n_samples).conj()
    return {
        "declared_ms": 1000 * live.latency_samples / rate_hz,
        "algorithmic_ms": 1000 * live.algorithmic_latency_samples / rate_hz,
        "impulse_ms": 1000 * found / rate_hz,
        "correlation_ms": 1000 * int(np.fft.irfft(spectra).argmax()) / rate_hz,
    }


def heard(live: Live, samples: np.ndarray, block_samples: int) -> np.ndarray:
    """Everything that comes out, targets and rest."""
    blocks = np.split(samples, samples.shape[1] // block_samples, axis=1)
    parts = [live.push(block, wait=True) for block in blocks]
    return np.concatenate([part.rest.samples + sum(audio.samples for audio in part.values()) for part in parts], axis=1)


def pace(live: Live, rate_hz: int, block_samples: int, minutes: float) -> dict[str, float]:
    """Blocks at the pace of the recording; how long `push` took, and how often its results were late."""
    noise = np.random.default_rng(1).standard_normal((2, block_samples)).astype(np.float32) / 10
    n_blocks, seconds = round(minutes * 60 * rate_hz / block_samples), block_samples / rate_hz
    took, behind, cpu = [], 0.0, time.process_time()
    start = time.perf_counter()
    for index in range(n_blocks):
        left = start + index * seconds - time.perf_counter()
        if left > 0:
            time.sleep(left)
        behind = max(behind, -left)
        before = time.perf_counter()
        live.push(noise)
        took.append(time.perf_counter() - before)
    elapsed = time.perf_counter() - start
    return {
        "minutes": minutes,
        "n_blocks": n_blocks,
        "n_late": live.n_late,
        "push_median_ms": 1000 * float(np.median(took)),
        "push_p999_ms": 1000 * float(np.quantile(took, 0.999)),
        "push_worst_ms": 1000 * max(took),
        "caller_behind_worst_ms": 1000 * behind,
        "cores": (time.process_time() - cpu) / elapsed,
    }


def memory(live: Live, rate_hz: int, block_samples: int, hours: float) -> dict[str, float]:
    """Resident memory over so much audio, as fast as it goes: after a tenth of it, and at the end."""
    noise = np.random.default_rng(2).standard_normal((2, block_samples)).astype(np.float32) / 10
    n_blocks = round(hours * 3600 * rate_hz / block_samples)
    sizes, start = [], time.perf_counter()
    for index in range(n_blocks):
        live.push(noise, wait=True)
        if index % max(1, n_blocks // 20) == 0:
            sizes.append(resident_bytes())
    return {
        "hours": hours,
        "times_real_time": hours * 3600 / (time.perf_counter() - start),
        "memory_early_mb": sizes[len(sizes) // 10] / 1e6,
        "memory_late_mb": sizes[-1] / 1e6,
    }


def resident_bytes() -> int:
    """Return what the process holds in memory."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
