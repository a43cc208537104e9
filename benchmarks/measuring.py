"""What every measurement here shares: clocks, rounds, agreement, memory and facts of the machine."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

RATE_HZ = 44_100
Run = Callable[[], object]
Clock = Callable[[], float]
# What decides how fast products can be: vectors, and instructions for bfloat16 and for tiles.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")


def clock(cpu_time: bool) -> Clock:
    """Return a clock of the processor time of this process, all its threads together, or of the wall."""
    return time.process_time if cpu_time else time.perf_counter


def seconds_of(run: Run, now: Clock) -> float:
    """Return seconds of one call by the clock `now`, finished on the accelerator too."""
    started = now()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return now() - started


def paired_rounds(runs: Mapping[str, Run], n_rounds: int, now: Clock) -> list[dict[str, float]]:
    """Time every run in every round, one after the other, each round starting with the next of them."""
    names, rounds = list(runs), []
    for index in range(n_rounds):
        first = index % len(names)
        rounds.append({name: seconds_of(runs[name], now) for name in names[first:] + names[:first]})
    return rounds


def median_of(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the median over the rounds of what `name` took."""
    return statistics.median(seconds[name] for seconds in rounds)


def ratio_of(rounds: Sequence[Mapping[str, float]], name: str, base: str) -> float:
    """Return how many times faster `name` was than `base`: the median of the rounds' ratios."""
    return statistics.median(seconds[base] / seconds[name] for seconds in rounds)


def agreement_db(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the energy of the reference over the energy of the difference to it, in decibels."""
    difference = float(np.sum((ours.astype(np.float64) - reference) ** 2))
    return 10 * float(np.log10(np.sum(reference.astype(np.float64) ** 2) / max(difference, 1e-30)))


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return stereo noise `[2, samples]`: no part of it is silent, so nobody can leave a part out."""
    return np.random.default_rng(seed).normal(0, 0.1, (2, round(seconds * RATE_HZ))).astype(np.float32)


def product_flops_per_second(dtype: torch.dtype, device: str, now: Clock, n: int = 2048) -> float:
    """Return operations a second of a large matrix product, by the fastest of the routes that torch has."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    routes: list[Run] = [lambda: a @ b]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        routes.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    seconds = []
    for route in routes:
        try:
            seconds += [seconds_of(route, now) for _ in range(3)]
        except (AttributeError, RuntimeError):  # oneDNN has no such product on this processor
            continue
    return 2 * n**3 / min(seconds)


def most_held_mib() -> float:
    """Return the most memory this process held; on Linux without what its parent held before the start."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    held_kib = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return float(held_kib[0] if held_kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def machine(device: str, distributions: Sequence[str] = ("torch", "demucs", "unisep")) -> dict[str, Any]:
    """Return what the figures are measured on: processor or card, cores, threads, instructions, versions."""
    cpu = _cpuinfo()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else cpu.get("model name", "")
    family = f"family {cpu['cpu family']}, model {cpu['model']}" if "cpu family" in cpu else ""
    flags = set(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())
    return {
        "device": device,
        "name": name or platform.processor() or platform.machine(),
        "family": family,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {distribution: metadata.version(distribution) for distribution in distributions},
    }


def _cpuinfo() -> dict[str, str]:
    """Read what Linux tells of the first processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
