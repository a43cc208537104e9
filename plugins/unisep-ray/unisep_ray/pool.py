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
class Task:
    """An item, and in the end what came of it: a value, or the error that it ended with.

    Attributes:
        n_attempts: How many workers have had it. All but the first had nothing else in hand.
    """

    item: Any
    value: Any = None
    error: Exception | None = None
    n_attempts: int = 0


@dataclass(eq=False)
class _Worker:
    handle: Any
    is_ready: bool = False
    tasks: list[Task] = field(default_factory=list)

    def kill(self) -> None:
        with suppress(Exception):  # it is dead
            ray.kill(self.handle)


class Pool:
    """A number of actors. Use as a context manager; at its end they are gone."""

    def __init__(
        self, make: Callable[[], Any], resources: Resources, *, address: str | None, stage: str, plugins: Sequence[str] = ()
    ) -> None:  # fmt: skip
        self._make, self._resources, self._plugins = make, resources, tuple(plugins)
        self._stage, self._run, self._n_made = stage, uuid4().hex[:6], 0
        self._workers: list[_Worker] = []
        self._refs: dict[Any, tuple[_Worker, Task | None]] = {}  # None: the start
        self._suspects: deque[Task] = deque()
        self._n_failed_starts = self.n_lost = 0
        self._is_ours = connect(address)

    def __enter__(self) -> Pool:
        for _ in range(max(self._resources.n_max or self._room(), self._resources.n_min)):
            self._add_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        if self._is_ours:
            ray.shutdown()

    @property
    def n_ready(self) -> int:
        """How many workers have loaded what they hold."""
        return sum(worker.is_ready for worker in self._workers)

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Task | None]:
        """Yield a task for each item as it is done, and None whenever nothing was for a second.

        Items are taken from the iterable only as workers have hands free. One that a worker died of is tried again by
        a worker that has nothing else in hand. Raises what workers raise as they start.
        """
        waiting, has_begun = map(Task, items), False
        while True:
            has_begun = has_begun or self.n_ready >= self._resources.n_min
            if has_begun and self._hand_out(function, waiting):
                self._dismiss_idle()
                if not self._refs:
                    return
            done, _ = ray.wait(list(self._refs), timeout=1.0)
            if not done:
                yield None
            for ref in done:
                if (task := self._taken(ref)) is not None:
                    yield task

    def stop(self, function: Callable[[Any], Any]) -> list[Task]:
        """Call a function of every worker beside what it does, wait a little, and return what was done all the same."""
        running, tasks = {ref: task for ref, (_, task) in self._refs.items() if task is not None}, []
        with suppress(Exception):
            for worker in self._workers:
                if worker.is_ready:
                    worker.handle.call.remote(function)
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=_STOP_SECONDS)
            for ref in done:
                with suppress(Exception):  # what was stopped, most likely
                    running[ref].value = ray.get(ref)
                    tasks.append(running[ref])
        return tasks

    def _room(self) -> int:
        """Return how many workers the cluster has room for now."""
        there, needed = ray.cluster_resources(), {"CPU": self._resources.n_cpus, "GPU": self._resources.n_gpus}
        n_workers = min((int(there.get(name, 0.0) // n) for name, n in needed.items() if n > 0), default=1)
        if not n_workers:
            raise OptionError(f"The cluster has no room for a worker that needs {needed}. It has {there}.")
        return n_workers

    def _add_worker(self) -> None:
        self._n_made += 1
        actor = ray.remote(Actor).options(
            name=f"unisep-{self._stage}-{self._run}-{self._n_made}", num_cpus=self._resources.n_cpus,
            num_gpus=self._resources.n_gpus, max_concurrency=self._resources.n_beside + 1,
        )  # fmt: skip
        worker = _Worker(actor.remote(self._make, self._plugins))
        self._workers.append(worker)
        self._refs[worker.handle.start.options(name="load").remote()] = worker, None

    def _hand_out(self, function: Callable[..., Any], waiting: Iterator[Task]) -> bool:
        """Give tasks to workers with hands free, suspects first. Tell whether there is none left to give."""
        while (worker := self._free_worker()) is not None:
            if self._suspects and worker.tasks:
                return False  # until one has nothing in hand
            task = self._suspects.popleft() if self._suspects else next(waiting, None)
            if task is None:
                return True
            task.n_attempts += 1
            worker.tasks.append(task)
            self._refs[worker.handle.call.options(name=self._stage).remote(function, task.item)] = worker, task
        return False

    def _free_worker(self) -> _Worker | None:
        """Return a worker with hands free, one with the least to do."""
        able = [
            worker for worker in self._workers
            if worker.is_ready and len(worker.tasks) < self._resources.n_beside
            and all(task.n_attempts == 1 for task in worker.tasks)
        ]  # fmt: skip
        return min(able, key=lambda worker: len(worker.tasks), default=None)

    def _dismiss_idle(self) -> None:
        """Let workers go for which there is nothing left to do, so that the cluster can shrink."""
        for worker in [worker for worker in self._workers if not worker.tasks]:
            self._workers.remove(worker)
            self._refs = {ref: pair for ref, pair in self._refs.items() if pair[0] is not worker}
            worker.kill()

    def _taken(self, ref: Any) -> Task | None:
        """Return the task that is done, or None: a worker is ready, or died, and its task is tried again."""
        worker, task = self._refs.pop(ref)
        if task is not None:
            worker.tasks.remove(task)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            if task is None and isinstance(error.cause, UnisepError):
                raise error.cause from None
            if task is None:
                raise BackendError(f"A worker does not start: {error.cause!r}") from None
            task.error = error.cause
        except RayError as error:
            return self._died(worker, task, " ".join(str(error).split())[:300])
        else:
            if task is None:
                worker.is_ready, self._n_failed_starts = True, 0
            else:
                task.value = value
        return task

    def _died(self, worker: _Worker, task: Task | None, reason: str) -> Task | None:
        """Replace a worker, and have its task tried again, until too many have died with nothing else in hand."""
        if worker in self._workers:  # not yet told by another of its tasks
            self._workers.remove(worker)
            worker.kill()
            self.n_lost += 1
            self._n_failed_starts += not worker.is_ready
            if self._n_failed_starts > _N_STARTS:
                raise BackendError(f"Workers die as they start: {reason}")
            self._add_worker()
        if task is None:
            return None
        if task.n_attempts <= self._resources.n_attempts:
            self._suspects.append(task)
            return None
        n_alone = task.n_attempts - 1
        task.error = BackendError(f"Workers died {n_alone} times while they had this alone in hand: {reason}")
        return task


def spread(
    make: Callable[[], Any], function: Callable[[Any, Any], Any], items: Iterable[Any], *, address: str | None = None,
    plugins: Sequence[str] = (), stage: str = "spread", resources: Resources | None = None,
) -> Iterator[Any]:  # fmt: skip
    """Yield `function(held, item)` of each item, in their order, computed by workers that each hold what `make` returns.

    Raises:
        Exception: The first error, in the order of the items.
    """
    early: dict[int, Task] = {}
    n_given = 0
    with Pool(make, resources or Resources(), address=address, stage=stage, plugins=plugins) as pool:
        for task in pool.map(lambda held, item: function(held, item[1]), enumerate(items)):
            if task is not None:
                early[task.item[0]] = task
            while (following := early.pop(n_given, None)) is not None:
                if following.error is not None:
                    raise following.error
                yield following.value
                n_given += 1


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
