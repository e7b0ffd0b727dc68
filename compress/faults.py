"""In words: what is wrong with settings, what was probably meant, and where two recipes differ."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault in one sentence, with the nearest key for one that does not exist."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return (
            f"{where}: {fault['msg']} (got {fault['input']!r})" if fault["type"] != "missing" else f"{where} is missing"
        )
    *parents, key = fault["loc"]
    return f"there is no key {where!r}; {nearest(str(key), fields_at(model, parents))}"


def fields_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if a is not Ellipsis]
        model = arguments[0] if arguments else annotation
    return list(model.model_fields)


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint: the known word most like `word`, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def difference(before: object, now: object, path: str = "") -> str:
    """The first place where two recipes differ, as `key.path was old, is new`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (a, b) in enumerate(zip(before, now, strict=True)):
            if a != b:
                return difference(a, b, f"{path}.{index}")
    return f"{path} was {before!r}, is {now!r}"
