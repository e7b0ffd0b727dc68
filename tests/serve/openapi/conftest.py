"""Apps of a model of each kind, and what their documents say."""

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serve.app import App, create_app
from serve.artefact import load, seal
from serve.manifest import Embedding, Task
from serve.settings import Settings
from tests.serve.conftest import Tiny, export

KINDS = ("classes", "pairs", "value", "vectors")
MAX_TEXTS, MAX_BODY = 5, 2000
JSON = {"content-type": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


async def call(app: App, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    told = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": told}
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    got = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], got, sent[1]["body"]


def ask(app: App, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(call(app, method.upper(), path, content, headers))


def described(app: App) -> dict[str, Any]:
    status, _, body = ask(app, "GET", "/openapi.json")
    assert status == 200
    document: dict[str, Any] = json.loads(body)
    return document


def validator(document: dict[str, Any], schema: Any) -> Draft202012Validator:
    """Of a schema whose references are the document's."""
    return Draft202012Validator({**schema, "components": document["components"]})


def concrete(document: dict[str, Any], path: str) -> str:
    """A path with the one value that each of its parameters may have."""
    (operation,) = document["paths"][path].values()
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            (value,) = parameter["schema"]["enum"]
            path = path.replace("{" + parameter["name"] + "}", value)
    return path


@pytest.fixture(scope="session")
def artefacts(tiny: Tiny, pairs: Tiny, regression: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {"classes": tiny, "pairs": pairs, "value": regression}
    return {name: str(one.artefact.root) for name, one in made.items()} | {"vectors": embedder(tiny, tmp_path_factory)}


def embedder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The toy encoder, with the hidden state of its first token as the vector."""
    import torch

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = tiny.torch_model.bert

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.bert(ids, mask, types).last_hidden_state[:, 0]

    root = tmp_path_factory.mktemp("embedder")
    (root / "tokenizer.json").write_bytes((tiny.artefact.root / "tokenizer.json").read_bytes())
    export(First().eval(), root / "onnx" / "model.onnx")
    embedding = Embedding(size=16, pooling="first", normalised=False)
    task = Task(kind="embedding", inputs=1, metric="spearman", embedding=embedding)
    seal(root, tiny.manifest.model_copy(update={"task": task}))
    return str(load(root).root)


@pytest.fixture(scope="session")
def apps(artefacts: dict[str, str]) -> Iterator[dict[str, App]]:
    thresholds = gc.get_threshold()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.runtime.costs_of", lambda *_, **__: None)  # measuring is not what is tested
        made = {name: create_app(settings(root)) for name, root in artefacts.items()}
    for app in made.values():
        app.warm_up()
    gc.unfreeze()  # a warm app changes the garbage collector of its process; other tests shall not feel it
    gc.set_threshold(*thresholds)
    yield made
    for app in made.values():
        app.close()


def settings(root: str) -> Settings:
    return Settings(artefact=root, runtime="onnxruntime", max_texts=MAX_TEXTS, max_body=MAX_BODY)
