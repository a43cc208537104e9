"""Call a backend for segments: check what it returns, skip silence, undo the scale, keep presence."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unisep.engine.chunking import Segment
from unisep.engine.recording import Statistics
from unisep.engine.timeline import Samples
from unisep.errors import FAILURES, BackendError, UnisepError
from unisep.plugins.backend import Backend, Output
from unisep.query.encode import Conditions


class Presence(NamedTuple):
    """How surely a sound is there between two times: 0 to 1."""

    start_seconds: float
    stop_seconds: float
    presence: float


LEAST_DEVIATION = 1e-8


Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """One scale for the whole recording, as HT Demucs was trained; as it is with mean 0 and deviation 1."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, statistics: Statistics) -> Scale:
        """The scale on which a recording has mean 0 and deviation 1, or next to 0 where it is silent."""
        return cls(statistics.mean, statistics.deviation + LEAST_DEVIATION)

    def normalised(self, samples: Samples) -> Samples:
        """`samples` on this scale; the input is not modified."""
        if self == Scale():
            return samples
        result: Samples = (samples - self.mean) / self.deviation
        return result

    def restoring(self, call: Call) -> Call:
        """`call`, with what it returns brought back to the recording's own scale."""
        if self == Scale():
            return call

        def restored(batch: Tensor) -> Tensor:
            found = call(batch)
            return torch.add(found.new_full((), self.mean), found, alpha=self.deviation)

        return restored


def by_segment(call: Call) -> Call:
    """`call` with each segment [channels, samples] of the batch on a scale of its own, and put back."""

    def scaled(batch: Tensor) -> Tensor:
        mono = batch.mean(1)
        mean = mono.mean(-1)[:, None, None]
        deviation = mono.std(-1, correction=min(1, mono.shape[-1] - 1))[:, None, None] + LEAST_DEVIATION
        return call((batch - mean) / deviation) * deviation[:, None] + mean[:, None]

    return scaled


class SilenceDetector:
    """The stretches of a recording in which every sample of every channel is exactly 0, as it arrives in blocks.

    shortest_samples: shorter stretches are of no interest, unless they touch an end of the recording: what lies
        beyond it counts as silent.
    """

    def __init__(self, shortest_samples: int) -> None:
        self._shortest = shortest_samples
        self._n_in = 0
        self._over: list[Segment] = []
        self._last: Segment | None = None  # may go on in the next block

    def push(self, block: Samples) -> None:
        """Nothing; takes the next block [channels, samples]."""
        for stretch in _silent_stretches(block):
            start = self._n_in + stretch.start
            if self._last is not None and self._last.stop == start:
                self._last = Segment(self._last.start, self._last.length + stretch.length)
            else:
                self._close()
                self._last = Segment(start, stretch.length)
        self._n_in += block.shape[-1]
        if self._last is not None and self._last.stop < self._n_in:
            self._close()

    def covers(self, stretch: Segment) -> bool:
        """Whether what has arrived is silent all through `stretch`; what lies beyond both ends counts as silent."""
        start, stop = max(0, stretch.start), min(stretch.stop, self._n_in)
        found = [*self._over, self._last] if self._last is not None else self._over
        return any(each.start <= start and stop <= each.stop for each in found)

    def forget_before(self, sample: int) -> None:
        """Nothing; drops the stretches that ended before this sample: nobody will ask for them again."""
        self._over = [each for each in self._over if each.stop > sample]

    def _close(self) -> None:
        """Nothing; the last stretch is over, and kept if a segment could lie in it."""
        if self._last is not None and (self._last.start == 0 or self._last.length >= self._shortest):
            self._over.append(self._last)
        self._last = None


def _silent_stretches(block: Samples) -> list[Segment]:
    is_silent = ~block.any(axis=0)
    if not is_silent.any():
        return []
    edges = np.flatnonzero(np.diff(is_silent, prepend=False, append=False))
    return [Segment(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]


_CPU = torch.device("cpu")


# What a device cannot do at all: an operator that torch has not made for it, or doubles on mps.
_NOT_THERE = re.compile(
    r"not (currently )?implemented for the \S+ device|Could not run 'aten::|MPS framework doesn't support"
)


_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")


log = logging.getLogger(__name__)


class BackendRunner:
    """Calls one backend for the segments of one stretch, checks what comes back, and keeps the presence.

    name: of the backend, for messages. conditions: None asks for the fixed sources.
    outputs: which of the backend's outputs to keep, in order.
    presence_by_segment: for each segment so far how surely each kept output is there, if the backend says so.
        Segments of digital silence, which are not computed, hold nothing that was asked for.
    on_cpu: gives the same backend on the CPU, for a device that has a memory of its own. A batch for
        which that memory is too small is halved until it fits; if one segment alone is too much, or the device lacks
        an operator, the rest of the stretch is computed on the CPU, with a warning.

    Used by one thread.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        conditions: Conditions | None,
        outputs: Sequence[int],
        on_cpu: Callable[[], Backend] | None = None,
    ) -> None:
        self._backend = backend
        self._name = name
        self._conditions = conditions
        self._outputs = list(outputs)
        self._on_cpu = on_cpu
        self._device: torch.device | None = None
        self._n_at_once: int | None = None
        self._segments: list[Segment] = []
        self._n_called = 0
        self._has_answered = self._says_presence = False
        self._said: list[tuple[Segment, list[float]]] = []
        self._silent: list[Segment] = []

    @property
    def presence_by_segment(self) -> list[tuple[Segment, list[float]]]:
        """How surely each kept output is there, segment by segment; empty where the backend does not say."""
        says = self._says_presence if self._has_answered else self._conditions is not None
        nothing = [(segment, [0.0] * len(self._outputs)) for segment in self._silent if says]
        return sorted([*self._said, *nothing], key=lambda entry: entry[0])

    def forget_before(self, sample: float) -> None:
        """Nothing; drops what was said of segments that ended before this sample."""
        self._said = [(segment, values) for segment, values in self._said if segment.stop > sample]
        self._silent = [segment for segment in self._silent if segment.stop > sample]

    def silence(self, batch: Tensor, segments: Sequence[Segment]) -> Tensor:
        """The outputs [batch, n, channels, samples] of segments of digital silence: silence, uncomputed."""
        self._silent += segments
        n_batch, n_channels, n_samples = batch.shape
        return batch.new_zeros(n_batch, len(self._outputs), n_channels, n_samples)

    def begin(self, segments: list[Segment]) -> None:
        """Say which segments come next, so that messages can name the time."""
        self._segments, self._n_called = segments, 0

    def __call__(self, batch: Tensor) -> Tensor:
        """The kept outputs [batch, n, channels, samples], float32, of segments [batch, channels, samples]."""
        parts: list[Tensor] = []
        n_done = 0
        while n_done < batch.shape[0]:
            part = batch[n_done : n_done + (self._n_at_once or batch.shape[0])]
            output = self._computed(part if self._device is None else part.to(self._device))
            if output is None:
                continue
            parts.append(output.to(batch.device))
            n_done += part.shape[0]
            self._n_called += part.shape[0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _computed(self, batch: Tensor) -> Tensor | None:
        """What is kept of the outputs; None when the memory ran out, and there is more room now."""
        try:
            return self._kept(self._answer(batch), batch)
        except UnisepError:
            raise
        except FAILURES as error:
            memory = _is_out_of_memory(error)
            lacks = "" if memory else _lacking(error)
            can_go_on = (memory and batch.shape[0] > 1) or ((memory or lacks) and self._on_cpu is not None)
            if not can_go_on:
                advice = " Use a shorter segment_seconds, or device='cpu'." if memory else ""
                raise BackendError(
                    f"The backend '{self._name}' failed at {self._seconds():.1f} s: {type(error).__name__}: {error}{advice}"
                ) from error
        # Only here, where nothing holds on to the tensors of the call that failed.
        if lacks:
            self._go_to_cpu(f"{batch.device} cannot do all of '{self._name}' ({lacks}): it")
        else:
            self._make_room(batch)
        return None

    def _answer(self, batch: Tensor) -> Output:
        if self._conditions is None:
            return self._backend.separate(batch)
        return self._backend.separate(batch, self._conditions.queries, self._conditions.negatives)

    def _make_room(self, batch: Tensor) -> None:
        """Nothing. The next call gets half as many segments, or goes to the CPU."""
        if batch.device.type == "cuda":
            torch.cuda.empty_cache()
        where = f"The memory of {batch.device} ran out at {self._seconds():.1f} s"
        if batch.shape[0] > 1:
            self._n_at_once = batch.shape[0] // 2
            log.info("%s: %d segments at once from here on.", where, self._n_at_once)
            return
        self._go_to_cpu(
            f"{where}, with a single segment: '{self._name}'", "A shorter segment_seconds needs less memory."
        )

    def _go_to_cpu(self, what: str, advice: str = "") -> None:
        assert self._on_cpu is not None
        warnings.warn(f"{what} goes on on the CPU, which is slower. {advice}".strip(), stacklevel=2)
        self._backend, self._on_cpu, self._device = self._on_cpu(), None, _CPU
        self._conditions = None if self._conditions is None else self._conditions.to(_CPU)

    def _kept(self, output: Output, batch: Tensor) -> Tensor:
        self._check(output, batch)
        self._has_answered = True
        if output.presence is not None:
            self._says_presence = True
            segments = self._segments[self._n_called : self._n_called + batch.shape[0]]
            presence = output.presence[:, self._outputs].float().tolist()
            self._said += zip(segments, presence, strict=True)
        is_all = self._outputs == list(range(output.sources.shape[1]))
        return (output.sources if is_all else output.sources[:, self._outputs]).float()

    def _check(self, output: object, batch: Tensor) -> None:
        info, conditions = self._backend.info, self._conditions
        n_outputs = len(info.sources) if conditions is None else conditions.queries.shape[0]
        wrong = wrong_sources(output, n_outputs, batch)
        if wrong or not isinstance(output, Output):
            raise BackendError(f"The backend '{self._name}' returned {wrong}")
        if not _is_finite(output.sources):
            index, _, _, sample = (~torch.isfinite(output.sources)).nonzero()[0].tolist()
            raise BackendError(
                f"The backend '{self._name}' returned NaN or infinity at {self._seconds(index, sample, batch.shape[-1]):.1f} s. "
                "Try precision='float32'; verify its weights with `unisep models verify`."
            )
        wrong = _wrong_presence(output.presence, (batch.shape[0], n_outputs))
        if wrong:
            raise BackendError(f"The backend '{self._name}' returned {wrong}")

    def _seconds(self, index: int = 0, sample: int = 0, n_samples: int = 0) -> float:
        """Where a sample of the segment at `index` of the batch lies in the recording, at the nearest."""
        if not self._segments:
            return 0.0
        segment = self._segments[min(self._n_called + index, len(self._segments) - 1)]
        padding = max(0, n_samples - segment.length) // 2
        inside = min(max(0, sample - padding), segment.length - 1)
        return max(0, segment.start + inside) / self._backend.info.sample_rate_hz


def wrong_sources(output: object, n_outputs: int, mixture: Tensor) -> str:
    """What is wrong with the sources that a backend gave for `mixture [batch, channels, samples]`, or ""."""
    if not isinstance(output, Output):
        return f"{type(output).__name__}, not an Output of tensors of real numbers."
    if kind := _unreal(output.sources):
        return f"sources of {kind}, not an Output of tensors of real numbers."
    n_batch, n_channels, n_samples = mixture.shape
    expected = (n_batch, n_outputs, n_channels, n_samples)
    if tuple(output.sources.shape) != expected:
        return f"sources {tuple(output.sources.shape)}; [batch, outputs, channels, samples] = {expected} was expected."
    return ""


def _wrong_presence(presence: object, expected: tuple[int, int]) -> str:
    """What is wrong with a presence of which `expected` is the shape, or ""."""
    if presence is None:
        return ""
    if (kind := _unreal(presence)) or not isinstance(presence, Tensor):
        return f"presence of {kind}, not an Output of tensors of real numbers."
    if tuple(presence.shape) == expected and ((presence >= 0) & (presence <= 1)).all():
        return ""
    values = presence.float().flatten().tolist() or [math.nan]
    return (
        f"a presence {tuple(presence.shape)} from {min(values):.3g} to {max(values):.3g}; "
        f"[batch, outputs] = {expected} of values in 0..1 was expected."
    )


def _unreal(value: object) -> str:
    """What a value is that is no tensor of real numbers, or ""."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "" if value.is_floating_point() else str(value.dtype)


def _is_finite(samples: Tensor) -> bool:
    """Whether all samples are finite: so they are if their sum is, which is quicker to know."""
    return bool(torch.isfinite(samples.sum(dtype=torch.float32))) or bool(torch.isfinite(samples).all())


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or the driver below it, had no memory left; not all say so by a type of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _lacking(error: BaseException) -> str:
    """The first line of what torch says of an operator or a type that the device does not have; "" for other errors."""
    is_lack = isinstance(error, NotImplementedError | RuntimeError | TypeError) and _NOT_THERE.search(str(error))
    return str(error).splitlines()[0][:200] if is_lack else ""
