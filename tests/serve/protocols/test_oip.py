"""The Open Inference Protocol: tensors as JSON and as raw bytes."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serve.errors import BackendError, BadKey, BantamError, EmptyInput, InputError, NotReady, Overloaded, TooLarge
from serve.protocols.oip import failure
from serve.protocols.paths import routes
from serve.question import Context
from tests.serve.protocols.conftest import answer, ask, told

Contexts = Callable[[str], Context]
PATH = "/v2/models/Tiny Model/infer"
LENGTH = b"inference-header-content-length"


def tensor(*texts: str, name: str = "text", **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


def raw(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(tensors: list[tuple[str, int, bytes]], **more: Any) -> tuple[bytes, dict[bytes, bytes]]:
    """A body of tensors (name, elements, bytes), and the header that says where they begin."""
    inputs = [
        {"name": name, "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
        for name, count, data in tensors
    ]
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + b"".join(data for _, _, data in tensors), {LENGTH: str(len(head)).encode()}


@pytest.mark.parametrize("path", [PATH, "/v2/models/Tiny Model/versions/1/infer"])
def test_scores_and_labels_of_a_batch(context: Contexts, path: str) -> None:
    asked = {"id": "42", "inputs": [tensor("good", "bad")], "parameters": {"truncate": True, "raw_scores": True}}
    question = ask(context("classes"), path, asked)
    assert (question.texts, question.truncate, question.raw) == (["good", "bad"], True, True)
    assert told(question, [0.25, 0.75], [1, 0]) == {
        "model_name": "Tiny Model",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 1, 0]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["POS", "NEG"]},
        ],
    }


def test_pairs_are_two_tensors_in_any_order(context: Contexts) -> None:
    inputs = [tensor("b", "d", name="text_pair"), tensor("a", "c", shape=[2, 1], data=[["a"], ["c"]])]
    assert ask(context("pairs"), PATH, {"inputs": inputs}).texts == [("a", "b"), ("c", "d")]


def test_embeddings_and_values(context: Contexts) -> None:
    got = told(ask(context("vectors"), PATH, {"inputs": [tensor("a")]}), [0.5, 0, 0.5, 0])
    assert got["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [1, 4], "data": [0.5, 0, 0.5, 0]}]
    got = told(ask(context("value"), PATH, {"inputs": [tensor("a")]}), [3.5])
    assert got["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [1, 1], "data": [3.5]}]
    assert "id" not in got


def test_outputs_are_those_that_are_asked_for(context: Contexts) -> None:
    asked = {"inputs": [tensor("a")], "outputs": [{"name": "label"}]}
    got = told(
        ask(context("pairs"), PATH, {**asked, "inputs": [tensor("a"), tensor("b", name="text_pair")]}), [0, 0, 9]
    )
    assert [(output["name"], output["data"]) for output in got["outputs"]] == [("label", ["yés"])]


def test_tensors_behind_the_json(context: Contexts) -> None:
    body, headers = binary([("text", 2, raw(b"", "é\n".encode())), ("text_pair", 2, raw(b"x", b"yy"))])
    question = ask(context("pairs"), PATH, body, headers)
    assert question.texts == [("", "x"), ("é\n", "yy")]


@pytest.mark.parametrize("whole", [True, False])
def test_outputs_behind_the_json(context: Contexts, whole: bool) -> None:
    """All by one parameter, or each by its own."""
    asked: dict[str, Any] = {"inputs": [tensor("a"), tensor("b", name="text_pair")]}
    if whole:
        asked["parameters"] = {"binary_data_output": True}
    else:
        asked["outputs"] = [
            {"name": name, "parameters": {"binary_data": name != "scores"}} for name in ("label", "scores")
        ]
    written = ask(context("pairs"), PATH, asked).write(answer([0.5, 0, 0.25]))
    assert isinstance(written, tuple)
    body, headers = written
    found = dict(headers)
    assert found[b"content-type"] == b"application/octet-stream"
    cut = int(found[LENGTH])
    outputs = {output["name"]: output for output in json.loads(body[:cut])["outputs"]}
    scores = struct.pack("<3f", 0.5, 0, 0.25)
    if whole:
        assert list(outputs) == ["scores", "label"]
        assert body[cut:] == scores + raw(b"no")
        assert outputs["scores"]["parameters"] == {"binary_data_size": 12}
    else:
        assert list(outputs) == ["label", "scores"]
        assert (body[cut:], outputs["scores"]["data"]) == (raw(b"no"), [0.5, 0, 0.25])
    assert outputs["label"]["parameters"] == {"binary_data_size": 6}
    assert "data" not in outputs["label"]


def test_an_output_that_says_nothing_of_its_form_has_the_requests(context: Contexts) -> None:
    asked = {"inputs": [tensor("a")], "outputs": [{"name": "label"}], "parameters": {"binary_data_output": True}}
    written = ask(context("classes"), PATH, asked).write(answer([0, 1]))
    assert isinstance(written, tuple)
    assert written[0].endswith(raw(b"POS"))


def test_vectors_behind_the_json(context: Contexts) -> None:
    row = np.float32([0.1, -0.2, 1e-20, 3])
    written = ask(context("vectors"), PATH, *binary([("text", 1, raw(b"a"))], parameters={"binary_data_output": True}))
    body, headers = written.write(answer(row))
    np.testing.assert_array_equal(np.frombuffer(body[int(dict(headers)[LENGTH]) :], "<f4"), row)


def test_pages_describe_the_server_and_the_model(context: Contexts) -> None:
    found = routes(context("pairs"))

    def page(path: str) -> Any:
        body = found[path].read(b"", context("pairs"), {})
        assert isinstance(body, bytes) and found[path].method == "GET"
        return json.loads(body)

    assert page("/v2")["name"] == "bantam"
    assert page("/v2")["extensions"] == ["binary_tensor_data"]
    assert page("/v2/health/live") == {"live": True}
    assert (page("/v2/health/ready"), found["/v2/health/ready"].warm) == ({"ready": True}, True)
    assert not found["/v2/health/live"].warm
    for path in ("/v2/models/Tiny Model", "/v2/models/Tiny Model/versions/1"):
        assert page(path) == {
            "name": "Tiny Model",
            "versions": ["1"],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("text", "text_pair")],
            "outputs": [
                {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }
        assert page(f"{path}/ready") == {"name": "Tiny Model", "ready": True}
        assert found[f"{path}/ready"].warm
    for path, status in (("/v2/models/", 404), ("/v2/", 404)):
        with pytest.raises(BantamError) as error:
            found[path].read(b"", context("pairs"), {})
        assert found[path].failure(error.value)[0] == status


GOOD = tensor("a")
BAD = [
    ({}, InputError, '"inputs" is missing'),
    ({"inputs": {}}, InputError, "must be a list of tensors, got an object"),
    ({"inputs": []}, InputError, 'lack "text"'),
    ({"inputs": [None]}, InputError, "must be an object, got null"),
    ({"inputs": [GOOD, GOOD]}, InputError, "each once"),
    ({"inputs": [tensor("a", name="input_ids")]}, InputError, 'got "input_ids"'),
    ({"inputs": [tensor("a", name=None)]}, InputError, "got nothing"),
    ({"inputs": [tensor("a", datatype="FP32")]}, InputError, 'datatype "BYTES"'),
    ({"inputs": [tensor("a", shape=[2])]}, InputError, "2 by its shape"),
    ({"inputs": [tensor("a", shape=[1, 2])]}, InputError, "[n] or [n, 1]"),
    ({"inputs": [tensor("a", shape=[1.0])]}, InputError, "[n] or [n, 1]"),
    ({"inputs": [tensor("a", shape=[-1])]}, InputError, "[n] or [n, 1]"),
    ({"inputs": [tensor("a", shape=1)]}, InputError, "[n] or [n, 1]"),
    ({"inputs": [tensor()]}, EmptyInput, "cannot be empty"),
    ({"inputs": [tensor("a", shape=[10**15])]}, TooLarge, "batch size 1000000000000000"),
    ({"inputs": [tensor("a", data="a")]}, InputError, "a list of strings"),
    ({"inputs": [tensor("a", data=[1])]}, InputError, "a list of strings"),
    ({"inputs": [tensor("a", data=[["a", "b"]])]}, InputError, "a list of strings"),
    ({"inputs": [tensor("a", parameters=[])]}, InputError, '"parameters" must be an object'),
    ({"inputs": [tensor("a", parameters={"binary_data_size": 1})]}, InputError, "bytes behind the JSON"),
    ({"inputs": [tensor("a", parameters={"shared_memory_region": "x"})]}, InputError, "shared memory"),
    ({"inputs": [GOOD], "id": 7}, InputError, '"id" must be a string'),
    ({"inputs": [GOOD], "parameters": {"truncate": 1}}, InputError, '"truncate" must be true or false'),
    ({"inputs": [GOOD], "outputs": {}}, InputError, '"outputs" must be a list'),
    ({"inputs": [GOOD], "outputs": [{}]}, InputError, "got nothing"),
    ({"inputs": [GOOD], "outputs": [{"name": "embedding"}]}, InputError, 'got "embedding"'),
    ({"inputs": [GOOD], "outputs": [{"name": "label"}] * 2}, InputError, "once"),
    ({"inputs": [GOOD], "outputs": [{"name": "scores", "parameters": {"classification": 1}}]}, InputError, "extension"),
]


@pytest.mark.parametrize(("content", "error", "word"), BAD)
def test_bad_input_is_told_why(context: Contexts, content: Any, error: type, word: str) -> None:
    with pytest.raises(error) as raised:
        ask(context("classes"), PATH, content)
    assert word in str(raised.value)
    status, body = failure(raised.value)
    assert status == (413 if error is TooLarge else 400)
    assert json.loads(body) == {"error": str(raised.value)}


@pytest.mark.parametrize(
    ("count", "data", "word"),
    [
        (2, raw(b"a"), "2 elements"),
        (1, raw(b"a", b"b"), "1 elements"),
        (1, b"\xff\xff\xff\xffa", "1 elements"),
        (1, b"\1\0\0", "1 elements"),
        (1, b"", "1 elements"),
        (1, raw(b"\xff"), "UTF-8"),
        (1, raw("\ud800".encode("utf-8", "surrogatepass")), "UTF-8"),
    ],
)
def test_broken_tensors_are_told_why(context: Contexts, count: int, data: bytes, word: str) -> None:
    with pytest.raises(InputError, match=word):
        ask(context("classes"), PATH, *binary([("text", count, data)]))


@pytest.mark.parametrize("length", [b"-1", b"", b"x", b"1e3", b"99999", b"9" * 5000])
def test_a_header_that_lies_is_told_why(context: Contexts, length: bytes) -> None:
    body, _ = binary([("text", 1, raw(b"a"))])
    with pytest.raises(InputError, match="Inference-Header-Content-Length must be at most"):
        ask(context("classes"), PATH, body, {LENGTH: length})


def test_bytes_that_belong_to_no_tensor_are_an_error(context: Contexts) -> None:
    body, headers = binary([("text", 1, raw(b"a"))])
    with pytest.raises(InputError, match="3 bytes are left"):
        ask(context("classes"), PATH, body + b"abc", headers)
    uneven = binary([("text", 2, raw(b"a", b"b")), ("text_pair", 1, raw(b"a"))])
    with pytest.raises(InputError, match='"text" has 2 elements and "text_pair" 1'):
        ask(context("pairs"), PATH, *uneven)


def test_errors_have_the_protocols_shape() -> None:
    for error, status in ((BadKey("x"), 401), (Overloaded("x"), 429), (BackendError("x"), 500), (NotReady("x"), 503)):
        assert failure(error) == (status, b'{"error":"x"}')
