"""Operations that say how the service is, and of what it is made (serve.pages)."""

from serve.openapi.operation import HTTP, READ, Operation, Schema, json
from serve.openapi.schemas import ANY_TEXT, COUNT, listed
from serve.question import Context

TAG = "service"
NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}


def operations(context: Context) -> dict[str, Operation]:
    ready = {"health": "/health", "readyz": "/readyz", "healthz": "/healthz"}
    found = {path: _get(name, "The service takes requests", {"text/plain": EMPTY}) for name, path in ready.items()}
    found["/livez"] = _get("livez", "The process need not be restarted", {"text/plain": EMPTY})
    found["/info"] = _get("info", "What is loaded, on what it runs, and why there", json(_info(context)), READ)
    found["/metrics"] = _get("metrics", "Prometheus' text format", {"text/plain": ANY_TEXT}, READ)
    found["/openapi.json"] = _get("openapi", "This document", json({"type": "object"}))
    found["/"] = _get("page", "A page on which a person asks the model", {"text/html": ANY_TEXT})
    found["/page/style.css"] = _get("pageStyle", "How that page looks", {"text/css": ANY_TEXT})
    found["/page/script.js"] = _get("pageScript", "What that page does", {"text/javascript": ANY_TEXT})
    return found


EMPTY = {"type": "string", "maxLength": 0}


def _get(name: str, summary: str, content: dict[str, Schema], statuses: tuple[int, ...] = HTTP) -> Operation:
    return Operation("get", name, summary, TAG, statuses, content)


def _info(context: Context) -> Schema:
    """With more than is listed here."""
    properties = {
        "model_id": {"const": context.name},
        "model_sha": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "model_dtype": ANY_TEXT,
        "model_type": {"type": "object", "minProperties": 1, "maxProperties": 1},
        "max_concurrent_requests": COUNT,
        "max_input_length": {"const": context.max_length},
        "max_client_batch_size": {"const": context.max_texts},
        "max_batch_tokens": COUNT,
        "max_queued_tokens": COUNT,
        "auto_truncate": {"const": False},
        "version": ANY_TEXT,
        "task": {
            "type": "object",
            "required": ["kind", "inputs", "labels"],
            "properties": {"kind": {"const": context.task.kind}, "labels": listed(ANY_TEXT)},
        },
        "model": ANY_TEXT,
        "method": ANY_TEXT,
        "batch": COUNT,
        "runtime": ANY_TEXT,
        "rates": {"type": "object", "additionalProperties": NUMBERS},
        "declined": {"type": "object", "additionalProperties": ANY_TEXT},
        "tokenizer": ANY_TEXT,
        "batching": {"type": ["object", "null"]},
        "device": ANY_TEXT,
        "instruction_set": listed(ANY_TEXT),
        "engine_path": {"type": ["string", "null"]},
        "threads": COUNT,
        "parallel": COUNT,
        "workers": COUNT,
        "files": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    }
    return {"type": "object", "required": list(properties), "properties": properties}
