"""Segments of several recordings in one call of a backend, so that short recordings fill a GPU as well."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from unisep.errors import FAILURES
from unisep.plugins.backend import Backend, Output


@dataclass(eq=False)
class _Call:
    mixture: Tensor
    queries: Tensor | None
    negatives: Tensor | None
    output: Output | None = None
    is_alone: bool = False  # since a call with others failed

    def fits(self, other: _Call) -> bool:
        """Tell whether both can be computed in one."""
        pairs = ((self.queries, other.queries), (self.negatives, other.negatives))
        same = all(one is two or (one is not None and two is not None and torch.equal(one, two)) for one, two in pairs)
        return same and self.mixture.shape[1:] == other.mixture.shape[1:] and not (self.is_alone or other.is_alone)


class Batching(Backend):
    """A backend that computes in one batch what several threads ask of it.

    While it computes, calls wait; of those the next batch is made, as far as shapes and queries are the same. All backends
    promise that a batch equals its singles, within 1e-5 of the peak (`unisep.testing.BackendContract`).
    """

    def __init__(self, backend: Backend, n_most: int) -> None:
        """Compute `n_most` segments at a time, or as many as one call has; of a backend that takes any length, one call."""
        self.info, self._backend, self._n_most = backend.info, backend, n_most if backend.info.segment_seconds else 1
        self._turn, self._is_computing, self._waiting = threading.Condition(), False, list[_Call]()

    def separate(self, mixture: Tensor, queries: Tensor | None = None, negatives: Tensor | None = None) -> Output:
        """Return the sources of each mixture in the batch, computed by this thread or another."""
        call = _Call(mixture, queries, negatives)
        with self._turn:
            self._waiting.append(call)
            self._turn.wait_for(lambda: call.output is not None or not self._is_computing)
            if call.output is not None:
                return call.output
            self._is_computing, calls = True, self._batch(call)
        try:
            if len(calls) == 1 or not self._compute(calls):
                call.output = self._run(mixture, queries, negatives)
            return call.output  # type: ignore[return-value]
        finally:
            with self._turn:
                self._waiting = [other for other in self._waiting if other.output is None and other is not call]
                self._is_computing = False
                self._turn.notify_all()

    def _batch(self, call: _Call) -> list[_Call]:
        """Return a call with those that wait and can be computed with it."""
        calls, n_segments = [call], len(call.mixture)
        for other in self._waiting:
            if other is not call and n_segments + len(other.mixture) <= self._n_most and other.fits(call):
                calls.append(other)
                n_segments += len(other.mixture)
        return calls

    def _compute(self, calls: list[_Call]) -> bool:
        """Compute several calls in one. Where that fails, each is to be computed by its own thread, which then knows why."""
        try:
            output = self._run(torch.cat([call.mixture for call in calls]), calls[0].queries, calls[0].negatives)
            sizes = [len(call.mixture) for call in calls]
            sources = output.sources.split(sizes)
            presence = [None] * len(calls) if output.presence is None else output.presence.split(sizes)
        except FAILURES:
            for call in calls:
                call.is_alone = True
            return False
        for call, its_sources, its_presence in zip(calls, sources, presence, strict=True):
            call.output = Output(its_sources.clone(), its_presence)  # a backend may use the memory of its outputs again
        return True

    def _run(self, mixture: Tensor, queries: Tensor | None, negatives: Tensor | None) -> Output:
        output = self._backend.separate(mixture, queries, negatives)
        if mixture.is_cuda:
            torch.cuda.synchronize(mixture.device)  # while it computes, others come
        return output
