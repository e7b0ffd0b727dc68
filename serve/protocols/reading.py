"""What every protocol asks of a body: that it is a JSON object whose fields are what they must be.

Of a key that stands twice the last counts, as orjson has it. orjson refuses what JSON lacks (NaN, infinities, numbers
that no double holds), broken UTF-8, halves of surrogate pairs and nesting deeper than 1024.
"""

from typing import Any

import orjson

from serve.encode import Text
from serve.errors import BadField, BadJSON, EmptyInput, InputError, TooLarge, UnknownModel
from serve.protocols.tokens import text_of
from serve.question import Context

TEXTS = "a string, a list of strings, a list of token ids or a list of lists of token ids"
SHOWN = 100  # letters of a caller's own word that an error repeats
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def asked(body: bytes, needed: str) -> dict[str, Any]:
    """The object in a body, which has a field `needed`."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadJSON(f"the body is not JSON: {error}") from None
    if type(content) is not dict:
        raise InputError(f'the body must be an object with "{needed}", got {kind(content)}')
    if needed not in content:
        raise BadField(needed, f'"{needed}" is missing')
    return content


def kind(value: Any) -> str:
    """What a value of JSON is, for an error."""
    return KINDS[type(value)]


def flag(content: dict[str, Any], name: str, *, default: bool = False) -> bool:
    """A field that is true or false; null and nothing are the default."""
    value = content.get(name)
    if value is None:
        return default
    if value is not True and value is not False:
        raise BadField(name, f'"{name}" must be true or false, got {kind(value)}')
    return value is True


def string(content: dict[str, Any], name: str) -> str | None:
    """A field that is a string, null or nothing."""
    value = content.get(name)
    if value is not None and type(value) is not str:
        raise BadField(name, f'"{name}" must be a string, got {kind(value)}')
    return value


def whole(content: dict[str, Any], name: str) -> int | None:
    """A field that is a whole number, null or nothing."""
    value = content.get(name)
    if value is not None and type(value) is not int:
        raise BadField(name, f'"{name}" must be a whole number, got {kind(value)}')
    return value


def strings(value: Any, name: str, context: Context, *, beside: int = 0) -> list[str]:
    """A list of strings that is neither empty nor, with `beside` texts more, too long."""
    if type(value) is not list:
        raise BadField(name, f'"{name}" must be a list of strings, got {kind(value)}')
    if not value:
        raise EmptyInput(f"`{name}` cannot be empty")
    check_batch(len(value) + beside, context)
    for at, item in enumerate(value):
        if type(item) is not str:
            raise BadField(name, f'"{name}"[{at}] must be a string, got {kind(item)}')
    return value


def texts(value: Any, name: str, context: Context) -> list[Text]:
    """Single texts, given as strings or as the token ids of the model's own tokenizer."""
    if type(value) is str:
        return [value]
    if type(value) is not list:
        raise BadField(name, f'"{name}" must be {TEXTS}; got {kind(value)}')
    if not value:
        raise EmptyInput(f"`{name}` cannot be empty")
    if type(value[0]) is int:
        return [text_of(value, name, context.encoder)]
    check_batch(len(value), context)
    if set(map(type, value)) == {str}:
        return value
    found: list[Text] = []
    for at, item in enumerate(value):
        if type(item) is not str and type(item) is not list:
            raise BadField(name, f'"{name}"[{at}] must be a string or a list of token ids, got {kind(item)}')
        found.append(item if type(item) is str else text_of(item, f"{name}[{at}]", context.encoder))
    return found


def check_batch(size: int, context: Context) -> None:
    """TooLarge where a request holds more texts than one may."""
    if size > context.max_texts:
        raise TooLarge(f"batch size {size} > maximum allowed batch size {context.max_texts}")


def check_model(content: dict[str, Any], context: Context) -> None:
    """UnknownModel unless the field `model` names the one that is loaded, or nothing."""
    name = string(content, "model")
    if name is not None and name != context.name:
        raise UnknownModel(f"The model `{name[:SHOWN]}` does not exist; this is `{context.name}`")
