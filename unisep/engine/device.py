"""Devices, number types and the other options of a Separator, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch

from unisep.engine.chunking import MAX_OVERLAP_FRACTION, OVERLAP_FRACTION
from unisep.engine.cpu import free_bytes, is_worker
from unisep.errors import OptionError, arg, suggest
from unisep.plugins.backend import BackendInfo
from unisep.plugins.specs import BackendSpec

ACCELERATOR_BATCH_SEGMENTS = 4  # where the size of the memory is not known
MAX_BATCH_SEGMENTS = 16
# HT Demucs holds 0.5 GiB a segment in float32, large RoFormers up to 2, counted on a pretended device.
BYTES_PER_SEGMENT = 2 << 30
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Options:
    """Checked options: see `Separator`. None leaves segments to the backend, and batches to the device."""

    device: torch.device
    seed: int = 0
    overlap_fraction: float = OVERLAP_FRACTION
    segment_seconds: float | None = None
    shifts: int = 0
    batch_segments: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.overlap_fraction) or not 0 <= self.overlap_fraction <= MAX_OVERLAP_FRACTION:
            raise OptionError(
                f"{arg('overlap_fraction', self.overlap_fraction)} is out of range: give 0 to {MAX_OVERLAP_FRACTION}. "
                "0.25 is usual; more costs time and gains little."
            )
        seconds = self.segment_seconds
        if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
            raise OptionError(f"{arg('segment_seconds', seconds)}: give seconds above 0, or leave it out.")
        for name, least in {"shifts": 0, "seed": 0, "threads": 1}.items():
            value = getattr(self, name)
            if value is None and name == "threads":
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise OptionError(f"{arg(name, value)}: give a whole number of {least} or more.")
            object.__setattr__(self, name, int(value))
        object.__setattr__(self, "overlap_fraction", float(self.overlap_fraction))

    @property
    def on_accelerator(self) -> bool:
        """Whether the device is another than the CPU, with a memory of its own that may run out."""
        return self.device.type != "cpu"

    @property
    def n_at_once(self) -> int:
        """How many segments a backend gets at once: one on the CPU, where more would only cost memory.

        On a GPU as many as all its memory has room for, free or not, so that a recording gives the same samples next time.
        """
        if self.batch_segments is not None:
            return self.batch_segments
        if self.device.type == "cuda":
            n_bytes = torch.cuda.get_device_properties(self.device).total_memory
            return min(max(1, n_bytes // BYTES_PER_SEGMENT), MAX_BATCH_SEGMENTS)
        return ACCELERATOR_BATCH_SEGMENTS if self.on_accelerator else 1

    @property
    def n_threads(self) -> int:
        """How many threads compute: as many as asked for, else as torch would take, one for each core."""
        return 1 if is_worker() else self.threads or torch.get_num_threads()

    @property
    def n_workers(self) -> int:
        """How many segments are computed side by side on the CPU, as far as memory allows; 0 on an accelerator."""
        if self.on_accelerator:
            return 0
        free = free_bytes()
        return self.n_threads if free is None else max(1, min(self.n_threads, free // BYTES_PER_SEGMENT))

    def segment_samples(self, info: BackendInfo, backend: str) -> int | None:
        """Return the samples per segment for the backend of this name; None where it gets a recording in one piece.

        Raises OptionError where the segment asked for is longer than the backend takes, or it needs the whole recording.
        """
        if self.segment_seconds is None:
            return None if info.needs_whole else info.segment_samples
        if info.needs_whole:
            raise OptionError(f"'{backend}' must hear a recording in one piece: leave out {arg('segment_seconds')}.")
        if info.segment_seconds is not None and self.segment_seconds > info.segment_seconds:
            raise OptionError(
                f"{arg('segment_seconds', self.segment_seconds)}: '{backend}' takes at most "
                f"{info.segment_seconds} s at once. Give less, or leave it out."
            )
        return max(1, round(self.segment_seconds * info.sample_rate_hz))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is cuda, then mps, then cpu. Raises OptionError if it is not there."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            f"{arg('device', name)} is no device. {suggest(name, ['auto', 'cpu', 'cuda', 'mps'])}"
        ) from error
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.type == "cuda" and (device.index or 0) >= n_cuda) or (device.type == "mps" and not has_mps):
        raise OptionError(f"{arg('device', name)} is not available here. {arg('device', 'auto')} takes what there is.")
    return device


@dataclass(frozen=True)
class Precision:
    """The precision asked for on one device, checked: "float32", "bfloat16", "float16", or "auto".

    "auto" leaves it to each backend: the faster type that its spec vouches for on this kind of device
    (`BackendSpec.auto_precision`), where the device computes in it, else float32.
    """

    name: str
    device: torch.device

    def __post_init__(self) -> None:
        if self.name != "auto" and self.name not in _DTYPES:
            raise OptionError(f"{arg('precision', self.name)} is unknown. {suggest(self.name, ['auto', *_DTYPES])}")
        if self.name == "float16" and self.device.type == "cpu":
            raise OptionError(f"{arg('precision', 'float16')} needs an accelerator; the CPU has 'auto' and 'float32'.")
        if self.name == "bfloat16" and not self._computes(torch.bfloat16):
            raise OptionError(
                f"{arg('precision', 'bfloat16')}: this processor has no bfloat16 arithmetic (as AVX-512 BF16 and AMX "
                "are), and torch would imitate it a hundred times slower. Use 'auto' or 'float32'."
            )

    def dtype_for(self, spec: BackendSpec) -> torch.dtype:
        """Return the dtype in which the backend of `spec` is to be loaded."""
        if self.name != "auto":
            return _DTYPES[self.name]
        fast = _DTYPES[spec.auto_precision.get(self.device.type, "float32")]
        return fast if self._computes(fast) else torch.float32

    def _computes(self, dtype: torch.dtype) -> bool:
        if dtype == torch.float32 or self.device.type != "cpu":
            return True
        return dtype == torch.bfloat16 and cpu_computes_bfloat16()


def cpu_computes_bfloat16() -> bool:
    """Tell whether products in bfloat16 are fast on this processor; elsewhere torch imitates them number by number."""
    try:
        # Private names of torch, without which the answer is no. oneDNN says yes to any AVX-512, and most imitate it.
        if torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
