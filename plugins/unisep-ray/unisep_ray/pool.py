"""Workers on a Ray cluster: actors that each hold something loaded, given tasks one by one, and replaced when they die.

Ray Data would move rows well, but its pools of actors know neither a limit of tries for one row, nor errors as rows, nor
rows that are tried alone after a worker died. With actors alone that is what this file holds.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from unisep.errors import BackendError, OptionError, UnisepError
from unisep.plugins.registry import using

_STORE_BYTES = 256 * 2**20  # of a Ray that is started here: tasks and results are small
_STOP_SECONDS = 20.0
_N_STARTS = 5  # that may fail one after the other


class Actor:
    """Holds what `make` returns, made at the first call, and calls functions with it."""

    def __init__(self, make: Callable[[], Any], plugins: Sequence[str] = ()) -> None:
        self._make, self._held, self._using = make, None, using(*plugins)

    def start(self) -> None:
        """Load what is held."""
        if self._held is None:
            self._using.__enter__()  # as long as the process lives
            self._held = self._make()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns that takes what is held and `arguments`."""
        return function(self._held, *arguments)

    def stream(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        """Yield what a function yields that takes what is held and `arguments`."""
        yield from function(self._held, *arguments)


@dataclass(frozen=True)
class Resources:
    """What workers there are to be.

    Attributes:
        n_min: Begin once so many are ready.
        n_max: Ask for so many; None for as many as the cluster has room for now.
        n_beside: How many tasks a worker has in hand.
        n_attempts: How many workers may die that have one task alone in hand.
    """

    n_gpus: float = 0.0
    n_cpus: float = 1.0
    n_min: int = 1
    n_max: int | None = None
    n_beside: int = 1
    n_attempts: int = 3

    def __post_init__(self) -> None:
        n_max = self.n_min if self.n_max is None else self.n_max
        if not 1 <= self.n_min <= n_max or self.n_attempts < 1 or not (self.n_gpus >= 0 and self.n_cpus >= 0):
            raise OptionError(
                "Give at least 1 worker, not more --min-workers than --max-workers, at least 1 attempt, and no resources "
                "below 0."
            )


@dataclass(eq=False)
class _Worker:
    handle: Any
    is_ready: bool = False
    tasks: set[Any] = field(default_factory=set)
    is_alone: bool = False  # with a task that a worker died of


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a value, or the error that it ended with; `n_attempts` counts workers that had it."""

    task: Any
    value: Any = None
    error: Exception | None = None
    n_attempts: int = 1


class Pool:
    """A number of actors. Use as a context manager; at its end they are gone."""

    def __init__(
        self,
        make: Callable[[], Any],
        resources: Resources,
        *,
        address: str | None,
        stage: str,
        plugins: Sequence[str] = (),
    ) -> None:
        self._make, self._resources, self._plugins = make, resources, tuple(plugins)
        self._stage, self._run, self._n_made = stage, uuid4().hex[:6], 0
        self._workers: list[_Worker] = []
        self._refs: dict[Any, tuple[_Worker, Any]] = {}  # task None: the start
        self._deaths: dict[int, list[bool]] = {}  # of workers that had a task: whether they had nothing else
        self._n_failed_starts = self.n_lost = 0
        self._is_ours = connect(address)

    def __enter__(self) -> Pool:
        n_max = self._resources.n_max or self._room()
        for _ in range(max(n_max, self._resources.n_min)):
            self._add_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            with suppress(Exception):
                ray.kill(worker.handle)
        if self._is_ours:
            ray.shutdown()

    @property
    def n_ready(self) -> int:
        """How many workers have loaded what they hold."""
        return sum(worker.is_ready for worker in self._workers)

    def map(self, function: Callable[..., Any], tasks: Iterable[Any]) -> Iterator[Outcome | None]:
        """Yield what comes of each task, as it comes, and None whenever nothing came for a second.

        Tasks are taken from the iterable only as workers have hands free. A task that a worker died of is tried again by
        a worker that has nothing else in hand. Raises what workers raise as they start.
        """
        waiting, again, is_over = iter(tasks), deque[Any](), False
        has_begun = False
        while True:
            has_begun = has_begun or self.n_ready >= self._resources.n_min
            while has_begun and (worker := self._free_worker()) is not None:
                if again and worker.tasks:
                    break  # until one has nothing in hand
                if again:
                    self._give(worker, function, again.popleft(), is_alone=True)
                    continue
                task = None if is_over else next(waiting, None)
                if task is None:
                    is_over = True
                    break
                self._give(worker, function, task)
            if is_over and not again:
                self._dismiss_idle()
                if not self._refs:
                    return
            done, _ = ray.wait(list(self._refs), num_returns=1, timeout=1.0)
            if not done:
                yield None
            for ref in done:
                outcome = self._taken(ref, again)
                if outcome is not None:
                    yield outcome

    def stop(self, function: Callable[[Any], Any]) -> list[Outcome]:
        """Call a function of every worker beside what it does, wait a little, and return what came to its end all the same."""
        refs, outcomes = [ref for ref, (_, task) in self._refs.items() if task is not None], []
        with suppress(Exception):
            for worker in self._workers:
                if worker.is_ready:
                    worker.handle.call.remote(function)
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=_STOP_SECONDS)
            for ref in done:
                with suppress(Exception):  # what was stopped, most likely
                    outcomes.append(Outcome(self._refs[ref][1], ray.get(ref)))
        return outcomes

    def _room(self) -> int:
        """Return how many workers the cluster has room for now."""
        there, needed = ray.cluster_resources(), {"CPU": self._resources.n_cpus, "GPU": self._resources.n_gpus}
        rooms = [int(there.get(name, 0.0) // n) for name, n in needed.items() if n > 0]
        if not min(rooms, default=1):
            raise OptionError(f"The cluster has no room for a worker that needs {needed}. It has {there}.")
        return min(rooms, default=1)

    def _add_worker(self) -> None:
        self._n_made += 1
        options = {
            "name": f"unisep-{self._stage}-{self._run}-{self._n_made}", "num_cpus": self._resources.n_cpus,
            "num_gpus": self._resources.n_gpus, "max_concurrency": self._resources.n_beside + 1, "max_restarts": 0,
        }  # fmt: skip
        worker = _Worker(ray.remote(Actor).options(**options).remote(self._make, self._plugins))
        self._workers.append(worker)
        self._refs[worker.handle.start.options(name="load").remote()] = worker, None

    def _free_worker(self) -> _Worker | None:
        """Return a worker with hands free, one with the least to do."""
        able = [
            worker for worker in self._workers
            if worker.is_ready and not worker.is_alone and len(worker.tasks) < self._resources.n_beside
        ]  # fmt: skip
        return min(able, key=lambda worker: len(worker.tasks), default=None)

    def _dismiss_idle(self) -> None:
        """Let workers go for which there is nothing left to do, so that the cluster can shrink."""
        for worker in [worker for worker in self._workers if not worker.tasks]:
            self._workers.remove(worker)
            self._refs = {ref: pair for ref, pair in self._refs.items() if pair[0] is not worker}
            with suppress(Exception):
                ray.kill(worker.handle)

    def _give(self, worker: _Worker, function: Callable[..., Any], task: Any, *, is_alone: bool = False) -> None:
        ref = worker.handle.call.options(name=self._stage).remote(function, task)
        worker.is_alone = is_alone
        worker.tasks.add(ref)
        self._refs[ref] = worker, task

    def _taken(self, ref: Any, again: deque[Any]) -> Outcome | None:
        worker, task = self._refs.pop(ref)
        was_alone, worker.is_alone = worker.is_alone, False
        worker.tasks.discard(ref)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            if task is None:
                raise self._start_error(error.cause) from None
            return Outcome(task, error=error.cause, n_attempts=self._attempts_at(task))
        except RayError as error:
            return self._died(worker, task, error, again, was_alone)
        if task is None:
            worker.is_ready, self._n_failed_starts = True, 0
            return None
        return Outcome(task, value, n_attempts=self._attempts_at(task))

    def _attempts_at(self, task: Any) -> int:
        """Return how many workers had a task that has come to its end."""
        return len(self._deaths.pop(id(task), [])) + 1

    def _died(self, worker: _Worker, task: Any, error: RayError, again: deque[Any], was_alone: bool) -> Outcome | None:
        """Replace a worker, and have its task tried again, until too many have died with nothing else in hand."""
        if worker in self._workers:
            self._workers.remove(worker)
            with suppress(Exception):
                ray.kill(worker.handle)
            self.n_lost += 1
            self._n_failed_starts += not worker.is_ready
            if self._n_failed_starts > _N_STARTS:
                raise BackendError(f"Workers die as they start: {_reason(error)}")
            self._add_worker()
        if task is None:
            return None
        deaths = self._deaths.setdefault(id(task), [])
        deaths.append(was_alone)
        if sum(deaths) < self._resources.n_attempts:
            again.append(task)
            return None
        message = f"Workers died {sum(deaths)} times while they had this alone in hand: {_reason(error)}"
        return Outcome(task, error=BackendError(message), n_attempts=len(self._deaths.pop(id(task))))

    @staticmethod
    def _start_error(cause: Exception) -> Exception:
        return cause if isinstance(cause, UnisepError) else BackendError(f"A worker does not start: {cause!r}")


def spread(
    make: Callable[[], Any], function: Callable[[Any, Any], Any], items: Iterable[Any], *, address: str | None = None,
    plugins: Sequence[str] = (), stage: str = "spread", resources: Resources | None = None,
) -> Iterator[Any]:  # fmt: skip
    """Yield `function(held, item)` of each item, in their order, computed by workers that each hold what `make` returns.

    Raises:
        Exception: The first error, in the order of the items.
    """
    with Pool(make, resources or Resources(), address=address, stage=stage, plugins=plugins) as pool:
        early: dict[int, Outcome] = {}
        number = 0
        for outcome in pool.map(_numbered(function), enumerate(items)):
            if outcome is not None:
                early[outcome.task[0]] = outcome
            while number in early:
                outcome = early.pop(number)
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.value
                number += 1


@dataclass(frozen=True)
class _numbered:
    """Calls a function with the item of a pair of number and item."""

    function: Callable[[Any, Any], Any]

    def __call__(self, held: Any, task: tuple[int, Any]) -> Any:
        return self.function(held, task[1])


def connect(address: str | None) -> bool:
    """Connect to a cluster, or start Ray on this machine; tell whether it was started or connected here.

    Raises:
        OptionError: There is no cluster at this address.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    store: dict[str, Any] = {"object_store_memory": _STORE_BYTES} if place == "local" else {}
    try:
        ray.init(address=place, logging_level=logging.ERROR, log_to_driver=False, **store)
    except Exception as error:  # of many kinds
        raise OptionError(f"Ray cannot be reached at {place!r}, or started: {error}") from error
    return True


def _reason(error: RayError) -> str:
    """Return the first sentences of what Ray tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]
