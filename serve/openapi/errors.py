"""What errors look like: each protocol's own shape, and statuses in words."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from serve.openapi.operation import Operation
from serve.openapi.schemas import ANY_TEXT, Made, any_of, record
from serve.telemetry.catalogue import ERROR_TYPES

FROM_CONNECTION = (408, 431)  # before anything knows which protocol is spoken: serve.http.connection
FROM_BOTH = (400, 503)
WHY = {
    400: "The body is not what this path takes, or is not JSON",
    401: "No API key, or one that is not known",
    404: "There is no such model",
    405: "The path takes another method",
    408: "The request was not complete in time",
    413: "The body or the batch is over its limit",
    415: "The body does not claim to be JSON, or is compressed",
    422: "A field is wrong, or a text has more tokens than the model reads and must not be cut",
    424: "The model or its runtime cannot do this",
    429: "The queue is full, or the key asks too often; come again after `Retry-After` seconds",
    431: "The head of the request is over its limit",
    500: "Something broke; the service's log has the details",
    503: "The model is not ready, the request's deadline passed before its turn, or too many connections are open",
}
_FIELDS: Made = {"message": ANY_TEXT, "type": ANY_TEXT, "param": {"type": ["string", "null"]}}
SCHEMAS: dict[str, Made] = {
    "Error": record({"error": ANY_TEXT, "error_type": {"enum": [word for word in ERROR_TYPES if word != "other"]}}),
    "OpenAIError": record({"error": record({**_FIELDS, "code": {"type": ["string", "null"]}})}),
    "VLLMError": record({"error": record({**_FIELDS, "code": {"type": "integer"}})}),
    "OIPError": record({"error": ANY_TEXT}),
}
EXAMPLES: dict[str, Any] = {
    "Error": {"error": '"inputs" is missing', "error_type": "Validation"},
    "OpenAIError": {
        "error": {"message": '"input" is missing', "type": "invalid_request_error", "param": "input", "code": None}
    },
    "VLLMError": {"error": {"message": '"input" is missing', "type": "BadRequestError", "param": "input", "code": 400}},
    "OIPError": {"error": '"inputs" is missing'},
}
WAIT: Made = {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}
CHALLENGE: Made = {"required": True, "schema": {"const": "Bearer"}}
ALLOW: Made = {"description": "Methods that the path takes", "required": True, "schema": ANY_TEXT}


def reference(status: int, error: str) -> dict[str, str]:
    """Where `responses` has that one."""
    return {"$ref": f"#/components/responses/{error}{status}"}


def responses(operations: Iterable[Operation]) -> dict[str, Any]:
    """All the errors of operations."""
    found = sorted({(each.error, status) for each in operations for status in each.statuses})
    return {f"{error}{status}": _response(status, error) for error, status in found}


def _response(status: int, error: str) -> dict[str, Any]:
    own, common = {"$ref": f"#/components/schemas/{error}"}, {"$ref": "#/components/schemas/Error"}
    schema = common if status in FROM_CONNECTION else own
    if status in FROM_BOTH and error != "Error":
        schema = any_of(own, common)
    content: dict[str, Any] = {"schema": schema}
    if status == 400:
        content["example"] = EXAMPLES[error]
    found = {"description": f"{HTTPStatus(status).phrase}: {WHY[status]}", "content": {"application/json": content}}
    if status in (429, 503):
        found["headers"] = {"Retry-After": WAIT}
    if status == 401:
        found["headers"] = {"WWW-Authenticate": CHALLENGE}
    if status == 405:
        found["headers"] = {"Allow": ALLOW}
    return found
