"""Who may ask: hosts, origins, tokens and cookies, on the application itself, without its queue."""

from __future__ import annotations

import asyncio
from functools import cache

import httpx2 as httpx
import pytest
from unisep_studio.app import create_app
from unisep_studio.security import COOKIE, MAX_BODY_BYTES, cookie_of
from unisep_studio.settings import IN_TAB_FILES, Settings

TOKEN, OTHER = "a token of sixteen letters", "another token of sixteen"
OPEN_PATHS = ("/docs", "/openapi.json", "/v1/session", "/")


app_of = cache(create_app)


def answer(settings, method="GET", path="/v1/concepts", **more):
    """Send one request to a fresh application and return its answer."""
    headers = {"Host": "127.0.0.1:8765", **more.pop("headers", {})}

    async def send():
        transport = httpx.ASGITransport(app_of(settings), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8765") as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(send())


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return Settings(tmp_path_factory.mktemp("data"), has_page=True)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    return Settings(
        tmp_path_factory.mktemp("data"), host="0.0.0.0", tokens=(TOKEN, OTHER), hosts=("Studio.example",), has_page=True
    )


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:8765", "[::1]:8765", "192.168.0.7:80"])
def test_it_answers_to_its_names_and_to_addresses(local, host):
    assert answer(local, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "x:y:z", "127.0.0.1@evil"]
)
def test_it_does_not_answer_to_other_names(local, host):
    """A page could have its own name point to 127.0.0.1, and be of the same origin then."""
    refused = answer(local, headers={"Host": host})
    assert refused.status_code == 421 and refused.json()["error"]["type"] == "HostError"


def test_names_can_be_allowed(guarded):
    headers = {"Host": "studio.example:443", "Authorization": f"Bearer {TOKEN}"}
    assert answer(guarded, headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_change_nothing(local, method, headers):
    refused = answer(local, method, "/v1/separations", headers=headers, content=b"{}")
    assert refused.status_code == 403 and refused.json()["error"]["type"] == "OriginError"
    assert "access-control-allow-origin" not in refused.headers


def test_the_page_itself_may(local):
    headers = {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}
    assert answer(local, "POST", "/v1/separations", headers=headers, content=b"{}").status_code == 422


def test_answers_are_not_for_other_origins_unless_allowed(tmp_path, local):
    origin = {"Origin": "https://notes.example"}
    refused = answer(local, headers=origin)
    assert "access-control-allow-origin" not in refused.headers
    assert refused.headers["cross-origin-resource-policy"] == "same-origin"
    settings = Settings(tmp_path, origins=("https://notes.example",))
    allowed = answer(settings, headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://notes.example"
    assert "access-control-allow-credentials" not in allowed.headers, "a token, not the cookie of the page"
    preflight = answer(settings, "OPTIONS", "/v1/separations", headers=origin)
    assert preflight.status_code == 204 and "Authorization" in preflight.headers["access-control-allow-headers"]
    assert answer(settings, "POST", "/v1/separations", headers=origin, content=b"{}").status_code == 422
    assert answer(settings, "OPTIONS", headers={"Origin": "https://notes.example.evil"}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/v1/concepts", "/v1/models", "/metrics", "/v1/nothing", f"/v1/recordings/{'0' * 32}"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": b"Bearer \xff"}, {"Authorization": f"Bearer {TOKEN}x"}, {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"{COOKIE}={cookie_of('wrong')}"}, {"Cookie": "=;;,"},
    ],
)  # fmt: skip
def test_nothing_is_told_without_a_token(guarded, path, headers):
    refused = answer(guarded, path=path, headers=headers)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"


def test_what_holds_no_data_is_open(guarded):
    assert [answer(guarded, path=path).status_code for path in OPEN_PATHS] == [200] * len(OPEN_PATHS)
    assert answer(guarded, path="/v1/session").json() == {"needs_token": True, "is_in": False, "in_tab": False}


def test_a_token_lets_in_by_header_and_by_cookie(guarded, local):
    assert answer(guarded, headers={"Authorization": f"Bearer {OTHER}"}).status_code == 200
    entered = answer(guarded, "POST", "/v1/session", json={"token": TOKEN})
    cookie = entered.headers["set-cookie"]
    assert entered.status_code == 200 and TOKEN not in cookie
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.casefold()
    headers = {"Cookie": cookie.split(";")[0]}
    assert answer(guarded, headers=headers).status_code == 200
    assert answer(guarded, path="/v1/session", headers=headers).json()["is_in"]
    assert answer(guarded, "POST", "/v1/session", json={"token": "wrong"}).status_code == 401
    assert answer(local, path="/v1/session").json() == {"needs_token": False, "is_in": True, "in_tab": False}


def test_a_cookie_does_not_serve_other_origins(guarded):
    headers = {"Cookie": f"{COOKIE}={cookie_of(TOKEN)}", "Origin": "http://evil.example"}
    assert answer(guarded, "POST", "/v1/separations", headers=headers, content=b"{}").status_code == 403


def test_bodies_are_limited(local):
    large = answer(local, "POST", "/v1/separations", content=bytes(MAX_BODY_BYTES + 1))
    assert large.status_code == 413 and large.json()["error"]["type"] == "TooLarge"

    async def pieces():
        for _ in range(3):
            yield b'"' + bytes(MAX_BODY_BYTES // 2)

    assert answer(local, "POST", "/v1/separations", content=pieces()).status_code == 413, "without a length ahead"


def test_headers_keep_pages_and_data_in_their_place(local):
    page, data = answer(local, path="/"), answer(local)
    rules = dict(rule.strip().partition(" ")[::2] for rule in page.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self'" and rules["connect-src"] == "'self'"
    assert not any("unsafe" in rule or "http" in rule for rule in rules.values())
    assert "sandbox" in data.headers["content-security-policy"]
    for response in (page, data, answer(local, path="/docs"), answer(local, path="/v1/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff" and response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_only_the_worker_of_the_tab_may_compile(local, tmp_path):
    for name in IN_TAB_FILES:
        (tmp_path / name).write_text(name)
    offering = Settings(tmp_path / "data", has_page=True, in_tab=tmp_path)
    page, worker = answer(offering, path="/"), answer(offering, path="/in-tab/worker.js")
    assert worker.text == "worker.js" and worker.headers["content-type"].startswith("text/javascript")
    assert answer(offering, path="/v1/session").json()["in_tab"]
    name = "content-security-policy"
    plain = answer(local, path="/").headers[name]
    assert page.headers[name] == plain, "the page's own rules stay"
    assert worker.headers[name] == plain.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
    for response in (page, worker):
        assert response.headers["cross-origin-embedder-policy"] == "require-corp", "for threads"
    assert answer(offering, path="/in-tab/../data/lock").status_code == 404
    without = answer(local, path="/in-tab/worker.js")
    assert without.status_code == 404 and without.headers[name] == plain
    assert "cross-origin-embedder-policy" not in without.headers


def test_errors_nobody_foresaw_are_told_in_json(local, caplog):
    failed = answer(local, path=f"/v1/recordings/{'0' * 32}")  # the queue was never started
    assert failed.status_code == 500 and failed.json()["error"]["type"] == "ServerError"
    assert "AttributeError" not in failed.text and "AttributeError" in caplog.text
