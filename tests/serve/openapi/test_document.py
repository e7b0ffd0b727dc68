"""The OpenAPI document against the app: the same paths, and answers and errors that are what it says."""

import json
from dataclasses import replace
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from serve.access.keys import OPEN_PATHS
from serve.app import App, create_app
from serve.openapi import document
from serve.openapi.document import REFUSED, operations
from tests.serve.openapi.conftest import JSON, KINDS, MAX_TEXTS, ask, concrete, described, settings, validator

COUNT = 29  # paths


def check(told: dict[str, Any], path: str, got: Any, *, status: int | None = None) -> None:
    """That an answer is what the document says of that path."""
    code, headers, body = got
    (operation,) = told["paths"][path].values()
    assert str(code) in operation["responses"], (path, code, body)
    assert status in (None, code), (path, code, body)
    response = operation["responses"][str(code)]
    if "$ref" in response:
        response = told["components"]["responses"][response["$ref"].rpartition("/")[2]]
    for name, header in response.get("headers", {}).items():
        assert name.lower() in headers or not header.get("required"), (path, name)
        if name.lower() in headers and header["schema"].get("type") in ("number", "integer"):
            validator(told, header["schema"]).validate(json.loads(headers[name.lower()]))
    kind = headers["content-type"].split(";")[0]
    schema = response["content"][kind].get("schema", {})
    if kind != "application/octet-stream":
        validator(told, schema).validate(json.loads(body) if kind == "application/json" else body.decode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_stands_in_the_document_and_every_documented_one_is_there(apps: dict[str, App], kind: str) -> None:
    told = described(apps[kind])
    listed = {concrete(told, path): list(methods) for path, methods in told["paths"].items()}
    routes = {
        path: [route.method.lower()]
        for path, route in apps[kind]._routes.items()
        if path == "/" or not path.endswith("/")  # those that end so only say what is not there
    }
    assert listed == routes
    assert len(listed) == COUNT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keyed", [True, False])
def test_the_document_is_openapi_3_1(apps: dict[str, App], kind: str, keyed: bool) -> None:
    told = json.loads(json.dumps(document(apps[kind].context, keyed=keyed)))
    assert list(OpenAPIV31SpecValidator(told).iter_errors()) == []
    names = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names) == COUNT


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_answered_as_documented(apps: dict[str, App], kind: str) -> None:
    told = described(apps[kind])
    seen = refused = 0
    for path, methods in told["paths"].items():
        ((method, operation),) = methods.items()
        never = REFUSED in operation["tags"]
        refused += never
        if method == "get":
            check(told, path, ask(apps[kind], "get", concrete(told, path)), status=200)
            seen += 1
            continue
        content = operation["requestBody"]["content"]["application/json"]
        for example in content.get("examples", {}).values():
            validator(told, content["schema"]).validate(example["value"])
            check(told, path, ask(apps[kind], "post", concrete(told, path), example["value"], JSON), status=200)
            seen += 1
    assert (seen, refused) == {"classes": (27, 4), "pairs": (25, 5), "value": (27, 4), "vectors": (27, 3)}[kind]


def test_an_operation_that_this_model_never_answers_says_so(apps: dict[str, App]) -> None:
    told, bodies = described(apps["classes"]), operations(apps["vectors"].context)
    for path in ("/embed", "/similarity", "/v1/embeddings"):
        (operation,) = told["paths"][path].values()
        assert "200" not in operation["responses"] and REFUSED in operation["tags"]
        (body, *_) = bodies[path].examples.values()
        check(told, path, ask(apps["classes"], "post", path, body, JSON), status=400 if "v1" in path else 424)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_path_refuses_is_refused_as_documented(apps: dict[str, App], kind: str) -> None:
    told = described(apps[kind])
    posts = 0
    for path, methods in told["paths"].items():
        here, app = concrete(told, path), apps[kind]
        check(told, path, ask(app, "delete", here), status=405)
        if "post" not in methods:
            continue
        posts += 1
        check(told, path, ask(app, "post", here, b"{", JSON), status=400)
        for body in (b"[]", b"{}", b"null", b'{"inputs": 1}', b'{"input": {}}', b'{"query": 1}'):
            check(told, path, ask(app, "post", here, body, JSON))
        check(told, path, ask(app, "post", here, {"input": "a", "model": "other", "inputs": "a"}, JSON))
        check(told, path, ask(app, "post", here, b'"' + b"a" * 2000, JSON), status=413)
        check(told, path, ask(app, "post", here, b"{}", {**JSON, "content-encoding": "gzip"}), status=415)
        if not app._routes[here].untyped:
            check(told, path, ask(app, "post", here, b"{}"), status=415)
    assert posts == 10


def test_a_deadline_that_passed_and_a_text_that_is_too_long_are_documented(apps: dict[str, App]) -> None:
    told, app = described(apps["classes"]), apps["classes"]
    long = {"inputs": "good film " * 30}
    check(told, "/predict", ask(app, "post", "/predict", long, JSON), status=422)
    cut = ask(app, "post", "/predict", {**long, "truncate": True}, JSON)
    assert cut[1]["x-truncated"] == "true"
    check(told, "/predict", cut, status=200)
    wrong = ask(app, "post", "/predict", {"inputs": "a"}, {**JSON, "x-request-timeout-ms": "soon"})
    check(told, "/predict", wrong, status=422)


def test_before_the_warm_up_503_is_documented(artefacts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.runtime.costs_of", lambda *_, **__: None)
    app = create_app(settings(artefacts["classes"]))
    app.start()
    told = described(app)
    for method, path in (("get", "/health"), ("get", "/v2/health/ready"), ("post", "/v1/embeddings")):
        got = ask(app, method, path, b"{}", JSON)
        check(told, path, got, status=503)
        assert got[1]["retry-after"] == "1"
    app.close()


def test_limits_are_those_of_the_settings(apps: dict[str, App]) -> None:
    told = described(apps["classes"])
    schema = told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    checked = validator(told, schema)
    assert checked.is_valid({"inputs": [["a"]] * MAX_TEXTS}) and not checked.is_valid({"inputs": [["a"]] * 6})
    longest = told["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert longest["properties"]["truncate_prompt_tokens"]["enum"] == [-1, 24, None]


def test_a_model_without_token_ids_takes_none(apps: dict[str, App]) -> None:
    told = document(replace(apps["classes"].context, encoder=None), keyed=False)  # type: ignore[arg-type]
    schema = told["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    checked = validator(told, schema)
    assert checked.is_valid({"input": ["a"]}) and not checked.is_valid({"input": [5]})
    assert all(REFUSED in told["paths"][path]["post"]["tags"] for path in ("/tokenize", "/decode"))


def test_keys_are_asked_for_where_the_service_asks_for_them(apps: dict[str, App]) -> None:
    keyed, free = (document(apps["classes"].context, keyed=keyed) for keyed in (True, False))
    predict = keyed["paths"]["/predict"]["post"]
    assert predict["security"] == [{"bearer": []}, {"x-api-key": []}] and "401" in predict["responses"]
    free_paths = {path for path, methods in keyed["paths"].items() for one in methods.values() if not one["security"]}
    assert free_paths == OPEN_PATHS
    for methods in free["paths"].values():
        for operation in methods.values():
            assert operation["security"] == [] and "401" not in operation["responses"]
