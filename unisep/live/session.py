"""A live session: a thread that separates, and a clock that never waits for it."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from queue import Full, Queue
from typing import final

import numpy as np
import torch

from unisep.audio import Audio, Samples, SamplesLike, as_samples
from unisep.engine.cpu import in_one_thread
from unisep.engine.engine import LoadedTask, Piece
from unisep.errors import FAILURES, AudioError, BackendError, OptionError, PluginError, UnisepError, arg
from unisep.live.pipeline import Pipeline
from unisep.plugins.backend import LiveBackend
from unisep.progress import ProgressReporter
from unisep.routing.types import Request, Route
from unisep.separation import Separation
from unisep.session.compose import REST, compose, without
from unisep.session.prepare import Preparer
from unisep.session.stream import refuse_excerpt


@final
class Live(AbstractContextManager["Live"]):
    """Separates blocks of one size as they come. What `push` returns is `latency_samples` older than what it takes.

    The work is done on a thread of its own. A block whose targets are not there in time, since the machine is busy, has
    silent targets and is in `rest` as a whole: the output never waits and never shifts. Used by one thread.

    Attributes:
        plan: who answers what, and why.
        latency_samples: from a sample that goes in to the same one coming out.
        algorithmic_latency_samples: the part of it that no faster machine takes away.
        n_late: how many blocks came too late.
    """

    def __init__(
        self, route: Route, pipelines: Callable[[], list[Pipeline]], sample_rate_hz: int, channels: int,
        block_samples: int, margin_blocks: int | None,
    ) -> None:  # fmt: skip
        self.plan, self._route, self._make_pipelines = route.plan, route, pipelines
        self._rate_hz, self._shape = sample_rate_hz, (channels, block_samples)
        first = pipelines()
        n_usual = math.ceil(max(one.hop_samples for one in first) / block_samples)  # until the next hop comes
        self._n_margin = n_usual if margin_blocks is None else margin_blocks
        self.algorithmic_latency_samples = max(one.lag_samples(block_samples) for one in first)
        self._n_delay = math.ceil(self.algorithmic_latency_samples / block_samples) + self._n_margin
        self.latency_samples = self._n_delay * block_samples
        self._begin(first)

    def push(self, block: SamplesLike | Audio, *, wait: bool = False) -> Separation:
        """Take the next block, `[channels, block_samples]`, and return the results of `latency_samples` before.

        With `wait` the work is done first: for what comes faster than it sounds, such as a file. Then nothing is late.
        Raises AudioError for a block of another kind, BackendError after the backend failed, until `reset`.
        """
        samples = self._checked(block)
        if not self._thread.is_alive():
            raise OptionError("This live session is closed. Open another one with Separator.live.")
        number, due = self._n_pushed, self._n_pushed - self._n_delay
        with suppress(Full):  # then it is given up: nothing queues without end
            self._inbox.put_nowait((number, samples))
        if wait:
            self._inbox.join()
        if self._failure is not None:
            raise self._failure
        known, targets = self._results[due % len(self._results)]
        self._n_pushed += 1
        self.n_late += due >= 0 and known != due
        self._mixtures.append(samples)
        return self._separation(self._mixtures.popleft(), targets if known == due else None)

    def reset(self) -> None:
        """Begin anew, as if nothing had been heard."""
        self.close()
        self._begin(self._make_pipelines())

    def close(self) -> None:
        """End the thread. Nothing can be pushed any more, unless after `reset`."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, pipelines: list[Pipeline]) -> None:
        self.n_late = self._n_pushed = 0
        self._mixtures: deque[Samples] = deque([np.zeros(self._shape, dtype=np.float32)] * self._n_delay)
        self._inbox: Queue[tuple[int, Samples] | None] = Queue(self._n_margin + 1)
        self._results: list[tuple[int, Samples | None]] = [(-1, None)] * (2 * self._n_delay + 1)  # a ring, by number
        self._failure: UnisepError | None = None
        self._thread: threading.Thread = threading.Thread(target=self._work, args=(pipelines,), daemon=True)
        self._thread.start()

    def _work(self, pipelines: list[Pipeline]) -> None:
        """Separate block after block until the session is closed; after a failure none any more."""
        n_channels, n_block = self._shape
        known = [np.zeros((len(task.targets), n_channels, 0), dtype=np.float32) for task in self._route.tasks]
        numbers: deque[int] = deque()  # of blocks that are heard, and whose targets are not known
        while (item := self._inbox.get()) is not None:
            try:
                fresh = [in_one_thread(partial(one.push, item[1])) for one in pipelines if self._failure is None]
                known = [np.concatenate(parts, axis=-1) for parts in zip(known, fresh, strict=True)]
                numbers.append(item[0])
            except FAILURES as error:
                failure = BackendError(f"The live backend failed: {type(error).__name__}: {error}")
                self._failure = self._failure or (error if isinstance(error, UnisepError) else failure)
            while min(part.shape[-1] for part in known) >= n_block:
                number, parts = numbers.popleft(), [part[..., :n_block] for part in known]
                self._results[number % len(self._results)] = number, np.concatenate(parts)
                known = [part[..., n_block:].copy() for part in known]
            self._inbox.task_done()

    def _separation(self, mixture: Samples, targets: Samples | None) -> Separation:
        names = [target.name for task in self._route.tasks for target in task.targets]
        known = np.zeros((len(names), *self._shape), dtype=np.float32) if targets is None else targets
        results = compose(Piece(mixture, dict(zip(names, known, strict=True))), self._route)
        audio = {name: Audio(samples, self._rate_hz) for name, samples in results.items()}
        rest = audio.pop(REST)
        return Separation(audio, rest=rest, plan=self.plan, source_name="live")

    def _checked(self, block: SamplesLike | Audio) -> Samples:
        rate_hz = block.sample_rate_hz if isinstance(block, Audio) else self._rate_hz
        shape, expected = (*(samples := as_samples(block)).shape, rate_hz), (*self._shape, self._rate_hz)
        if shape != expected:
            raise AudioError(f"Channels, samples and rate of a block are {shape}; this session takes {expected}.")
        return samples.copy()


def open_live(
    preparer: Preparer, request: Request, device: torch.device, sample_rate_hz: int, channels: int,
    block_samples: int, margin_blocks: int | None,
) -> Live:  # fmt: skip
    """Open a session for a live request. Raise as `Separator.live` says."""
    if channels not in (1, 2) or block_samples not in range(1, 65_537) or (margin_blocks or 0) not in range(1_001):
        ranges = f"{arg('channels')} 1 or 2, {arg('block_samples')} 1 to 65536, {arg('margin_blocks')} 0 to 1000"
        raise OptionError(f"A live session takes whole numbers: {ranges}.")
    try:
        route = preparer.route(request)
    except PluginError as error:
        raise PluginError(f"Nobody here answers this live: {error} Separator.stream may, later.") from error
    if any(target.time_range for task in route.tasks for target in task.targets):
        raise OptionError(f"What is live has no {arg('time_range')}. Leave it out.")
    for step in route.steps:
        raise OptionError(f"The result step {step.title} needs the whole recording; {without(step.distribution)}.")
    prepared = preparer.prepare(request, ProgressReporter())
    tasks = preparer.encoded(prepared, refuse_excerpt, ProgressReporter())

    def pipelines() -> list[Pipeline]:
        return [_pipeline(task, sample_rate_hz, channels, device) for task in tasks]

    return Live(prepared.route, pipelines, sample_rate_hz, channels, block_samples, margin_blocks)


def _pipeline(loaded: LoadedTask, sample_rate_hz: int, channels: int, device: torch.device) -> Pipeline:
    backend, task = loaded.backend, loaded.task
    if not isinstance(backend, LiveBackend):
        raise BackendError(f"'{task.backend.name}' says that it is live, and is no LiveBackend. Tell its author.")
    outputs = [backend.info.sources.index(target.stem) for target in task.targets if target.stem] or None
    return Pipeline(backend, sample_rate_hz, channels, outputs, loaded.conditions, device)
