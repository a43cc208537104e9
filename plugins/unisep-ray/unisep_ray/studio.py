"""Workers of the studio's server on a Ray cluster: `unisep serve --ray ADDRESS`."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from unisep_studio.worker import Separating, answer
from unisep_studio.workers import Worker, WorkerCrashed

from unisep_ray.pool import Actor, connect

_N_BESIDE = 8  # calls: a pass, vectors, cancelling


class RayWorker(Worker):
    """An actor in place of a process. Its machine must have the server's data folder, under the same path."""

    def __init__(self, address: str, options: dict[str, Any], scratch: Path) -> None:
        super().__init__(options, scratch)
        self._address, self._made_of = address, options
        self._handle: Any = None
        self._pid: int | None = None
        self._listeners: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The number of the actor's process on its machine, while there is one."""
        return self._pid

    async def start(self) -> None:
        """Start the actor unless it runs, and wait until it is ready. Raises WorkerCrashed where it ends before."""
        async with self._lock:
            if self._pid is not None:
                return
            self.n_starts += 1
            await asyncio.to_thread(connect, self._address)
            separator = self._made_of["separator"]
            n_gpus = 1 if str(separator["device"]).startswith("cuda") else 0
            options = {"num_cpus": separator["threads"] or 1, "num_gpus": n_gpus, "max_concurrency": _N_BESIDE}
            make = partial(Separating, separator)
            self._handle = ray.remote(Actor).options(**options).remote(make, self._made_of["plugins"])
            try:
                await self._handle.start.remote()
                self._pid = await self._handle.call.remote(lambda held: os.getpid())
            except Exception as error:
                self.kill()
                raise WorkerCrashed(f"The worker does not start: {error}") from None

    def tell(self, do: str, **arguments: Any) -> None:
        """Send a call, whose answers are taken as they come, or something that is not answered."""
        if self._handle is None:
            return
        if do == "cancel":
            self._handle.call.remote(Separating.cancel, arguments["ids"])
            return
        stream = self._handle.stream.options(num_returns="streaming", name=f"studio {do}")
        answers = stream.remote(_answers, {"do": do, **arguments})
        listener = asyncio.create_task(self._listen(answers, arguments["call"]))
        self._listeners.add(listener)
        listener.add_done_callback(self._listeners.discard)

    def kill(self) -> None:
        """End the actor at once."""
        with suppress(Exception):
            ray.kill(self._handle)
        self._handle = self._pid = None

    async def stop(self) -> None:
        """End the actor."""
        self.kill()

    async def _listen(self, answers: Any, number: int) -> None:
        try:
            async for reference in answers:
                self._take(await reference)
        except RayError as error:
            self.kill()
            waiting = self._calls.get(number, (None, None))[0]
            if waiting is not None and not waiting.done():
                reason = " ".join(str(error).split())[:300]
                waiting.set_exception(WorkerCrashed(f"The worker that computed this ended: {reason}"))


def _answers(held: Separating, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a worker answers to a call: progress, and at the end a result or an error."""
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    handler = held.embed if call["do"] == "embed" else held.separate
    threading.Thread(target=answer, args=(call, handler, lambda **values: answers.put(values)), daemon=True).start()
    while "progress" in (message := answers.get()):
        yield message
    yield message
