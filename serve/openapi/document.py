"""The document out of its tables."""

from typing import Any

from serve.info import version_here
from serve.openapi import errors, oip, openai, own, tei, vllm
from serve.openapi.operation import Operation
from serve.protocols.oip import VERSION
from serve.question import Context

REFUSED = "not for this model"  # tag of operations that the model which is loaded never answers
DESCRIPTION = """A model behind text-embeddings-inference's protocol, OpenAI's, vLLM's and the Open Inference Protocol.

A text that has more tokens than the model reads is an error unless the request asks for it to be cut; an answer about
a text that was cut says so in `x-truncated`. Fields that are not known are ignored."""
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
UNKNOWN = 401  # an operation without this status asks for no key


def _milliseconds(what: str) -> dict[str, Any]:
    return {"description": f"Milliseconds {what}", "required": True, "schema": {"type": "number", "minimum": 0}}


TIMES = {
    "x-total-time": _milliseconds("in the service"),
    "x-tokenization-time": _milliseconds("of turning texts into tokens"),
    "x-queue-time": _milliseconds("from admission to the start of the model's run"),
    "x-inference-time": _milliseconds("in the model"),
    "x-compute-tokens": {"description": "Tokens read", "required": True, "schema": {"type": "integer", "minimum": 0}},
    "x-truncated": {"description": "There if a text was cut to the model's length", "schema": {"const": "true"}},
}
DEADLINE = {
    "type": "integer",
    "minimum": 1,
    "maximum": 999_999_999,
    "description": "Milliseconds in which the model must begin; after that 503. The service has a limit of its own",
}


def document(context: Context, *, keyed: bool) -> dict[str, Any]:
    """OpenAPI 3.1. `keyed`: the service asks for API keys."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Bantam: {context.name}",
            "version": version_here(),
            "description": DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            path: {operation.method: _operation(path, operation, context, keyed=keyed)}
            for path, operation in operations(context).items()
        },
        "components": {
            "schemas": errors.SCHEMAS,
            "responses": errors.responses(operations(context).values()),
            "securitySchemes": SCHEMES,
        },
    }


def operations(context: Context) -> dict[str, Operation]:
    """Of every path; {model} and {version} stand for those that are loaded."""
    found: dict[str, Operation] = {}
    for table in (own, tei, openai, vllm, oip):
        found |= table.operations(context)
    return found


def values(context: Context) -> dict[str, str]:
    """What a path may hold in place of its parameters."""
    return {"model": context.name, "version": VERSION}


def _operation(path: str, operation: Operation, context: Context, *, keyed: bool) -> dict[str, Any]:
    asks = keyed and UNKNOWN in operation.statuses
    never = () if keyed else (UNKNOWN,) if operation.body else (UNKNOWN, 429)  # a key's limits, where nothing is queued
    answers = {str(status): errors.reference(status, operation.error) for status in operation.statuses}
    for status in never:
        answers.pop(str(status), None)
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag] + [REFUSED] * (operation.refusal is not None),
        "parameters": _parameters(path, operation, context),
        "responses": answers if operation.refusal else {"200": _answer(operation), **answers},
        "security": [{name: []} for name in SCHEMES] if asks else [],
    }
    if operation.refusal:
        found["description"] = operation.refusal
    if operation.body is not None:
        content: dict[str, Any] = {"schema": operation.body}
        if not operation.refusal:
            content["examples"] = {name: {"value": value} for name, value in operation.examples.items()}
        found["requestBody"] = {"required": True, "content": {"application/json": content}}
    return found


def _parameters(path: str, operation: Operation, context: Context) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": [value]}}
        for name, value in values(context).items()
        if f"{{{name}}}" in path
    ]
    headers = {**operation.headers, **({"x-request-timeout-ms": DEADLINE} if operation.computed else {})}
    return found + [{"name": name, "in": "header", "schema": schema} for name, schema in headers.items()]


def _answer(operation: Operation) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in operation.content.items()}
    return {"description": operation.summary, "content": content, **({"headers": TIMES} if operation.computed else {})}
