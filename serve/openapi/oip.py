"""Operations of the Open Inference Protocol, version 2 (serve.protocols.oip)."""

from typing import Any

from serve.openapi.operation import ASKED, HTTP, READ, Operation, Schema, json
from serve.openapi.schemas import ANY_TEXT, COUNT, FLAG, NUMBER, TEXT, any_of, fields, label, listed, record
from serve.protocols.oip import EXTENSIONS, VERSION
from serve.question import Context

TAG = "Open Inference Protocol"
ERROR = "OIPError"
BOTH = ("", "/versions/{version}")
# What a server must say it cannot do, rather than ignore.
ELSEWHERE = {"shared_memory_region": False}


def operations(context: Context) -> dict[str, Operation]:
    live = record({"live": {"const": True}})
    ready = record({"ready": {"const": True}})
    server = record({"name": ANY_TEXT, "version": ANY_TEXT, "extensions": {"const": EXTENSIONS}})
    found = {
        "/v2": _get("server", "What this server is", server, READ),
        "/v2/health/live": _get("serverLive", "The server runs", live, HTTP),
        "/v2/health/ready": _get("serverReady", "The server takes requests", ready, HTTP),
    }
    missing = tuple(sorted((*READ, 404)))
    loaded = record({"name": {"const": context.name}, "ready": {"const": True}})
    for versioned in BOTH:
        path, end = "/v2/models/{model}" + versioned, "OfVersion" if versioned else ""
        found[path] = _get(f"modelMetadata{end}", "Inputs and outputs of the model", _described(context), missing)
        found[f"{path}/ready"] = _get(f"modelReady{end}", "The model takes requests", loaded, missing)
        found[f"{path}/infer"] = _infer(f"modelInfer{end}", context)
    return found


def _get(name: str, summary: str, answer: Schema, statuses: tuple[int, ...]) -> Operation:
    return Operation("get", name, summary, TAG, statuses, json(answer), ERROR)


def _described(context: Context) -> Schema:
    names = {"enum": [*_inputs(context), *_outputs(context)]}
    whole = {"type": "integer", "minimum": -1}
    tensor = record({"name": names, "datatype": {"enum": ["BYTES", "FP32"]}, "shape": listed(whole, least=1, most=2)})
    return record(
        {
            "name": {"const": context.name},
            "versions": {"const": [VERSION]},
            "platform": ANY_TEXT,
            "inputs": listed(tensor, least=len(_inputs(context)), most=len(_inputs(context))),
            "outputs": listed(tensor, least=len(_outputs(context)), most=len(_outputs(context))),
        }
    )


def _infer(name: str, context: Context) -> Operation:
    count, names = len(_inputs(context)), {"enum": list(_outputs(context))}
    wanted = fields({"name": names}, {"parameters": _parameters({"binary_data": FLAG, "classification": False})})
    outputs = {"type": ["array", "null"], "items": wanted, "maxItems": len(_outputs(context))}
    inputs = listed(_tensor(context), least=count, most=count)
    inputs["allOf"] = [{"contains": {"properties": {"name": {"const": one}}}} for one in _inputs(context)]
    known = {"truncate": FLAG, "raw_scores": FLAG, "binary_data_output": FLAG}
    optional = {
        "id": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"], "properties": known},
        "outputs": outputs,
    }
    return Operation(
        "post",
        name,
        "Scores of texts, or their vectors; also as binary tensors, with `Inference-Header-Content-Length`",
        TAG,
        tuple(sorted((*ASKED, 404))),
        {**json(_answer(context)), "application/octet-stream": {}},
        ERROR,
        body=fields({"inputs": inputs}, optional),
        examples={"one": {"inputs": [_example(one) for one in _inputs(context)]}},
        computed=True,
    )


def _tensor(context: Context) -> Schema:
    """A tensor of texts; of a pair one part may be blank."""
    text = TEXT if context.task.inputs == 1 else ANY_TEXT
    most = context.max_texts
    size = {"type": "integer", "minimum": 1, "maximum": most}
    flat = {"type": "array", "items": size, "minItems": 1, "maxItems": 1}
    column = {"type": "array", "prefixItems": [size, {"const": 1}], "items": False, "minItems": 2}
    needed: dict[str, Any] = {
        "name": {"enum": list(_inputs(context))},
        "datatype": {"const": "BYTES"},
        "shape": any_of(flat, column),
        "data": any_of(listed(text, least=1, most=most), listed(listed(text, least=1, most=1), least=1, most=most)),
    }
    return fields(needed, {"parameters": _parameters({"binary_data_size": {"type": "null"}})})


def _parameters(properties: dict[str, Any]) -> Schema:
    return {"type": ["object", "null"], "properties": {**properties, **ELSEWHERE}}


def _answer(context: Context) -> Schema:
    data = any_of(listed(NUMBER), listed(label(context))) if context.task.labels else listed(NUMBER)
    size = record({"binary_data_size": COUNT})
    tensor = {
        "name": {"enum": list(_outputs(context))},
        "datatype": {"enum": ["BYTES", "FP32"]},
        "shape": listed(COUNT, least=1, most=2),
        "data": data,
        "parameters": size,
    }
    outputs = listed(record(tensor, optional=("data", "parameters")), least=1, most=len(_outputs(context)))
    answer = {"model_name": {"const": context.name}, "model_version": {"const": VERSION}, "id": ANY_TEXT}
    return record({**answer, "outputs": outputs}, optional=("id",))


def _example(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": ["a great film"]}


def _inputs(context: Context) -> tuple[str, ...]:
    return ("text", "text_pair")[: context.task.inputs]


def _outputs(context: Context) -> tuple[str, ...]:
    if context.task.embedding is not None:
        return ("embedding",)
    return ("scores", "label") if context.task.kind == "classification" else ("scores",)
