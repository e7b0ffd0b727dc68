"""Pieces of JSON Schema (2020-12, as OpenAPI 3.1 has it) for what protocols read and write."""

from typing import Any

from serve.encode import WordPieces
from serve.question import Context

Made = dict[str, Any]

TEXT: Made = {"type": "string", "pattern": "\\S"}  # not blank
ANY_TEXT: Made = {"type": "string"}
PAIR: Made = {"type": "array", "items": ANY_TEXT, "minItems": 2, "maxItems": 2, "contains": TEXT}
NOTHING: Made = {"type": "null"}  # a field that may be left out or null, and cannot be used
FLAG: Made = {"type": ["boolean", "null"], "default": False}
FLAG_ON: Made = {"type": ["boolean", "null"], "default": True}
NUMBER: Made = {"type": "number"}
COUNT: Made = {"type": "integer", "minimum": 0}
TOKEN_ID: Made = {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}
RIGHT: Made = {"enum": ["right", "Right"], "default": "right"}  # texts lose their last words only


def fields(needed: dict[str, Any], optional: dict[str, Any]) -> Made:
    """An object of a request: fields that are not known are ignored."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **optional}}


def record(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> Made:
    """An object of an answer: with just these fields."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def listed(items: Any, *, least: int = 0, most: int | None = None) -> Made:
    found: Made = {"type": "array", "items": items, "minItems": least}
    return found if most is None else {**found, "maxItems": most}


def any_of(*schemas: Any) -> Made:
    return {"anyOf": list(schemas)}


def texts(context: Context) -> Made:
    """What serve.protocols.reading.texts takes: texts, or token ids of the model's own tokenizer."""
    most = context.max_texts
    if not isinstance(context.encoder, WordPieces):
        return any_of(TEXT, listed(TEXT, least=1, most=most))
    ids = listed(TOKEN_ID, least=1)
    return any_of(TEXT, listed(any_of(TEXT, ids), least=1, most=most), ids)


def model(context: Context) -> Made:
    """The field `model` of a request."""
    return {"enum": [context.name, None]}


def label(context: Context) -> Made:
    return {"enum": list(context.task.labels)}


def vector(context: Context, *, least: int | None = None) -> Made:
    """An embedding; with `least` numbers where a caller may ask for fewer."""
    size = context.task.outputs
    return listed(NUMBER, least=size if least is None else least, most=size)
