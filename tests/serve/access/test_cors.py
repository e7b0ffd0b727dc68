"""CORS beside Starlette's middleware."""

import asyncio
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

from serve.access.cors import EXPOSED, METHODS, Origins
from serve.errors import InputError

SITE = "https://example.org"
ALLOWED = ("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers")


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


def starlettes(origins: list[str], method: str, given: list[tuple[bytes, bytes]]) -> dict[str, str]:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    middleware = CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS.decode().split(", "),
        allow_headers=["*"],
        expose_headers=EXPOSED.decode().split(", "),
    )
    scope = {"type": "http", "method": method, "path": "/", "headers": given}
    asyncio.run(middleware(scope, receive, send))
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def text(found: list[tuple[bytes, bytes]] | None) -> dict[str, str]:
    assert found is not None
    assert len(dict(found)) == len(found)
    return {name.decode(): value.decode() for name, value in found}


@pytest.mark.parametrize("origins", [[SITE], [SITE, "http://localhost:8080"], ["*"]])
@pytest.mark.parametrize("origin", [SITE, "http://localhost:8080", "https://evil.example", "null", f"{SITE}.evil"])
def test_permission_is_given_to_whom_starlette_gives_it(origins: list[str], origin: str) -> None:
    asked = headers(
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="authorization, content-type",
    )
    ours, theirs = text(Origins(origins).preflight(asked)), starlettes(origins, "OPTIONS", asked)
    allowed = ours.get("access-control-allow-origin")
    assert allowed == theirs.get("access-control-allow-origin")
    if allowed:
        assert {name: ours[name] for name in ALLOWED} == {name: theirs[name] for name in ALLOWED}
        assert ours["access-control-max-age"] == theirs["access-control-max-age"]
    answer, theirs = text(Origins(origins).answer(headers(origin=origin))), starlettes(origins, "GET", asked[:1])
    assert answer.get("access-control-allow-origin") == theirs.get("access-control-allow-origin")
    assert answer["access-control-expose-headers"] == theirs["access-control-expose-headers"]
    assert ("vary" in answer) == (origins != ["*"])


def test_credentials_are_never_allowed() -> None:
    found = Origins(["*"]).preflight(headers(origin=SITE, access_control_request_method="POST", cookie="a=b"))
    assert "access-control-allow-credentials" not in text(found)


def test_it_is_closed_unless_origins_are_named() -> None:
    closed = Origins([])
    assert closed.preflight(headers(origin=SITE, access_control_request_method="POST")) is None
    assert closed.answer(headers(origin=SITE)) == []


def test_other_options_requests_are_no_preflight() -> None:
    assert Origins(["*"]).preflight(headers(origin=SITE)) is None
    assert Origins(["*"]).preflight(headers(access_control_request_method="POST")) is None


@pytest.mark.parametrize(
    "origin", ["example.org", "https://", "https://a.org/", "ftp://a.org", "https://*.org", "null", ""]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(InputError, match="an origin is like"):
        Origins([origin])
