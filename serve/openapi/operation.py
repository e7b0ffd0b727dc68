"""One operation of the document, as the tables of the protocols tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

HTTP = (400, 405, 408, 431, 500, 503)  # what any path may answer
READ = (400, 401, 405, 408, 429, 431, 500, 503)
ASKED = (400, 401, 405, 408, 413, 415, 429, 431, 500, 503)  # a path that takes a body


@dataclass(frozen=True)
class Operation:
    method: str  # "get" or "post"
    name: str  # operationId
    summary: str
    tag: str
    statuses: tuple[int, ...]  # of errors
    content: Mapping[str, Schema] = field(default_factory=dict)  # of a 200, by media type
    error: str = "Error"  # name of the protocol's schema of errors
    body: Schema | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)  # of bodies, by name
    computed: bool = False  # by the model: has a deadline, and headers on where its time went
    headers: Mapping[str, Schema] = field(default_factory=dict)  # more parameters
    refusal: str | None = None  # why the model that is loaded never answers it


def json(schema: Schema) -> dict[str, Schema]:
    return {"application/json": schema}
