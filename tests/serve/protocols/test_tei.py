"""text-embeddings-inference's protocol: what is asked, what is answered, and its errors."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serve.engine.scores import native
from serve.errors import BadField, BantamError, EmptyInput, Overloaded, TooLarge, WrongTask
from serve.protocols.paths import routes
from serve.protocols.ranked import plain, ranked
from serve.protocols.tei import failure
from serve.question import Answer, Context, Shared
from tests.serve.native import up_to_date
from tests.serve.protocols.conftest import TASKS, ask, told

Contexts = Callable[[str], Context]


def test_predict_ranks_labels_of_one_text_and_of_many(context: Contexts) -> None:
    one = ask(context("classes"), "/predict", {"inputs": "good"})
    assert one.texts == ["good"]
    assert told(one, [0.25, 0.75]) == [{"score": 0.75, "label": "POS"}, {"score": 0.25, "label": "NEG"}]
    many = ask(context("pairs"), "/predict", {"inputs": [["a", "b"], ["c", "d"]], "truncate": True, "raw_scores": True})
    assert (many.texts, many.truncate, many.raw) == ([("a", "b"), ("c", "d")], True, True)
    got = told(many, [-2, 8, 0.5], [1, 1, 3])
    assert [[(entry["label"], entry["score"]) for entry in row] for row in got] == [
        [('may"be', 8), ("yés", 0.5), ("no", -2)],
        [("yés", 3), ("no", 1), ('may"be', 1)],
    ]


def test_predict_of_one_text_in_a_batch_is_a_list_of_lists(context: Contexts) -> None:
    question = ask(context("value"), "/predict", {"inputs": [["good"]]})
    assert told(question, [3.5]) == [[{"score": 3.5, "label": "score"}]]


@pytest.mark.parametrize("inputs", [[[], ["a", "b"]], [["a", "b"], []], [["a"], "b"], [["a"], [1]], [["a"], 0]])
def test_predict_takes_no_batch_for_one_that_has_as_many_texts(context: Contexts, inputs: list[Any]) -> None:
    with pytest.raises(BadField, match="inputs"):
        ask(context("classes"), "/predict", {"inputs": inputs})


@pytest.mark.parametrize("labels", [1, 2, 3, 16, 40])
@pytest.mark.parametrize("texts", [1, 2, 33])
def test_ranked_scores_are_those_of_a_plain_sort(labels: int, texts: int) -> None:
    up_to_date()
    choices = [-1e-9, 0.1, 1 / 3, 7e20, -5, 0.0, -0.0, 1.17e-38, 0.99999994]
    values = np.random.default_rng(labels).choice(choices, (texts, labels)).astype(np.float32)
    names = tuple(f'"läbel" {at}' for at in range(labels))
    wanted = [sorted(zip(row, names, strict=True), key=lambda pair: -pair[0]) for row in values]
    whole = Answer(values, [1] * texts, [False] * texts)
    written = ranked(whole, names, single=False)
    got = json.loads(written)
    assert [[(np.float32(entry["score"]), entry["label"]) for entry in row] for row in got] == wanted
    assert written == plain(values, names, single=False)
    assert (native() is not None) and json.loads(plain(values[:1], names, single=True)) == got[0]
    shared = Shared(values)
    for first in range(texts):
        part = Answer(values[first : first + 1], [1], [False], shared=shared, first=first)
        assert ranked(part, names, single=True) == plain(values[first : first + 1], names, single=True)
    rest = Answer(values[1:], [1] * (texts - 1), [False] * (texts - 1), shared=shared, first=1)
    assert texts == 1 or ranked(rest, names, single=False) == plain(values[1:], names, single=False)


def test_rerank_sorts_texts_by_their_score_beside_the_query(context: Contexts) -> None:
    asked = {"query": "q", "texts": ["a", "b", "c"]}
    question = ask(context("ranks"), "/rerank", asked)
    assert question.texts == [("q", "a"), ("q", "b"), ("q", "c")]
    got = told(question, [0], [2], [-800])
    assert [(entry["index"], set(entry)) for entry in got] == [(at, {"index", "score"}) for at in (1, 0, 2)]
    assert [entry["score"] for entry in got] == pytest.approx([0.8807970779778823, 0.5, 0])  # sigmoid
    question = ask(context("ranks"), "/rerank", {**asked, "raw_scores": True, "return_text": True})
    assert (question.raw, told(question, [0], [-2], [800])) == (
        True,
        [{"index": at, "text": "abc"[at], "score": score} for at, score in ((2, 800), (0, 0), (1, -2))],
    )


def test_embed_gives_vectors_of_length_one(context: Contexts) -> None:
    question = ask(context("vectors"), "/embed", {"inputs": "good", "truncate": True})
    assert (question.texts, question.truncate) == (["good"], True)
    assert told(question, [0.6, 0.8, 0, 0]) == [pytest.approx([0.6, 0.8, 0, 0], abs=1e-7)]
    scaled = ask(context("lengths"), "/embed", {"inputs": ["good", "bad"]})
    assert told(scaled, [3, 4, 0, 0], [0, 0, 0, 0]) == [pytest.approx([0.6, 0.8, 0, 0], abs=1e-7), [0, 0, 0, 0]]
    assert told(ask(context("lengths"), "/embed", {"inputs": "a", "normalize": False}), [3, 4, 0, 0]) == [[3, 4, 0, 0]]


def test_embed_cuts_vectors_and_makes_them_long_again(context: Contexts) -> None:
    row = [0.48, 0.64, 0.6, 0]
    assert told(ask(context("vectors"), "/embed", {"inputs": "a", "dimensions": 2}), row) == [
        pytest.approx([0.6, 0.8], abs=1e-6)
    ]
    as_it_is = ask(context("vectors"), "/embed", {"inputs": "a", "dimensions": 2, "normalize": False})
    assert told(as_it_is, row) == [pytest.approx([0.48, 0.64], abs=1e-6)]


def test_similarity_is_the_cosine_with_the_source(context: Contexts) -> None:
    inputs = {"source_sentence": "a", "sentences": ["b", "c", "d"]}
    question = ask(context("lengths"), "/similarity", {"inputs": inputs, "parameters": {"truncate": True}})
    assert (question.texts, question.truncate) == (["a", "b", "c", "d"], True)
    got = told(question, [2, 0, 0, 0], [3, 4, 0, 0], [0, 3, 0, 0], [-1, 1, 0, 0])
    assert got == pytest.approx([0.6, 0, -(0.5**0.5)], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "good", "kinds"),
    [
        ("/predict", {"inputs": "a"}, {"classes", "pairs", "value", "ranks"}),
        ("/rerank", {"query": "a", "texts": ["b"]}, {"ranks"}),
        ("/embed", {"inputs": "a"}, {"vectors", "lengths"}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}, {"vectors", "lengths"}),
    ],
)
def test_a_model_that_cannot_answer_is_a_424(context: Contexts, path: str, good: Any, kinds: set[str]) -> None:
    for name in TASKS:
        if name in kinds:
            ask(context(name), path, good)
            continue
        with pytest.raises(WrongTask, match="(?i)model is not an? (classifier|embedding|re-ranker) model") as error:
            ask(context(name), path, good)
        status, body = routes(context(name))[path].failure(error.value)
        assert (status, json.loads(body)) == (424, {"error": str(error.value), "error_type": "Backend"})


BAD = [
    ("/predict", {"inputs": "a", "truncation_direction": "left"}, BadField, "truncation_direction"),
    ("/predict", {"inputs": [["a"], [1]]}, BadField, 'inputs"[1] must hold strings, got a number'),
    ("/predict", {"inputs": [["a"]] * 6}, TooLarge, "batch size 6 > maximum allowed batch size 5"),
    ("/rerank", {"texts": ["a"]}, BadField, '"query" is missing'),
    ("/rerank", {"query": None, "texts": ["a"]}, BadField, '"query" must be a string'),
    ("/rerank", {"query": "a"}, BadField, '"texts" is missing'),
    ("/rerank", {"query": "a", "texts": []}, EmptyInput, "`texts` cannot be empty"),
    ("/rerank", {"query": "a", "texts": "b"}, BadField, "list of strings"),
    ("/rerank", {"query": "a", "texts": ["b", None]}, BadField, r'"texts"\[1\] must be a string, got null'),
    ("/rerank", {"query": "a", "texts": ["b"] * 6}, TooLarge, "batch size 6"),
    ("/embed", {"inputs": []}, EmptyInput, "cannot be empty"),
    ("/embed", {"inputs": {"a": 1}}, BadField, "got an object"),
    ("/embed", {"inputs": ["a", True]}, BadField, "got a boolean"),
    ("/embed", {"inputs": ["a"] * 6}, TooLarge, "batch size 6"),
    ("/embed", {"inputs": "a", "prompt_name": "query"}, BadField, "no prompts"),
    ("/embed", {"inputs": "a", "dimensions": 0}, BadField, "at most 4"),
    ("/embed", {"inputs": "a", "dimensions": 5}, BadField, "at most 4"),
    ("/embed", {"inputs": "a", "dimensions": 2.0}, BadField, "whole number"),
    ("/embed", {"inputs": "a", "dimensions": True}, BadField, "whole number, got a boolean"),
    ("/similarity", {"inputs": "a"}, BadField, '"inputs" must be an object, got a string'),
    ("/similarity", {"inputs": {"sentences": ["b"]}}, BadField, "source_sentence"),
    ("/similarity", {"inputs": {"source_sentence": "a"}}, BadField, "must be a list of strings, got null"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, EmptyInput, "cannot be empty"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"] * 5}}, TooLarge, "batch size 6"),
    (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"prompt_name": "x"}},
        BadField,
        "no prompts",
    ),
]


@pytest.mark.parametrize(("path", "content", "error", "word"), BAD)
def test_bad_input_is_told_why(context: Contexts, path: str, content: Any, error: type, word: str) -> None:
    name = {"/predict": "classes", "/rerank": "ranks"}.get(path, "vectors")
    with pytest.raises(BantamError) as got:
        ask(context(name), path, content)
    assert type(got.value) is error
    assert word.replace("\\", "") in str(got.value)


def test_the_last_of_a_key_that_stands_twice_counts(context: Contexts) -> None:
    assert ask(context("classes"), "/predict", b'{"inputs": "a", "inputs": "b"}').texts == ["b"]


def test_an_error_keeps_its_status_and_its_word() -> None:
    assert failure(Overloaded("too many")) == (429, b'{"error":"too many","error_type":"Overloaded"}')
