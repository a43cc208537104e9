"""The application: routes, rules and pages put together, how errors are told, and how it is run."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sqlite3
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import unisep
from unisep.errors import OptionError, UnisepError
from unisep_studio.routes import Server
from unisep_studio.schemas import ErrorEnvelope
from unisep_studio.security import Guard, Refusal, error_body
from unisep_studio.settings import Settings
from unisep_studio.workers import WorkerCrashed, WorkerError

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page")
_GRACE_SECONDS = 5


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its queue starts and stops with it."""
    server = Server(settings)
    errors: dict[int | str, dict[str, Any]] = {code: {"model": ErrorEnvelope} for code in (400, 401, 404, 422)}
    app = FastAPI(
        title="unisep studio", version=unisep.__version__, docs_url=None, redoc_url=None, lifespan=server.lifespan,
        responses=errors, summary="Separate recordings by text, by example or into stems.",
    )  # fmt: skip
    app.state.server = server
    server.add_routes(app)
    handlers: dict[type[Exception], Any] = {
        RequestValidationError: _invalid, ValidationError: _invalid, UnisepError: _failed, WorkerError: _failed,
        Refusal: _refused, HTTPException: _not_served, Exception: _unforeseen, OSError: _no_room, sqlite3.OperationalError: _no_room,
    }  # fmt: skip
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
    app.add_middleware(_Counting, server=server)
    app.add_middleware(Guard, settings=settings)
    if settings.in_tab:
        app.mount("/in-tab", StaticFiles(directory=settings.in_tab))
    if settings.has_page:
        app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


class StudioServer(uvicorn.Server):
    """uvicorn, which tells the queue to stop before it waits for connections to end."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take a signal to stop."""
        scheduler = getattr(self.config.app.state.server, "scheduler", None)  # type: ignore[union-attr]
        if scheduler is not None:
            scheduler.begin_stop()
        super().handle_exit(sig, frame)


def run(settings: Settings, on_start: Any = lambda url: None) -> None:
    """Serve until a signal comes; `on_start` is told the address once it is open. Raises OptionError where it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:  # asyncio then sends without delay
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(128)
        except OSError as error:
            raise OptionError(f"{settings.host}:{settings.port} cannot be opened: {error.strerror}.") from error
        host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
        app = create_app(settings)
        config = uvicorn.Config(
            app, log_level="error", lifespan="on", timeout_graceful_shutdown=_GRACE_SECONDS, server_header=False,
            proxy_headers=False, h11_max_incomplete_event_size=2**16,
        )  # fmt: skip
        app.state.server.on_start = lambda: on_start(f"http://{host}:{listener.getsockname()[1]}")
        gc.collect()
        gc.freeze()  # what was imported stays; looking through it again and again would hold up requests
        asyncio.run(StudioServer(config).serve([listener]))


class _Counting:
    """Counts the answers by their status."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._answers = app, server.answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count what is answered."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answers[str(message["status"])] += 1
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def _answer(status: int, type: str, message: str, headers: Any = None) -> JSONResponse:
    """Return an error; what no encoding knows is shown as an escape."""
    safe = message.encode("utf-8", errors="backslashreplace").decode()
    return JSONResponse(error_body(type, safe), status_code=status, headers=headers)


def _refused(request: Request, error: Any) -> JSONResponse:
    return _answer(error.status, error.type, str(error), error.headers)


def _invalid(request: Request, error: Any) -> JSONResponse:
    """Tell what is wrong with a request, without repeating what it held."""
    problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:5]]
    return _answer(422, "RequestError", "; ".join(problems)[:2000])


def _failed(request: Request, error: Any) -> JSONResponse:
    """Tell what unisep refuses, here or in a worker."""
    type_name = error.type if isinstance(error, WorkerError) else type(error).__name__
    return _answer(503 if isinstance(error, WorkerCrashed) else 422, type_name, str(error))


def _no_room(request: Request, error: Exception) -> JSONResponse:
    """Tell of a disk that takes no more, as a rule."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(507, "DiskSpaceError", "The server cannot write to its disk. Its log says more.")


def _not_served(request: Request, error: Any) -> JSONResponse:
    names = {400: "RequestError", 404: "NotFound", 405: "MethodError"}
    return _answer(error.status_code, names.get(error.status_code, "RequestError"), str(error.detail), error.headers)


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "ServerError", "The server failed at this. Its log says more.")
