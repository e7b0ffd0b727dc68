"""text-embeddings-inference's protocol (router/src/http/types.rs and server.rs there): /predict and /rerank, and the
paths of all.

`inputs` of /predict is "text", ["text"] or ["left", "right"] for one answer, and [["text"], ["left", "right"], ...] for
a list of answers: a flat list of two strings is one pair, never two texts. Unknown keys are ignored, as there.
"""

from collections.abc import Callable
from functools import partial
from itertools import chain
from math import exp
from typing import Any

import orjson

from serve.encode import Text
from serve.errors import BadField, BantamError, EmptyInput, WrongTask
from serve.protocols import tei_tokens, tei_vectors
from serve.protocols.ranked import ranked
from serve.protocols.reading import asked, check_batch, flag, kind, string, strings
from serve.protocols.tei_vectors import check_right
from serve.question import Answer, Context, Headers, Question, Route

SHAPES = "a string, a pair of strings [string, string] or a batch of these [[string], [string, string], ...]"


def routes(context: Context) -> dict[str, Route]:
    """Of every model; each says for itself which it cannot answer."""
    reads: dict[str, Callable[[bytes, Context, Headers], Question | bytes]] = {
        "predict": predict,
        "rerank": rerank,
        "embed": tei_vectors.embed,
        "similarity": tei_vectors.similarity,
        "tokenize": tei_tokens.tokenize,
    }
    found = {
        f"/{name}": Route("POST", read, failure, name=name, asks=name != "tokenize") for name, read in reads.items()
    }
    return {**found, "/decode": Route("POST", tei_tokens.decode, failure)}


def failure(error: BantamError) -> tuple[int, bytes]:
    """Status and body of an error."""
    return error.status, orjson.dumps({"error": str(error), "error_type": error.error_type})


def predict(body: bytes, context: Context, headers: Headers) -> Question:
    """Labels with their scores, highest first."""
    content = asked(body, "inputs")
    if context.task.kind == "embedding":
        raise WrongTask("Model is not a classifier model")
    check_right(content)
    found, single = _texts(content["inputs"], context)
    write = partial(_write_labels, context.task.labels, single)
    return Question(found, write, flag(content, "truncate"), flag(content, "raw_scores"))


def rerank(body: bytes, context: Context, headers: Headers) -> Question:
    """Texts by their score beside a query, of a model of pairs that has one output."""
    content = asked(body, "query")
    query = string(content, "query")
    if query is None:
        raise BadField("query", '"query" must be a string, got null')
    if "texts" not in content:
        raise BadField("texts", '"texts" is missing')
    found = strings(content["texts"], "texts", context)
    if context.task.kind != "regression" or context.task.inputs != 2:
        raise WrongTask("model is not a re-ranker model")
    check_right(content)
    raw = flag(content, "raw_scores")
    write = partial(_write_ranks, found if flag(content, "return_text") else None, raw)
    return Question([(query, text) for text in found], write, flag(content, "truncate"), raw)


def _write_labels(labels: tuple[str, ...], single: bool, answer: Answer) -> bytes:
    return ranked(answer, labels, single=single)


def _write_ranks(texts: list[str] | None, raw: bool, answer: Answer) -> bytes:
    scores = answer.values[:, 0].tolist()
    if not raw:
        scores = [_sigmoid(score) for score in scores]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    if texts is None:
        return orjson.dumps([{"index": at, "score": scores[at]} for at in order])
    return orjson.dumps([{"index": at, "text": texts[at], "score": scores[at]} for at in order])


def _sigmoid(score: float) -> float:
    return 1 / (1 + exp(-score)) if score >= 0 else exp(score) / (1 + exp(score))


def _texts(inputs: Any, context: Context) -> tuple[list[Text], bool]:
    """The texts, and whether the answer is one list of scores rather than a list of lists."""
    if type(inputs) is str:
        return [inputs], True
    if type(inputs) is not list:
        raise BadField("inputs", f'"inputs" must be {SHAPES}; got {kind(inputs)}')
    if not inputs:
        raise EmptyInput("`inputs` cannot be empty")
    if type(inputs[0]) is str:
        return [_text(inputs, None)], True
    check_batch(len(inputs), context)
    if all(inputs) and set(map(type, inputs)) == {list}:
        found = list(chain.from_iterable(inputs))
        if len(found) == len(inputs) and set(map(type, found)) == {str}:  # one in each, as none is empty
            return found, False
    return [_text(item, at) for at, item in enumerate(inputs)], False


def _text(item: Any, at: int | None) -> Text:
    """A text or a pair of a list; `at` is its place in a batch, for an error."""
    if type(item) is list:
        if len(item) == 1 and type(item[0]) is str:
            return item[0]
        if len(item) == 2 and type(item[0]) is type(item[1]) is str:
            return item[0], item[1]
    where = '"inputs"' if at is None else f'"inputs"[{at}]'
    if type(item) is not list or not 1 <= len(item) <= 2:
        got = f"{len(item)} items" if type(item) is list else kind(item)
        raise BadField("inputs", f"{where} must be one string or a pair in a list, got {got}; inputs are {SHAPES}")
    wrong = next(part for part in item if type(part) is not str)
    raise BadField("inputs", f"{where} must hold strings, got {kind(wrong)}")
