"""text-embeddings-inference's /embed and /similarity.

`normalize: false` leaves a vector as the model gives it, which is of length 1 where the model itself sees to that.
`dimensions` keeps the first ones. There are no prompts, and texts are cut on the right only.
"""

from functools import partial
from typing import Any

import orjson

from serve.errors import BadField
from serve.protocols.reading import KINDS, asked, flag, kind, string, strings, texts, whole
from serve.protocols.vectors import embedding, normalised, rows
from serve.question import Answer, Context, Headers, Question

REFUSAL = "Model is not an embedding model"


def embed(body: bytes, context: Context, headers: Headers) -> Question:
    """One vector a text."""
    content = asked(body, "inputs")
    model = embedding(context, REFUSAL)
    check_right(content)
    check_no_prompt(content)
    found = texts(content["inputs"], "inputs", context)
    dimensions = whole(content, "dimensions")
    if dimensions is not None and not 0 < dimensions <= model.size:
        raise BadField("dimensions", f"`dimensions` should be positive and at most {model.size}")
    scale = flag(content, "normalize", default=True) and (dimensions is not None or not model.normalised)
    return Question(found, partial(_write_vectors, dimensions, scale), flag(content, "truncate"))


def similarity(body: bytes, context: Context, headers: Headers) -> Question:
    """The cosine of one text's vector and each of the others'."""
    content = asked(body, "inputs")
    inputs = _object(content["inputs"], "inputs")
    source = string(inputs, "source_sentence")
    if source is None:
        raise BadField("inputs", '"inputs" must have a string "source_sentence"')
    found = strings(inputs.get("sentences"), "inputs.sentences", context, beside=1)
    embedding(context, REFUSAL)
    parameters = content.get("parameters")
    parameters = {} if parameters is None else _object(parameters, "parameters")
    check_right(parameters)
    check_no_prompt(parameters)
    return Question([source, *found], _write_cosines, flag(parameters, "truncate"))


def check_right(content: dict[str, Any]) -> None:
    """BadField where texts should lose their first words rather than their last."""
    if "truncation_direction" in content and content["truncation_direction"] not in ("right", "Right"):
        raise BadField("truncation_direction", '"truncation_direction" can only be "right" here')


def check_no_prompt(content: dict[str, Any]) -> None:
    """BadField where a prompt is asked for."""
    if string(content, "prompt_name") is not None:
        raise BadField("prompt_name", "`prompt_name` must be left out: this model has no prompts")


def _write_vectors(dimensions: int | None, scale: bool, answer: Answer) -> bytes:
    vectors = rows(answer)
    if dimensions is not None:
        vectors = vectors[:, :dimensions].copy()
    return orjson.dumps(normalised(vectors) if scale else vectors, option=orjson.OPT_SERIALIZE_NUMPY)


def _write_cosines(answer: Answer) -> bytes:
    vectors = normalised(rows(answer))
    return orjson.dumps(vectors[1:] @ vectors[0], option=orjson.OPT_SERIALIZE_NUMPY)


def _object(value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise BadField(name, f'"{name}" must be {KINDS[dict]}, got {kind(value)}')
    return value
