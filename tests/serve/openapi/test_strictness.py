"""Schemas of requests against the code: whatever one takes, the other takes.

Left out is what JSON Schema cannot say: that token ids are those of the model's tokenizer, how many tokens a text has
(no text here is long), and that a tensor has as many elements as its shape says, and its pair as many as it.
"""

from random import Random
from typing import Any

import orjson
import pytest

from serve.app import App
from serve.encode import check_inputs
from serve.errors import BantamError
from serve.openapi.document import operations
from serve.openapi.operation import Operation
from serve.question import Question
from tests.serve.openapi.conftest import KINDS, described, validator

# Words of errors about what no schema says.
BEYOND = ("as this model's tokenizer gives them", "by its shape", "they must be equal", "at most 24 tokens")
LEAVES = [None, True, False, 0, 1, -1, 2, 5, 6, 16, 17, 24, 1.5, -2.5, 2**32 - 1, 2**32, "", " ", "\t\n", "a", "good"]
WORDS = ["right", "Right", "left", "float", "base64", "int8", "Tiny Model", "BYTES", "FP32", "text", "text_pair"]
WORDS += ["scores", "label", "embedding"]
USUAL = [None, True, False, "right"]  # what most fields that may be left out take


def keys(schema: Any) -> set[str]:
    """Every field that a schema knows, at any depth."""
    if isinstance(schema, list | tuple):
        return set().union(*map(keys, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})) | set().union(set(), *map(keys, schema.values()))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of a value and of all that is in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with `new` at a place."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: put(value.get(key), tuple(rest), new)}
    return [put(one, tuple(rest), new) if at == key else one for at, one in enumerate(value)]


def value(random: Random, known: list[str], depth: int = 0) -> Any:
    """Something of JSON."""
    kind = random.random()
    if kind < 0.6 or depth > 2:
        return random.choice([*LEAVES, *WORDS, *USUAL])
    size = random.randint(0, 7)
    if kind < 0.9:
        one = value(random, known, depth + 1)
        return [one if random.random() < 0.8 else value(random, known, depth + 1) for _ in range(size)]
    return {random.choice(known): value(random, known, depth + 1) for _ in range(size)}


def body(random: Random, examples: list[Any], known: list[str]) -> Any:
    """An example with something else in a few of its places, or with fields that it lacks."""
    made = random.choice(examples)
    for _ in range(random.randint(0, 3)):
        place = random.choice(places(made))
        at = made
        for key in place:
            at = at[key]
        if isinstance(at, dict):  # a field more, or another value of one
            place = (*place, random.choice(known))
            new = random.choice(USUAL) if random.random() < 0.6 else value(random, known)
        elif isinstance(at, list) and random.random() < 0.5:
            new = at * random.randint(1, 7)
        else:
            new = value(random, known)
        made = put(made, place, new)
    return made


def verdict(app: App, route: Any, body: Any) -> str | None:
    """Why the code does not take a body; None where it does."""
    try:
        asked = route.read(orjson.dumps(body), app.context, {})
        if isinstance(asked, Question):
            check_inputs(asked.texts, app.context.task.inputs)
            app.context.encoder.encode(asked.texts, truncate=asked.truncate)
    except BantamError as error:
        return str(error)
    return None


def agreement(app: App, path: str, operation: Operation) -> list[bool]:
    """Whether each of many bodies was taken, having seen that the schema says the same."""
    route = app._routes[path.replace("{model}", app.context.name).replace("{version}", "1")]
    checked = validator(described(app), operation.body)
    random, known = Random(path), sorted({*keys(operation.body), "other"})
    taken: list[bool] = []
    for _ in range(300):
        tried = body(random, list(operation.examples.values()), known)
        why = verdict(app, route, tried)
        if why is None or not any(words in why for words in BEYOND):
            assert checked.is_valid(tried) == (why is None), (path, tried, why)
            taken.append(why is None)
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_suits_its_schema_if_and_only_if_the_code_takes_it(apps: dict[str, App], kind: str) -> None:
    paths = 0
    for path, operation in operations(apps[kind].context).items():
        if operation.body is not None and not operation.refusal:
            taken = agreement(apps[kind], path, operation)
            assert sum(taken) >= 30 and len(taken) - sum(taken) >= 100, (path, sum(taken), len(taken))
            paths += 1
    assert paths == {"classes": 6, "pairs": 5, "value": 6, "vectors": 7}[kind]
