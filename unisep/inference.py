"""Calls of a backend, each checked against the contract, over the segments of a part of a song."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unisep.backend import Backend, Output
from unisep.chunks import CancelFlag, separate_chunks
from unisep.errors import BackendError, UnisepError
from unisep.options import Options
from unisep.progress import Meter
from unisep.segments import Segment, grid
from unisep.spans import Span
from unisep.vectors import Conditions

MAX_SHIFT_SECONDS = 0.5


class Caller:
    """Calls one backend for the segments of one stretch, checks what comes back, and keeps the presence.

    name: of the backend, for messages. conditions: None asks for the fixed sources.
    outputs: which of the backend's outputs to keep, in order. Used by one thread.
    """

    def __init__(
        self, backend: Backend, name: str, conditions: Conditions | None, outputs: Sequence[int]
    ) -> None:
        self._backend = backend
        self._name = name
        self._conditions = conditions
        self._outputs = list(outputs)
        self._segments: list[Segment] = []
        self._n_called = 0
        self._presence: Tensor | None = None

    @property
    def presence(self) -> list[float] | None:
        """For each kept output, how surely it is there in any segment so far; None if never said."""
        return None if self._presence is None else [float(value) for value in self._presence]

    def begin(self, segments: list[Segment]) -> None:
        """Say which segments come next, so that messages can name the time."""
        self._segments, self._n_called = segments, 0

    def __call__(self, batch: Tensor) -> Tensor:
        """The kept outputs [batch, n, channels, samples], float32, of segments [batch, channels, samples]."""
        output = self._called(batch)
        self._check(output, batch)
        self._n_called += batch.shape[0]
        if output.presence is not None:
            kept = output.presence[:, self._outputs].float().amax(0).cpu()
            self._presence = kept if self._presence is None else torch.maximum(self._presence, kept)
        return output.sources[:, self._outputs].float()

    def _called(self, batch: Tensor) -> Output:
        try:
            if self._conditions is None:
                return self._backend.separate(batch)
            return self._backend.separate(batch, self._conditions.queries, self._conditions.negatives)
        except UnisepError:
            raise
        except Exception as error:
            memory = isinstance(error, torch.OutOfMemoryError)
            advice = " Use a shorter segment_seconds, or device='cpu'." if memory else ""
            raise BackendError(
                f"The backend '{self._name}' failed at {self._seconds():.1f} s: {type(error).__name__}: {error}{advice}"
            ) from error

    def _check(self, output: object, batch: Tensor) -> None:
        if not isinstance(output, Output) or not isinstance(output.sources, Tensor):
            raise BackendError(
                f"The backend '{self._name}' returned {type(output).__name__}, not an Output of tensors."
            )
        info, conditions = self._backend.info, self._conditions
        n_outputs = len(info.sources) if conditions is None else conditions.queries.shape[0]
        n_batch, n_channels, n_samples = batch.shape
        expected = (n_batch, n_outputs, n_channels, n_samples)
        if tuple(output.sources.shape) != expected:
            raise BackendError(
                f"The backend '{self._name}' returned sources {tuple(output.sources.shape)}; "
                f"[batch, outputs, channels, samples] = {expected} was expected."
            )
        if not torch.isfinite(output.sources).all():
            raise BackendError(
                f"The backend '{self._name}' returned NaN or infinity at {self._seconds():.1f} s. "
                "Try precision='float32'; verify its weights with `unisep models verify`."
            )
        presence = output.presence
        if presence is not None and (
            tuple(presence.shape) != (n_batch, n_outputs) or not ((presence >= 0) & (presence <= 1)).all()
        ):
            raise BackendError(
                f"The backend '{self._name}' returned a presence {tuple(presence.shape)} that is not "
                f"[batch, outputs] = {(n_batch, n_outputs)} of values in 0..1."
            )

    def _seconds(self) -> float:
        index = min(self._n_called, len(self._segments) - 1)
        return (
            max(0, self._segments[index].start) / self._backend.info.sample_rate_hz if self._segments else 0.0
        )


class Stepper:
    """Separates parts of a song at the backend's rate, averaged over random shifts where asked for."""

    def __init__(self, options: Options, segment_samples: int | None, sample_rate_hz: int) -> None:
        self._options = options
        self._segment_samples = segment_samples
        self._max_shift = int(MAX_SHIFT_SECONDS * sample_rate_hz)

    def n_segments(self, n_samples: int, span: Span) -> int:
        """How many segments `separate` computes for this span."""
        return sum(len(self._touched(n_samples + lead, span, lead)) for lead in self._leads())

    def separate(
        self, song: Tensor, span: Span, caller: Caller, meter: Meter, cancel: CancelFlag | None
    ) -> Tensor:
        """The outputs [n, channels, samples] over `span` of `song` [channels, samples].

        A shift puts up to half a second of silence in front, so that the grid of segments falls
        elsewhere; the results are averaged (the "shift trick" of Defossez et al. 2019,
        arXiv:1911.13254). The shifts come from a generator of their own, seeded anew for every call.
        """
        total: Tensor | None = None
        leads = self._leads()
        for lead in leads:
            padded = functional.pad(song, (lead, 0)) if lead else song
            caller.begin(self._touched(song.shape[-1] + lead, span, lead))
            result = separate_chunks(
                padded,
                caller,
                segment_samples=self._segment_samples,
                overlap_fraction=self._options.overlap_fraction,
                span=(span.start + lead, span.stop + lead),
                on_segment=lambda _done, _all: meter.step(),
                cancel=cancel,
            )
            total = result if total is None else total.add_(result)
        assert total is not None
        return total if len(leads) == 1 else total.div_(len(leads))

    def _leads(self) -> list[int]:
        """Samples of silence put in front of the song, one for each time it is separated."""
        generator = random.Random(self._options.seed)
        return [generator.randint(0, self._max_shift) for _ in range(self._options.shifts)] or [0]

    def _touched(self, n_samples: int, span: Span, lead: int) -> list[Segment]:
        segments = grid(n_samples, self._segment_samples, self._options.overlap_fraction)
        start, stop = span.start + lead, span.stop + lead
        return [segment for segment in segments if segment.start < stop and segment.stop > start]
