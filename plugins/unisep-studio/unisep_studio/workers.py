"""The processes that compute, seen from the server: start them, call them, and start them again when they end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

Progress = Callable[[dict[str, Any]], None]
_STOP_SECONDS = 5.0
_LINE_BYTES = 2**26


class WorkerError(Exception):
    """What a worker answered instead of a result: the class of the error, and its message."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class WorkerCrashed(WorkerError):
    """The worker ended with a call unanswered."""

    def __init__(self, message: str) -> None:
        super().__init__("WorkerCrashed", message)


class Worker:
    """One process and the calls it has not answered; it is started by the first call, and again after its end."""

    def __init__(self, options: dict[str, Any], scratch: Path) -> None:
        self._options, self._scratch = json.dumps(options), scratch
        self._places = re.compile(rf"{re.escape(str(scratch.parent))}/\w+/\w+/(pass/)?")  # are nobody's business
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._calls: dict[int, tuple[asyncio.Future[Any], Progress | None]] = {}
        self._numbers = count(1)
        self._lock = asyncio.Lock()
        self.n_starts = 0

    @property
    def pid(self) -> int | None:
        """The number of the process, while there is one."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Start the process unless it runs, and wait until it is ready. Raises WorkerCrashed where it ends before."""
        async with self._lock:
            if self.pid is not None:
                return
            if self._reader is not None:
                await self._reader  # until nobody waits for the one before
            self.n_starts += 1
            environment = {**os.environ, "TMPDIR": str(self._scratch)}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "unisep_studio.worker", self._options,
                stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES, env=environment, start_new_session=True,
            )  # fmt: skip
            is_ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._calls[0] = is_ready, None
            self._reader = asyncio.create_task(self._read(self._process))
            await is_ready

    async def call(self, do: str, on_progress: Progress | None = None, **arguments: Any) -> Any:
        """Return what the process answers. Raises WorkerError."""
        await self.start()
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[number] = answer, on_progress
        self.tell(do, call=number, **arguments)
        try:
            return await answer
        finally:
            self._calls.pop(number, None)

    def tell(self, do: str, **arguments: Any) -> None:
        """Send something that is not answered, if there is a process."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def kill(self) -> None:
        """End the process at once, with all it started."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Let the process end with its stdin, and end it otherwise."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._take(json.loads(line))
        except ValueError:  # not a line of ours
            self.kill()
        code = await process.wait()
        calls, self._calls = self._calls, {}
        for answer, _ in calls.values():
            if not answer.done():
                answer.set_exception(WorkerCrashed(_why(code)))

    def _take(self, message: dict[str, Any]) -> None:
        answer, on_progress = self._calls.get(0 if "ready" in message else message["call"], (None, None))
        if answer is None or answer.done():
            return
        if "progress" in message:
            if on_progress is not None:
                on_progress(message["progress"])
        elif "error" in message:
            text = self._places.sub("", message["error"]["message"])
            answer.set_exception(WorkerError(message["error"]["type"], text))
        else:
            answer.set_result(message.get("result"))


def _why(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"The process that computed this ended with code {code}."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    reason = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
    return f"The process that computed this was ended by {name}{reason}."
