"""No body breaks any protocol: each gives a question, an answer or an error of its own."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.errors import BadJSON, BantamError
from serve.protocols.paths import routes
from serve.question import Context, Question
from tests.serve.protocols.conftest import TASKS, answer

Contexts = Callable[[str], Context]
TENSORS = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]
PAIRED = [*TENSORS, {"name": "text_pair", "shape": [1], "datatype": "BYTES", "data": ["bad"]}]
INFER = "/v2/models/Tiny Model/infer"
GOOD: list[tuple[str, str, dict[str, Any]]] = [  # a kind of model, a path and a body that it takes
    ("classes", "/predict", {"inputs": [["good"], ["bad"]]}),
    ("ranks", "/rerank", {"query": "good", "texts": ["bad", "film"]}),
    ("vectors", "/embed", {"inputs": ["good", "bad"]}),
    ("lengths", "/similarity", {"inputs": {"source_sentence": "good", "sentences": ["bad"]}}),
    ("pairs", "/tokenize", {"inputs": ["good", "bad"]}),
    ("value", "/decode", {"ids": [[4, 5], [6]]}),
    ("vectors", "/v1/embeddings", {"input": "good"}),
    ("lengths", "/v1/embeddings", {"input": [[4, 5], [6]]}),
    ("classes", "/classify", {"input": ["good", "bad"]}),
    ("classes", INFER, {"inputs": TENSORS, "outputs": [{"name": "label"}]}),
    ("pairs", INFER, {"inputs": PAIRED}),
    ("vectors", INFER.replace("infer", "versions/1/infer"), {"inputs": TENSORS}),
]
BROKEN = [
    b"",
    b"{",
    b"\xff",
    b'{"%b": "\xff"}',
    b'{"%b": "\\ud800"}',
    b'{"%b": NaN}',
    b'{"%b": -Infinity}',
    b'{"%b": 1e999}',
    b'{"%b": 1' + b"0" * 400 + b"}",
    b'{"%b": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"%b": ' + b'{"a":' * 100_000,
    b'{"%b": "a"} x',
    b"\xef\xbb\xbf{}",
]
fuzzed = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(context: Context, path: str, body: bytes, headers: dict[bytes, bytes]) -> Question | bytes | BantamError:
    route = routes(context)[path]
    try:
        return route.read(body, context, headers)
    except BantamError as raised:
        error = raised
    status, written = route.failure(error)
    assert 400 <= status < 500
    assert "error" in json.loads(written)
    assert "\n" not in str(error)
    return error


def check(context: Context, path: str, body: bytes, headers: dict[bytes, bytes]) -> Any:
    """What a body gives, and that it can be answered."""
    got = read(context, path, body, headers)
    if isinstance(got, Question):
        assert 0 < len(got.texts) <= context.max_texts
        written = got.write(answer(*[[0.5] * context.task.outputs] * len(got.texts)))
        if isinstance(written, bytes):
            json.loads(written)
        else:
            cut = int(dict(written[1])[b"inference-header-content-length"])
            json.loads(written[0][:cut])
    elif isinstance(got, bytes):
        json.loads(got)
    return got


@pytest.mark.parametrize(("kind", "path", "good"), GOOD)
def test_what_is_no_json_is_a_400(context: Contexts, kind: str, path: str, good: dict[str, Any]) -> None:
    for body in BROKEN:
        got = read(context(kind), path, body.replace(b"%b", next(iter(good)).encode()), {})
        assert type(got) is BadJSON
        assert routes(context(kind))[path].failure(got)[0] == 400
    for body in (b"null", b"[]", b'"a"', b"1", b"{}"):
        assert isinstance(read(context(kind), path, body, {}), BantamError)


@pytest.mark.parametrize(("kind", "path", "good"), GOOD)
def test_nesting_within_jsons_limit_is_no_error_of_ours(
    context: Contexts, kind: str, path: str, good: dict[str, Any]
) -> None:
    for deep in ("[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500):
        body = "{" + ", ".join(f'"{field}": {deep}' for field in (*good, "model", "parameters")) + "}"
        assert isinstance(read(context(kind), path, body.encode(), {}), BantamError)


@pytest.mark.parametrize(("kind", "path", "good"), GOOD)
def test_the_bodies_that_are_changed_below_are_good(
    context: Contexts, kind: str, path: str, good: dict[str, Any]
) -> None:
    assert not isinstance(check(context(kind), path, json.dumps(good).encode(), {}), BantamError)


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=6,
)
FIELDS = (
    "truncate raw_scores return_text normalize add_special_tokens skip_special_tokens use_activation model id user "
    "encoding_format truncation_direction truncation_side prompt_name dimensions truncate_prompt_tokens inputs input "
    "ids texts query outputs parameters name shape datatype data binary_data binary_data_size binary_data_output "
    "source_sentence sentences"
).split()
LIKELY = [None, True, False, -1, 0, 1, 2, 4, 8, 1e300, "text", "label", "scores", "BYTES", "base64", "left", [1], ["a"]]
changes = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(FIELDS), st.sampled_from(LIKELY) | values), min_size=1, max_size=3
)


def changed(content: Any, at: int, name: str, value: Any) -> Any:
    """`content` with a field set, or an item added, somewhere inside; `at` says where."""
    if isinstance(content, list):
        return [changed(item, at // 2, name, value) for item in content] if at % 2 else [*content, value]
    if not isinstance(content, dict):
        return content if at % 2 else value
    if not at or not content:
        return {**content, name: value}
    inner = list(content)[at % len(content)]
    return {**content, inner: changed(content[inner], at // 2, name, value)}


@pytest.mark.parametrize(("kind", "path", "good"), GOOD)
@fuzzed
@given(
    edits=changes,
    other=st.sampled_from([*TASKS, "", ""]),
    behind=st.binary(max_size=12),
    end=st.none() | st.integers(-9, 9) | st.binary(max_size=5),
)
def test_any_body_gets_a_question_an_answer_or_an_error(
    context: Contexts,
    kind: str,
    path: str,
    good: dict[str, Any],
    edits: list[tuple[int, str, Any]],
    other: str,
    behind: bytes,
    end: int | bytes | None,
) -> None:
    content: Any = good
    for at, name, value in edits:
        content = changed(content, at, name, value)
    body, headers = json.dumps(content).encode(), {}
    if end is not None:
        length = end if isinstance(end, bytes) else str(len(body) + min(end, 0)).encode()
        headers[b"inference-header-content-length"] = length
        body += behind
    check(context(other or kind), path, body, headers)


@fuzzed
@given(body=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_so_does_a_body_without_any_form(context: Contexts, body: bytes) -> None:
    for kind, path, _ in GOOD:
        check(context(kind), path, body, {})
