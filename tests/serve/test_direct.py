"""Our own connections without ASGI: the bytes that a client gets are those that ASGI gives."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serve.app import App, create_app
from serve.http.connection import limited
from serve.ngram.words import characters
from serve.runtime import Session
from serve.settings import Settings
from tests.serve.ngram.models import artefact, model
from tests.serve.test_app import collector  # noqa: F401  a warm app changes its process

KEY = "k" * 20
TIMES = re.compile(rb"(x-(?:total|tokenization|queue|inference)-time: )[\d.]+")
CLASSIFY = re.compile(rb'"(id|created)":("[^"]*"|\d+)')


def request(path: str, body: bytes = b"", *headers: str, method: str = "", version: str = "1.1") -> bytes:
    about = [f"authorization: Bearer {KEY}", "content-type: application/json", f"content-length: {len(body)}"]
    lines = [f"{method or ('POST' if body else 'GET')} {path} HTTP/{version}", "host: x", *about, *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def asks(inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


GOOD = request("/predict", asks("a good film"))
LONG = json.dumps({"inputs": [["good film " * 20]] * 100, "truncate": True}).encode()
assert len(LONG) > 8192
PLAIN = GOOD.replace(b"authorization: Bearer " + KEY.encode(), b"x: y")
CHUNKS = b"transfer-encoding: chunked\r\ncontent-type: application/json\r\nx-api-key: " + KEY.encode()
WIRES = {
    "one": [GOOD],
    "again": [GOOD] * 3 + [GOOD.replace(b"{", b"[")],
    "again with a deadline": [request("/predict", asks("good"), "x-request-timeout-ms: 5000")] * 3,
    "a list": [request("/predict", asks([["good"], ["a dull film"]]))],
    "large": [request("/predict", LONG)],
    "large in pieces": [request("/predict", LONG)[at : at + 5000] for at in range(0, len(LONG) + 500, 5000)],
    "truncated": [request("/predict", asks("film " * 400, truncate=True))],
    "too long": [request("/predict", asks("film " * 400))],
    "head and body": [GOOD[:-25], GOOD[-25:]],
    "byte by byte": [GOOD[at : at + 1] for at in range(len(GOOD))],
    "three at once": [GOOD * 3],
    "forty at once": [GOOD * 40 + request("/nothing") + GOOD],
    "small behind large": [request("/predict", LONG) + GOOD + request("/livez")],
    "head": [request("/info", method="HEAD")],
    "HTTP/1.0": [request("/readyz", version="1.0")],
    "close": [request("/readyz", b"", "connection: close") + GOOD],
    "chunks": [b"POST /predict HTTP/1.1\r\n%b\r\n\r\n12\r\n" % CHUNKS, b'{"inputs": "good"}\r\n0\r\n\r\n'],
    "chunks at once": [b'POST /predict HTTP/1.1\r\n%b\r\n\r\n12\r\n{"inputs": "good"}\r\n0\r\n\r\n' % CHUNKS],
    "expects": [request("/predict", asks("good"), "expect: 100-continue")[:-18], asks("good")],
    "no such path": [request("/nothing")],
    "no such path, with a body": [request("/nothing", asks("good")) + GOOD],
    "other method": [request("/predict")],
    "escaped path": [request("/%70redict?x=%2f", asks("good"))],
    "no key": [PLAIN],
    "no key, body later": [PLAIN[:-25], PLAIN[-25:] + GOOD],
    "no json": [request("/predict", b"{")],
    "no text": [request("/predict", asks(""))],
    "a pair": [request("/predict", asks(["a", "b"]))],
    "text/plain": [GOOD.replace(b"application/json", b"text/plain")],
    "gzip": [request("/predict", asks("good"), "content-encoding: gzip")],
    "too large": [request("/predict", b"x", "a: b").replace(b"content-length: 1", b"content-length: 99999999")],
    "bad deadline": [request("/predict", asks("good"), "x-request-timeout-ms: soon")],
    "preflight": [b"OPTIONS /predict HTTP/1.1\r\norigin: http://a\r\naccess-control-request-method: POST\r\n\r\n"],
    "origin": [request("/predict", asks("good"), "origin: http://a")],
    "another protocol": [request("/classify", b'{"input": "good"}')],
    "its errors": [request("/v1/embeddings", b'{"input": "good"}') + request("/v2/models/x/infer", b"{}")],
    "binary": [
        request(
            "/v2/models/m/infer".replace("/m/", "/{name}/"),
            b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}], '
            b'"outputs": [{"name": "scores", "parameters": {"binary_data": true}}]}',
        )
    ],
    "tokens": [request("/tokenize", b'{"inputs": "good"}')],
    "the page": [request("/") + request("/page/style.css") + request("/openapi.json")],
    "upgrade": [request("/readyz", b"", "connection: upgrade", "upgrade: h2c")],
}


OPEN = {"too large"}  # its body never comes, so that a request behind it is none
LAST = request("/readyz", b"", "connection: close")


@pytest.fixture(scope="module", params=["word pieces", "n-grams"])
def app(request: pytest.FixtureRequest, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("direct")
    (folder / "keys").write_text(f"one:{KEY} rate=100000/s burst=100000 concurrent=100\n")
    (folder / "keys").chmod(0o600)
    root = tiny.artefact.root
    if request.param == "n-grams":
        root = artefact(folder / "ngrams", model(characters())).root
    app = create_app(Settings(artefact=str(root), keys=folder / "keys", origins=("http://a",)))
    app.warm_up()
    yield app
    app.close()


@asynccontextmanager
async def listening(app: App, *, direct: bool) -> AsyncIterator[int]:
    state, loop = ServerState(), asyncio.get_running_loop()
    protocol = limited(app.settings, direct=app.direct if direct else None)
    config = uvicorn.Config(app, access_log=False, log_config=None)
    server = await loop.create_server(lambda: protocol(config, state, {}, loop), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        assert protocol.watch is None or protocol.watch.close() is None
        for connection in tuple(state.connections):
            connection.transport.abort()


async def said(port: int, parts: list[bytes]) -> bytes:
    """All that is answered to these packets, until nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.002)
        found = b""
        while True:
            try:
                async with asyncio.timeout(20 if parts[-1] == LAST else 0.3):
                    part = await reader.read(1 << 20)
            except TimeoutError:
                return found + b"(open)"
            if not part:
                return found
            found += part
    finally:
        writer.close()


def plain(answer: bytes) -> bytes:
    """Without what differs from one answer to the next."""
    return CLASSIFY.sub(rb'"\1":0', TIMES.sub(rb"\1 0", answer))


@pytest.mark.parametrize("name", WIRES)
def test_answers_are_asgis_byte_for_byte(app: App, name: str) -> None:
    slug = app.context.name.replace(" ", "%20").encode()
    parts = [part.replace(b"{name}", slug) for part in [*WIRES[name], *([] if name in OPEN else [LAST])]]

    async def both() -> list[bytes]:
        found = []
        for direct in (False, True):
            async with listening(app, direct=direct) as port:
                found.append(plain(await said(port, parts)))
        return found

    asgi, direct = asyncio.run(both())
    assert asgi.startswith(b"HTTP/1.1 ")
    assert direct == asgi


def test_a_known_heads_key_is_good_for_as_long_as_it_stands_in_the_file(tmp_path: Path) -> None:
    root, listed = artefact(tmp_path / "ngrams", model(characters())).root, tmp_path / "keys"
    listed.touch(0o600)

    def written(*lines: str) -> None:
        (tmp_path / "new").touch(0o600)
        (tmp_path / "new").write_text("\n".join(lines))
        (tmp_path / "new").rename(listed)

    def found(app: App) -> list[bytes]:
        async def scenario() -> bytes:
            async with listening(app, direct=True) as port:
                return await said(port, [GOOD] * 3 + [LAST])

        return [one[:3] for one in asyncio.run(scenario()).split(b"HTTP/1.1 ")[1:-1]]

    written(f"one:{KEY}")
    apps = [create_app(Settings(artefact=str(root), keys=keys)) for keys in (listed, listed, None)]
    for one in apps:
        one.warm_up()
    app, other, free = apps
    assert (found(app), found(other), found(free)) == ([b"200"] * 3,) * 3
    for line, wanted in [
        (f"two:{'2' * 20}", [b"401"] * 3),
        (f"one:{KEY} rate=0.001/s burst=2", [b"200", b"200", b"429"]),
        (f"one:{KEY}", [b"200"] * 3),
    ]:
        written(line)
        assert app.keys is not None
        app.keys._looked = 0.0
        assert found(app) == wanted, line
    assert (found(other), found(free)) == ([b"200"] * 3,) * 2
    app.ready = False
    assert found(app) == [b"503"] * 3
    for one in apps:
        assert one.metrics.in_progress.get() == 0
        one.close()


def test_paths_that_are_not_ours_go_to_the_app_around_it(app: App) -> None:
    """As in BentoML, which has pages of its own."""

    async def around(scope: Any, receive: Any, send: Any) -> None:
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 203, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": body})

    async def scenario() -> bytes:
        state, loop = ServerState(), asyncio.get_running_loop()
        protocol = limited(app.settings, direct=app.direct, mine=app.knows)
        config = uvicorn.Config(around, access_log=False, log_config=None)
        server = await loop.create_server(lambda: protocol(config, state, {}, loop), "127.0.0.1", 0)
        async with server:
            return await said(server.sockets[0].getsockname()[1], [GOOD + request("/around"), LAST])

    answers = asyncio.run(scenario()).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200", b"203", b"200"]
    assert answers[1].endswith(b"transfer-encoding: chunked\r\n\r\n7\r\n/around\r\n0\r\n\r\n")


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, part: bytes) -> None:
        self.written += part

    def is_closing(self) -> bool:
        return False


@pytest.fixture
def ngrams(tmp_path: Path) -> Iterator[App]:
    app = create_app(Settings(artefact=str(artefact(tmp_path / "ngrams", model(characters())).root)))
    app.warm_up()
    yield app
    app.close()


def test_ngrams_that_come_together_share_a_call_and_no_fate(ngrams: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong ones among them get their errors, raw ones their logits; those alone get the same."""
    calls, engine = list[int](), ngrams.session.straight
    assert engine is not None
    real = engine.texts
    monkeypatch.setattr(engine, "texts", lambda texts: calls.append(len(texts)) or real(texts))
    good = [asks("a good film"), asks([["a"], ["dull dull film"]]), asks("great")]
    odd = [asks("film " * 400), asks("bad", raw_scores=True), asks(" "), asks("film " * 400, truncate=True)]

    async def answers(bodies: list[bytes]) -> list[bytes]:
        loop, state = asyncio.get_running_loop(), ServerState()
        protocol = limited(ngrams.settings, direct=ngrams.direct)
        wires = [Wire() for _ in bodies]
        for wire, body in zip(wires, bodies, strict=True):
            connection = protocol(None, state, {}, loop)
            connection.connection_made(wire)  # type: ignore[arg-type]
            connection.data_received(request("/predict", body))
        await asyncio.sleep(0.01)
        assert protocol.watch
        protocol.watch.close()
        return [plain(wire.written) for wire in wires]

    together = asyncio.run(answers(good))
    assert calls == [4]
    assert all(one.startswith(b"HTTP/1.1 200") for one in together)
    mixed = asyncio.run(answers(good + odd))
    assert [one[9:12] for one in mixed] == [b"200"] * 3 + [b"422", b"200", b"400", b"200"]
    assert mixed[:3] == together
    assert mixed == [asyncio.run(answers([body]))[0] for body in good + odd]


def test_who_leaves_the_queue_is_never_run_and_counted(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release, ran, run = threading.Event(), list[int](), Session.run

    def slow(self: Session, encoded: Any) -> Any:
        assert release.wait(20)
        ran.append(len(encoded))
        return run(self, encoded)

    monkeypatch.setattr(Session, "run", slow)
    app = create_app(Settings(artefact=str(tiny.artefact.root)))
    app.warm_up()

    async def scenario() -> bytes:
        async with listening(app, direct=True) as port:
            stays = asyncio.create_task(said(port, [GOOD, LAST]))
            await asyncio.sleep(0.1)
            _, leaves = await asyncio.open_connection("127.0.0.1", port)
            leaves.write(GOOD)
            await asyncio.sleep(0.1)
            leaves.close()
            await asyncio.sleep(0.1)
            release.set()
            return await stays

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 200")
    page = app.metrics.text().decode()
    app.close()
    assert ran == [1]
    assert 'bantam_cancelled_total{model="Tiny Model"} 1.0' in page
    assert 'bantam_requests_in_progress{model="Tiny Model"} 0.0' in page
