"""Run a backend on segments: skip silence, scale, check what comes back, go on where memory runs out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unisep.audio import ENDLESS
from unisep.engine.chunking import context
from unisep.engine.recording import Statistics
from unisep.engine.timeline import Span
from unisep.errors import FAILURES, BackendError, UnisepError, arg
from unisep.plugins.backend import Backend, Output
from unisep.query.encode import Conditions

LEAST_DEVIATION = 1e-8
LOUDEST = 1e6  # a level at which not the model is to blame for what overflows

# What a device cannot do at all: an operator that torch has not made for it, or doubles on mps.
_NOT_THERE = re.compile(
    r"not (currently )?implemented for the \S+ device|Could not run 'aten::|MPS framework doesn't support"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")
_CPU = torch.device("cpu")

log = logging.getLogger(__name__)

Scaled = tuple[Tensor, Callable[[Tensor], Tensor]]
Scale = Callable[[Tensor, Sequence[Span]], Scaled]


def no_scale(batch: Tensor, segments: Sequence[Span]) -> Scaled:
    """Return the batch as it is, and a copy of the sources: a backend may use the memory of its outputs again."""
    return batch, torch.clone


def song_scale(statistics: Statistics) -> Scale:
    """Return the scale on which the whole recording has mean 0 and deviation 1, as HT Demucs was trained.

    Zeros beyond the ends of the recording stay zeros.
    """
    mean, deviation = statistics.mean, statistics.deviation + LEAST_DEVIATION

    def scale(batch: Tensor, segments: Sequence[Span]) -> Scaled:
        scaled = (batch - mean) / batch.new_tensor(deviation)
        for samples, segment in zip(scaled, segments, strict=True):
            start = context(segment, samples.shape[-1]).start
            samples[..., : max(0, -start)] = 0
            samples[..., segment.stop - start :] = 0
        return scaled, lambda sources: torch.add(sources.new_tensor(mean), sources, alpha=deviation)

    return scale


def segment_scale(batch: Tensor, segments: Sequence[Span]) -> Scaled:
    """Return each segment of the batch on a scale of its own, and the function that puts the sources back."""
    mono = batch.mean(1)
    mean = mono.mean(-1)[:, None, None]
    deviation = mono.std(-1, correction=min(1, mono.shape[-1] - 1))[:, None, None] + LEAST_DEVIATION
    return (batch - mean) / deviation, lambda sources: sources * deviation[:, None] + mean[:, None]


class SegmentOutput(NamedTuple):
    """What a batch of segments gave: float32 sources on the scale of the recording, and presence, 0 in silence."""

    sources: Tensor  # [batch, targets, channels, samples]
    presence: Tensor  # [batch, targets]
    says_presence: bool  # as far as is known; if not, `presence` means nothing


class BackendRunner:
    """Runs one backend on the segments of a recording; on the CPU, several at a time.

    A batch for which the memory of the device is too small is halved until it fits, and later ones too. If one segment
    alone is too much, or the device lacks an operator, the rest is computed on the CPU by the backend that
    `on_cpu`, given the reason, loads. Without `conditions` it is asked for fixed sources; `outputs` are those to keep, in order.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        conditions: Conditions | None,
        outputs: Sequence[int],
        *,
        device: torch.device = _CPU,
        scale: Scale = no_scale,
        on_cpu: Callable[[str], Backend] | None = None,
    ) -> None:
        self._backend, self._name, self._scale, self._on_cpu = backend, name, scale, on_cpu
        self._conditions = None if conditions is None else conditions.to(device)
        self._outputs = list(outputs)
        self._device = self._backend_device = device
        self._n_at_once = ENDLESS
        self._says_presence = conditions is not None  # until it has answered

    def run(self, batch: Tensor, segments: Sequence[Span]) -> SegmentOutput:
        """Return the kept outputs of a batch `[batch, channels, samples]`; only what is not digital silence is computed.

        Raises BackendError, which names the backend and the time, where it failed or broke its contract.
        """
        sounding = [index for index, samples in enumerate(batch) if not is_silent(samples)]
        if len(sounding) == len(segments):
            return self._compute(batch, segments)
        sources = torch.zeros(len(segments), len(self._outputs), *batch.shape[1:], device=self._device)
        presence = torch.zeros(sources.shape[:2])
        if sounding:
            output = self._compute(batch[sounding], [segments[index] for index in sounding])
            sources[sounding], presence[sounding] = output.sources, output.presence
        return SegmentOutput(sources, presence, self._says_presence)

    def _compute(self, batch: Tensor, segments: Sequence[Span]) -> SegmentOutput:
        scaled, restore = self._scale(batch.to(self._device), segments)
        parts: list[SegmentOutput] = []
        n_done = 0
        while n_done < len(segments):
            part = slice(n_done, n_done + self._n_at_once)
            output = self._attempt(scaled[part].to(self._backend_device), segments[part])
            if output is not None:
                parts.append(output)
                n_done += output.sources.shape[0]
        sources = parts[0].sources if len(parts) == 1 else torch.cat([output.sources for output in parts])
        presence = torch.cat([output.presence for output in parts])
        return SegmentOutput(restore(sources), presence, self._says_presence)

    def _attempt(self, batch: Tensor, segments: Sequence[Span]) -> SegmentOutput | None:
        """Return the kept outputs; None when that failed, and there is more room now."""
        try:
            queries = () if self._conditions is None else (self._conditions.queries, self._conditions.negatives)
            return self._kept(self._backend.separate(batch, *queries), batch, segments)
        except UnisepError:
            raise
        except FAILURES as error:
            is_memory = _is_out_of_memory(error)
            lacks = "" if is_memory else _lacking(error)
            can_halve = is_memory and len(batch) > 1
            if not can_halve and (self._on_cpu is None or not (is_memory or lacks)):
                smaller = f" Use a shorter {arg('segment_seconds')}, or {arg('device', 'cpu')}."
                advice = smaller if is_memory else ""
                raise BackendError(
                    f"The backend '{self._name}' failed at {self._seconds(segments[0].start):.1f} s: "
                    f"{type(error).__name__}: {error}{advice}"
                ) from error
        # Only here, where nothing holds on to the tensors of the call that failed.
        if batch.device.type == "cuda":
            torch.cuda.empty_cache()
        where = f"The memory of {batch.device} ran out at {self._seconds(segments[0].start):.1f} s"
        if can_halve:
            self._n_at_once = len(batch) // 2
            log.info("%s: %d segments at once from here on.", where, self._n_at_once)
        elif lacks:
            self._go_to_cpu(f"{batch.device} cannot do all of '{self._name}' ({lacks}): it")
        else:
            advice = f"A shorter {arg('segment_seconds')} needs less memory."
            self._go_to_cpu(f"{where}, with a single segment: '{self._name}'", advice)
        return None

    def _go_to_cpu(self, what: str, advice: str = "") -> None:
        assert self._on_cpu is not None
        reason = f"{what} goes on on the CPU, which is slower. {advice}".strip()
        self._backend, self._on_cpu, self._backend_device = self._on_cpu(reason), None, _CPU
        self._conditions = None if self._conditions is None else self._conditions.to(_CPU)

    def _kept(self, output: Output, batch: Tensor, segments: Sequence[Span]) -> SegmentOutput:
        """Return the outputs that are wanted. Raises BackendError where the backend broke its contract."""
        n_outputs = len(self._backend.info.sources if self._conditions is None else self._conditions.queries)
        wrong = wrong_sources(output, n_outputs, batch)
        wrong = wrong or self._not_finite(output.sources, batch, segments)
        wrong = wrong or _wrong_presence(output.presence, (len(batch), n_outputs))
        if wrong:
            raise BackendError(f"The backend '{self._name}' returned {wrong}")
        is_all = self._outputs == list(range(n_outputs))
        sources = (output.sources if is_all else output.sources[:, self._outputs]).float().to(self._device)
        self._says_presence = output.presence is not None
        presence = torch.zeros(sources.shape[:2])
        if output.presence is not None:
            presence = output.presence[:, self._outputs].float().cpu()
        return SegmentOutput(sources, presence, self._says_presence)

    def _not_finite(self, sources: Tensor, batch: Tensor, segments: Sequence[Span]) -> str:
        """Return what is wrong with sources that are not all finite, or "". They are if their sum is: quicker to know."""
        if sources.sum(dtype=torch.float32).isfinite() or sources.isfinite().all():
            return ""
        index, _, _, sample = (~torch.isfinite(sources)).nonzero()[0].tolist()
        segment = segments[index]
        position = max(segment.start, context(segment, sources.shape[-1]).start + sample)
        advice = f"Try {arg('precision', 'float32')}; verify its weights with `unisep models verify`."
        if (peak := float(batch[index].abs().max())) > LOUDEST:
            advice = f"The level of the recording is too high: its peak is {peak:.3g}, full scale is 1.0. Divide by the peak."
        return f"NaN or infinity at {self._seconds(min(position, segment.stop - 1)):.1f} s. {advice}"

    def _seconds(self, sample: int) -> float:
        return max(0, sample) / self._backend.info.sample_rate_hz


def is_silent(samples: Tensor) -> bool:
    """Tell whether all samples are exactly 0."""
    return not samples.any()


def wrong_sources(output: object, n_outputs: int, mixture: Tensor) -> str:
    """Return what is wrong with the sources that a backend gave for `mixture [batch, channels, samples]`, or ""."""
    if not isinstance(output, Output):
        return f"{type(output).__name__}, not an Output of tensors of real numbers."
    if kind := _unreal(output.sources):
        return f"sources of {kind}, not an Output of tensors of real numbers."
    n_batch, n_channels, n_samples = mixture.shape
    expected = (n_batch, n_outputs, n_channels, n_samples)
    if tuple(output.sources.shape) != expected:
        return f"sources {tuple(output.sources.shape)}; [batch, outputs, channels, samples] = {expected} was expected."
    return ""


def _wrong_presence(presence: Tensor | None, expected: tuple[int, int]) -> str:
    """Return what is wrong with a presence of which `expected` is the shape, or ""."""
    if presence is None:
        return ""
    if kind := _unreal(presence):
        return f"presence of {kind}, not an Output of tensors of real numbers."
    if tuple(presence.shape) == expected and ((presence >= 0) & (presence <= 1)).all():
        return ""
    values = presence.float().flatten().tolist() or [math.nan]
    return (
        f"a presence {tuple(presence.shape)} from {min(values):.3g} to {max(values):.3g}; "
        f"[batch, outputs] = {expected} of values in 0..1 was expected."
    )


def _unreal(value: object) -> str:
    """Return what a value is that is no tensor of real numbers, or ""."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "" if value.is_floating_point() else str(value.dtype)


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, or the driver below it, had no memory left; not all say so by a type of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _lacking(error: BaseException) -> str:
    """Return the first line of what torch says of an operator or a type that the device lacks; "" for other errors."""
    is_lack = isinstance(error, NotImplementedError | RuntimeError | TypeError) and _NOT_THERE.search(str(error))
    return str(error).splitlines()[0][:200] if is_lack else ""
