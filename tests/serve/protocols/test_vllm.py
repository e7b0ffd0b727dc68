"""vLLM's /classify."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from serve.errors import BackendError, BantamError, Overloaded, TooLong
from serve.protocols.vllm import failure
from serve.question import Context
from tests.serve.protocols.conftest import ask, told

Contexts = Callable[[str], Context]


def test_each_text_gets_its_label_and_all_probabilities(context: Contexts) -> None:
    question = ask(context("classes"), "/classify", {"model": "Tiny Model", "input": ["good", "bad"]})
    assert (question.texts, question.truncate, question.raw) == (["good", "bad"], False, False)
    got = told(question, [0.25, 0.75], [1, 0])
    assert got.pop("id").startswith("classify-")
    assert abs(got.pop("created") - time.time()) < 5
    assert got == {
        "object": "list",
        "model": "Tiny Model",
        "data": [
            {"index": 0, "label": "POS", "probs": [0.25, 0.75], "num_classes": 2},
            {"index": 1, "label": "NEG", "probs": [1, 0], "num_classes": 2},
        ],
        "usage": {"prompt_tokens": 6, "total_tokens": 6, "completion_tokens": 0},
    }


def test_every_answer_has_an_id_of_its_own_or_the_callers(context: Contexts) -> None:
    ids = {told(ask(context("value"), "/classify", {"input": "a"}), [3])["id"] for _ in range(50)}
    assert len(ids) == 50
    question = ask(context("value"), "/classify", {"input": "a"}, {b"x-request-id": b'my "id" \xff'})
    assert told(question, [3])["id"] == 'classify-my "id" ÿ'


def test_what_is_cut_and_what_is_raw_is_asked_for(context: Contexts) -> None:
    for length, truncate in ((None, False), (-1, True), (8, True)):
        asked = {"input": "a", "truncate_prompt_tokens": length, "use_activation": length is None}
        question = ask(context("classes"), "/classify", asked)
        assert (question.truncate, question.raw) == (truncate, length is not None)


@pytest.mark.parametrize(
    ("content", "status", "param", "word"),
    [
        ({"input": "a", "model": "other"}, 404, None, "`other` does not exist"),
        ({"input": []}, 400, None, "cannot be empty"),
        ({"messages": []}, 400, "input", "missing"),
        ({"input": {"a": 1}}, 400, "input", "got an object"),
        ({"input": ["a"] * 6}, 413, None, "batch size 6"),
        ({"input": "a", "truncate_prompt_tokens": 3}, 400, "truncate_prompt_tokens", "must be -1 or 8"),
        ({"input": "a", "truncate_prompt_tokens": "-1"}, 400, "truncate_prompt_tokens", "whole number"),
        ({"input": "a", "truncation_side": "left"}, 400, "truncation_side", "only be"),
        ({"input": "a", "add_special_tokens": False}, 400, "add_special_tokens", "only be true"),
        ({"input": "a", "use_activation": "no"}, 400, "use_activation", "true or false"),
    ],
)
def test_bad_input_is_told_why(context: Contexts, content: Any, status: int, param: str | None, word: str) -> None:
    with pytest.raises(BantamError) as raised:
        ask(context("classes"), "/classify", content)
    got, body = failure(raised.value)
    error = json.loads(body)["error"]
    assert (got, error["code"], error["param"]) == (status, status, param)
    assert word in error["message"]


def test_an_embedding_model_has_no_classes(context: Contexts) -> None:
    with pytest.raises(BantamError, match="does not support Classification API") as raised:
        ask(context("vectors"), "/classify", {"input": "a"})
    assert failure(raised.value)[0] == 400


def test_errors_have_vllms_words() -> None:
    for error, status, word in (
        (TooLong("x"), 400, "BadRequestError"),
        (Overloaded("x"), 429, "Too Many Requests"),
        (BackendError("x"), 500, "InternalServerError"),
    ):
        got, body = failure(error)
        assert got == status
        assert json.loads(body) == {"error": {"message": "x", "type": word, "param": None, "code": status}}
