"""The schema of text-embeddings-inference's POST /predict, as pure functions on bytes.

`inputs` is "text", ["text"] or ["left", "right"] for one answer, and [["text"], ["left", "right"], ...] for a list of
answers: a flat list of two strings is one pair, never two texts (`PredictInput`, router/src/http/types.rs). Unknown
keys are ignored, as there.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from serve.encode import Text
from serve.errors import BadJSON, EmptyInput, InputError, TooLarge
from serve.runtime import Predictions

SHAPES = "a string, a pair of strings [string, string] or a batch of these [[string], [string, string], ...]"


@dataclass(frozen=True)
class Question:
    texts: list[Text]
    single: bool  # answer with one list of scores, not with a list of lists
    truncate: bool
    raw_scores: bool


def read(body: bytes, *, max_texts: int) -> Question:
    """The question in a request's body; InputError says what is wrong with it."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadJSON(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f'the body must be an object with "inputs", got {_kind(content)}')
    if "inputs" not in content:
        raise InputError('"inputs" is missing')
    if content.get("truncation_direction", "right") not in ("right", "Right"):
        raise InputError('"truncation_direction" can only be "right" here')
    texts, single = _texts(content["inputs"], max_texts)
    return Question(texts, single, _flag(content, "truncate"), _flag(content, "raw_scores"))


def write(predictions: Predictions, labels: tuple[str, ...], *, single: bool) -> bytes:
    """The answer's body: for each text its labels with their scores, highest first."""
    answers = []
    for row in predictions.scores.tolist():
        ranked = sorted(zip(row, labels, strict=True), key=lambda pair: -pair[0])
        answers.append([{"score": score, "label": label} for score, label in ranked])
    return orjson.dumps(answers[0] if single else answers)


def _texts(inputs: Any, max_texts: int) -> tuple[list[Text], bool]:
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, list):
        raise InputError(f'"inputs" must be {SHAPES}; got {_kind(inputs)}')
    if not inputs:
        raise EmptyInput("`inputs` cannot be empty")
    if isinstance(inputs[0], str):
        return [_text(inputs, '"inputs"')], True
    if len(inputs) > max_texts:
        raise TooLarge(f"batch size {len(inputs)} > maximum allowed batch size {max_texts}")
    return [_text(item, f'"inputs"[{at}]') for at, item in enumerate(inputs)], False


def _text(item: Any, where: str) -> Text:
    if not isinstance(item, list) or not 1 <= len(item) <= 2:
        got = f"{len(item)} items" if isinstance(item, list) else _kind(item)
        raise InputError(f"{where} must be one string or a pair in a list, got {got}; inputs are {SHAPES}")
    for part in item:
        if not isinstance(part, str):
            raise InputError(f"{where} must hold strings, got {_kind(part)}")
    return item[0] if len(item) == 1 else (item[0], item[1])


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InputError(f'"{name}" must be true or false, got {_kind(value)}')
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")
