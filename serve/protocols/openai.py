"""OpenAI's /v1/embeddings and /v1/models, as its clients send and read them.

`model` may be left out and is checked where it is not. `dimensions` may be the model's own size only: these vectors
were not trained to be cut. A text over the model's length is an error and never cut, as there.
"""

from binascii import b2a_base64
from functools import partial
from typing import Any

import orjson

from serve.errors import (
    BackendError,
    BadField,
    BadKey,
    BadMethod,
    BantamError,
    InputError,
    NotFound,
    Overloaded,
    TooLong,
    UnknownModel,
)
from serve.protocols.reading import SHOWN, asked, check_model, string, texts, whole
from serve.protocols.refusals import status
from serve.protocols.vectors import embedding, normalised, rows
from serve.question import Answer, Context, Headers, Question, Route

# Of an error its `type` and its `code`; of several classes the nearest counts.
WORDS: dict[type, tuple[str, str | None]] = {
    BantamError: ("server_error", None),
    BackendError: ("server_error", None),
    InputError: ("invalid_request_error", None),
    BadKey: ("invalid_request_error", "invalid_api_key"),
    NotFound: ("invalid_request_error", "unknown_url"),
    UnknownModel: ("invalid_request_error", "model_not_found"),
    BadMethod: ("invalid_request_error", "method_not_supported"),
    TooLong: ("invalid_request_error", "context_length_exceeded"),
    Overloaded: ("requests", "rate_limit_exceeded"),
}


def routes(context: Context) -> dict[str, Route]:
    """Also of a model without vectors: its clients learn that from the error."""
    model = {"id": context.name, "object": "model", "created": context.created, "owned_by": "bantam"}
    one, every = orjson.dumps(model), orjson.dumps({"object": "list", "data": [model]})
    return {
        "/v1/embeddings": Route("POST", embeddings, failure, name="v1_embeddings", asks=True),
        "/v1/models": Route("GET", lambda *_: every, failure, warm=False),
        f"/v1/models/{context.name}": Route("GET", lambda *_: one, failure, warm=False),
        "/v1/models/": Route("*", _no_model, failure, warm=False, untyped=True),
        "/v1/": Route("*", _no_path, failure, warm=False, untyped=True),
    }


def failure(error: BantamError) -> tuple[int, bytes]:
    """Status and body of an error."""
    code = status(error)
    kind, word = next(WORDS[base] for base in type(error).__mro__ if base in WORDS)
    if code < 500 and kind == "server_error":
        kind = "invalid_request_error"  # the model does not answer such questions
    field = error.field if isinstance(error, BadField) else None
    return code, orjson.dumps({"error": {"message": str(error), "type": kind, "param": field, "code": word}})


def embeddings(body: bytes, context: Context, headers: Headers) -> Question:
    """One vector a text, as numbers or as base64 of little-endian single precision."""
    content = asked(body, "input")
    check_model(content, context)
    model = embedding(context, f"The model `{context.name}` gives no embeddings: it is for {context.task.kind}")
    found = texts(content["input"], "input", context)
    dimensions = whole(content, "dimensions")
    if dimensions is not None and dimensions != model.size:
        raise BadField("dimensions", f"This model's vectors have {model.size} dimensions and cannot be cut")
    form = string(content, "encoding_format")
    if form not in (None, "float", "base64"):
        raise BadField("encoding_format", f'"encoding_format" must be "float" or "base64", got "{form[:SHOWN]}"')
    write = _write_base64 if form == "base64" else _write_numbers
    return Question(found, partial(write, context.name, not model.normalised))


def _write_numbers(name: str, scale: bool, answer: Answer) -> bytes:
    vectors = normalised(rows(answer)) if scale else rows(answer)
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return orjson.dumps(_listed(data, name, answer), option=orjson.OPT_SERIALIZE_NUMPY)


def _write_base64(name: str, scale: bool, answer: Answer) -> bytes:
    vectors = (normalised(rows(answer)) if scale else rows(answer)).astype("<f4", copy=False)
    size, content = 4 * vectors.shape[1], vectors.tobytes()
    data = [
        {"object": "embedding", "index": at, "embedding": orjson.Fragment(b'"%b"' % b2a_base64(one, newline=False))}
        for at, one in enumerate(content[start : start + size] for start in range(0, len(content), size))
    ]
    return orjson.dumps(_listed(data, name, answer))


def _listed(data: list[Any], name: str, answer: Answer) -> dict[str, Any]:
    """What stands around the vectors. OpenAI takes normalised ones for granted, and so do those who compare them."""
    tokens = answer.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


def _no_model(body: bytes, context: Context, headers: Headers) -> bytes:
    raise UnknownModel(f"There is no such model; this is `{context.name}`")


def _no_path(body: bytes, context: Context, headers: Headers) -> bytes:
    raise NotFound("There is no such path; try POST /v1/embeddings or GET /v1/models")
