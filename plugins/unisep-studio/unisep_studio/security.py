"""Who may ask: the rules on hosts, origins and tokens, and the headers of every answer. See docs/studio.md.

One ASGI layer in front of everything, so that no route can forget them.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Iterable
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unisep_studio.settings import Settings

COOKIE = "unisep_studio"
MAX_BODY_BYTES = 2**20  # of all requests but uploads
_OPEN = ("/healthz", "/docs", "/openapi.json", "/v1/session")  # and the page, which holds no data
_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_IN_TAB_CSP = _PAGE_CSP.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")  # of its worker alone
_DATA_CSP = "default-src 'none'; frame-ancestors 'none'; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class Refusal(Exception):
    """A request that is answered with an error: the status, the class of the error, and a sentence."""

    def __init__(self, status: int, type: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.type, self.headers = status, type, headers or {}


def error_body(type: str, message: str) -> dict[str, Any]:
    """Return how an error is answered."""
    return {"error": {"type": type, "message": message}}


class Guard:
    """Lets in what `Settings` allow, and sets `scope["state"]["owner"]`, whose data the request is about."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._hosts = {"localhost", settings.host.casefold(), *(host.casefold() for host in settings.hosts)}
        self._owners = {token: settings.owner_of(token) for token in settings.tokens}
        self._cookies = {cookie_of(token): owner for token, owner in self._owners.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, is_page = Headers(scope=scope), not scope["path"].startswith("/v1/")
        origin = headers.get("origin")
        is_allowed_origin = origin is not None and origin in self._settings.origins

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                answer.setdefault("Content-Security-Policy", self._csp(scope["path"]) if is_page else _DATA_CSP)
                if not is_page:
                    answer.setdefault("Cache-Control", "private, no-cache")
                elif self._settings.in_tab:
                    answer.setdefault("Cross-Origin-Embedder-Policy", "require-corp")  # which browsers give threads for
                if is_allowed_origin:
                    answer["Access-Control-Allow-Origin"] = str(origin)
                    answer["Access-Control-Expose-Headers"] = "Content-Range, Content-Disposition, Retry-After"
                    answer["Cross-Origin-Resource-Policy"] = "cross-origin"
                answer.add_vary_header("Origin")
            await send(message)

        try:
            self._check_host(headers)
            if scope["method"] == "OPTIONS" and is_allowed_origin:
                await _preflight(send_with_headers)
                return
            self._check_origin(scope, headers)
            scope.setdefault("state", {})["owner"] = self._owner(scope, headers)
            if scope["path"] != "/v1/recordings":
                receive = await _read_whole(receive, headers)
        except Refusal as refusal:
            await send_refusal(refusal, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _csp(self, path: str) -> str:
        """Return the rules for a page, or a worker: they go by the answer that brings its script."""
        return _IN_TAB_CSP if self._settings.in_tab and path.startswith("/in-tab/") else _PAGE_CSP

    def _check_host(self, headers: Headers) -> None:
        """Refuse other names than ours, which a page elsewhere could have pointed here (DNS rebinding)."""
        values = headers.getlist("host")
        match = (
            re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", values[0]) if len(values) == 1 else None
        )
        name = match[1].casefold().strip("[]") if match else ""
        if not name or not (name in self._hosts or _is_address(name)):
            raise Refusal(421, "HostError", "This server does not go by that name. Start it with --allow-host NAME.")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what a page of another origin sends to change something (cross-site request forgery)."""
        if scope["method"] in ("GET", "HEAD"):
            return
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin in self._settings.origins:
            return
        is_same = origin is None or urlsplit_or_none(origin) == headers["host"]
        if not is_same or site not in (None, "same-origin", "none"):
            raise Refusal(403, "OriginError", "Pages of other origins may not call this server. See --allow-origin.")

    def _owner(self, scope: Scope, headers: Headers) -> str:
        """Return who asks, by token or cookie; "" on a server without tokens, and where none is needed."""
        if not self._owners:
            return ""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.casefold() == "bearer":
            owner = _match(token.strip(), self._owners.items())
        else:
            owner = _match(_cookie(headers), self._cookies.items())
        is_open = scope["path"] in _OPEN or not scope["path"].startswith(("/v1/", "/metrics"))
        if owner is None and not is_open:
            message = "Send the server's token: Authorization: Bearer TOKEN."
            raise Refusal(401, "TokenError", message, {"WWW-Authenticate": "Bearer"})
        return owner or ""


def cookie_of(token: str) -> str:
    """Return what the page's cookie holds in place of the token."""
    return hmac.new(token.encode(), b"unisep-studio page", sha256).hexdigest()


def urlsplit_or_none(origin: str) -> str | None:
    """Return the host and port of an origin; None for what is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Answer with an error."""
    body = json.dumps(error_body(refusal.type, str(refusal))).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def _preflight(send: Send) -> None:
    allowed = {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "Authorization, Content-Type, Last-Event-ID, Range",
        "access-control-max-age": "600",
    }
    headers = [(name.encode(), value.encode()) for name, value in allowed.items()]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _read_whole(receive: Receive, headers: Headers) -> Receive:
    """Return a `receive` that gives the body, of at most `MAX_BODY_BYTES`, once more. Raises Refusal."""
    refusal = Refusal(413, "TooLarge", f"The body of this request may have {MAX_BODY_BYTES} bytes.")
    announced = headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced[:20]) > MAX_BODY_BYTES:
        raise refusal
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return _again(message, receive)
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise refusal
    return _again({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


def _again(first: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives `first` before all else."""
    messages = [first]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _match(secret: str, owners: Iterable[tuple[str, str]]) -> str | None:
    """Return the owner whose secret this is, in a time that does not tell how much of it is right."""
    found = None
    for known, owner in owners:
        if hmac.compare_digest(known.encode(), secret.encode(errors="replace")):
            found = owner
    return found


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
