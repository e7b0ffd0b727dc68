"""OpenAI's embeddings: bodies as its documentation gives them."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serve.errors import (
    BackendError,
    BadJSON,
    BadKey,
    BadMethod,
    BantamError,
    Expired,
    InputError,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    TooLong,
    UnknownModel,
)
from serve.protocols.openai import failure
from serve.protocols.paths import routes
from serve.question import Context
from tests.serve.protocols.conftest import ask, told

Contexts = Callable[[str], Context]
ROWS = ([0.6, 0.8, 0, 0], [0, 0, 0, -1])


def test_vectors_as_numbers(context: Contexts) -> None:
    asked = {"input": ["good", "bad"], "model": "Tiny Model", "user": "me", "dimensions": 4}
    question = ask(context("vectors"), "/v1/embeddings", asked)
    assert (question.texts, question.truncate) == (["good", "bad"], False)
    got = told(question, *ROWS)
    data = [entry.pop("embedding") for entry in got["data"]]
    np.testing.assert_array_equal(np.float32(data), np.float32(ROWS))
    assert got == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": "Tiny Model",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


def test_vectors_as_base64_are_little_endian_floats(context: Contexts) -> None:
    question = ask(context("vectors"), "/v1/embeddings", {"input": ["good", "bad"], "encoding_format": "base64"})
    got = told(question, *ROWS)
    read = [struct.unpack("<4f", base64.b64decode(entry["embedding"], validate=True)) for entry in got["data"]]
    np.testing.assert_array_equal(np.float32(read), np.float32(ROWS))
    assert [entry["index"] for entry in got["data"]] == [0, 1]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_are_of_length_one_even_where_the_models_are_not(context: Contexts, form: str) -> None:
    got = told(ask(context("lengths"), "/v1/embeddings", {"input": "a", "encoding_format": form}), [3, 4, 0, 0])
    vector = got["data"][0]["embedding"]
    read = vector if form == "float" else struct.unpack("<4f", base64.b64decode(vector))
    assert list(read) == pytest.approx([0.6, 0.8, 0, 0], abs=1e-6)


def test_models_lists_the_one_that_is_loaded(context: Contexts) -> None:
    found = routes(context("classes"))
    model = {"id": "Tiny Model", "object": "model", "created": 1_700_000_000, "owned_by": "bantam"}
    for path, wanted in (("/v1/models", {"object": "list", "data": [model]}), ("/v1/models/Tiny Model", model)):
        body = found[path].read(b"", context("classes"), {})
        assert isinstance(body, bytes)
        assert json.loads(body) == wanted
    with pytest.raises(UnknownModel, match="Tiny Model"):
        found["/v1/models/"].read(b"", context("classes"), {})


@pytest.mark.parametrize(
    ("content", "status", "param", "code", "word"),
    [
        (b"{", 400, None, None, "not JSON"),
        ([], 400, None, None, "must be an object"),
        ({"model": "Tiny Model"}, 400, "input", None, '"input" is missing'),
        ({"input": None}, 400, "input", None, "got null"),
        ({"input": []}, 400, None, None, "cannot be empty"),
        ({"input": [None]}, 400, "input", None, '"input"[0] must be a string'),
        ({"input": ["a"] * 6}, 413, None, None, "batch size 6"),
        ({"input": "a", "model": 1}, 400, "model", None, "must be a string"),
        ({"input": "a", "model": "gpt-4"}, 404, None, "model_not_found", "`gpt-4` does not exist"),
        ({"input": "a", "model": "x" * 5000}, 404, None, "model_not_found", "x" * 100 + "`"),
        ({"input": "a", "dimensions": 2}, 400, "dimensions", None, "4 dimensions"),
        ({"input": "a", "dimensions": "4"}, 400, "dimensions", None, "whole number"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", None, '"float" or "base64"'),
        ({"input": "a", "encoding_format": 1}, 400, "encoding_format", None, "must be a string"),
    ],
)
def test_bad_input_is_told_why(
    context: Contexts, content: Any, status: int, param: str | None, code: str | None, word: str
) -> None:
    with pytest.raises(BantamError) as raised:
        ask(context("vectors"), "/v1/embeddings", content)
    got, body = failure(raised.value)
    error = json.loads(body)["error"]
    assert (got, error["param"], error["code"], error["type"]) == (status, param, code, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert word in error["message"]


def test_a_classifier_gives_no_embeddings(context: Contexts) -> None:
    with pytest.raises(BantamError) as raised:
        ask(context("classes"), "/v1/embeddings", {"input": "a"})
    status, body = failure(raised.value)
    assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")
    assert "gives no embeddings" in str(raised.value)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InputError("x"), 400, "invalid_request_error", None),
        (BadJSON("x"), 400, "invalid_request_error", None),
        (TooLong("x"), 400, "invalid_request_error", "context_length_exceeded"),
        (BadKey("x"), 401, "invalid_request_error", "invalid_api_key"),
        (NotFound("x"), 404, "invalid_request_error", "unknown_url"),
        (BadMethod("x"), 405, "invalid_request_error", "method_not_supported"),
        (TooLarge("x"), 413, "invalid_request_error", None),
        (Overloaded("x"), 429, "requests", "rate_limit_exceeded"),
        (BackendError("x"), 500, "server_error", None),
        (BantamError("x"), 500, "server_error", None),
        (NotReady("x"), 503, "server_error", None),
        (Expired("x"), 503, "server_error", None),
    ],
)
def test_errors_have_openais_statuses(error: BantamError, status: int, kind: str, code: str | None) -> None:
    got, body = failure(error)
    assert got == status
    assert json.loads(body) == {"error": {"message": "x", "type": kind, "param": None, "code": code}}
