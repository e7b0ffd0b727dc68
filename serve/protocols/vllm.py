"""vLLM's /classify (entrypoints/pooling/classify there).

`truncate_prompt_tokens` may be -1 or the model's own length; left out, a text over it is an error. `use_activation:
false` gives scores before softmax.
"""

import os
import time
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson

from serve.errors import BadField, BantamError, WrongTask
from serve.protocols.reading import SHOWN, asked, check_model, flag, string, texts, whole
from serve.protocols.refusals import status
from serve.question import Answer, Context, Headers, Question, Route

NAMES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}


def routes(context: Context) -> dict[str, Route]:
    """Also of a model without classes: its clients learn that from the error."""
    return {"/classify": Route("POST", classify, failure, name="classify", asks=True)}


def failure(error: BantamError) -> tuple[int, bytes]:
    """Status and body of an error."""
    code = status(error)
    field = error.field if isinstance(error, BadField) else None
    word = NAMES.get(code) or HTTPStatus(code).phrase
    return code, orjson.dumps({"error": {"message": str(error), "type": word, "param": field, "code": code}})


def classify(body: bytes, context: Context, headers: Headers) -> Question:
    """The likeliest label of each text, and the probability of every one."""
    content = asked(body, "input")
    check_model(content, context)
    if context.task.kind == "embedding":
        raise WrongTask("The model does not support Classification API")
    found = texts(content["input"], "input", context)
    raw = not flag(content, "use_activation", default=True)
    write = partial(_write, context, headers.get(b"x-request-id"))
    return Question(found, write, _truncated(content, context), raw)


def _truncated(content: dict[str, Any], context: Context) -> bool:
    """Whether texts may be cut; BadField where that should be done in a way that we have not."""
    if string(content, "truncation_side") not in (None, "right"):
        raise BadField("truncation_side", '"truncation_side" can only be "right" here')
    if not flag(content, "add_special_tokens", default=True):
        raise BadField("add_special_tokens", '"add_special_tokens" can only be true here')
    length = whole(content, "truncate_prompt_tokens")
    if length not in (None, -1, context.max_length):
        raise BadField(
            "truncate_prompt_tokens",
            f'"truncate_prompt_tokens" must be -1 or {context.max_length}, the length of this model, got {length}',
        )
    return length is not None


def _write(context: Context, request: bytes | None, answer: Answer) -> bytes:
    labels, tokens = context.task.labels, answer.tokens
    data = [
        {"index": at, "label": labels[best], "probs": row, "num_classes": len(row)}
        for at, (best, row) in enumerate(zip(answer.values.argmax(1).tolist(), answer.values.tolist(), strict=True))
    ]
    return orjson.dumps(
        {
            "id": "classify-" + (os.urandom(16).hex() if request is None else request[:SHOWN].decode("latin-1")),
            "object": "list",
            "created": int(time.time()),
            "model": context.name,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )
