"""The Open Inference Protocol, version 2 (KServe, Triton), with its extension of binary tensors.

A text is an element of the BYTES input "text", of a pair also of "text_pair"; shape [n] or [n, 1]. Outputs are
"scores" (FP32, [n, labels]) and, of a classification, "label" (BYTES, [n]); of an embedding "embedding" (FP32,
[n, size]). The parameters `truncate` and `raw_scores` are text-embeddings-inference's. An artefact is its version 1.
"""

from functools import partial
from typing import Any

import orjson

from serve.encode import Text
from serve.errors import BadField, BantamError, NotFound, UnknownModel
from serve.info import version_here
from serve.protocols import tensors
from serve.protocols.reading import SHOWN, asked, flag, kind, string
from serve.protocols.refusals import status
from serve.protocols.vectors import rows
from serve.question import Answer, Context, Headers, Question, Route, Written

VERSION = "1"
EXTENSIONS = ["binary_tensor_data"]
LENGTH = b"inference-header-content-length"  # bytes of the JSON, where tensors follow it


def routes(context: Context) -> dict[str, Route]:
    """Of the server, of the model and of its one version."""
    name = context.name
    found = {
        "/v2": _page({"name": "bantam", "version": version_here(), "extensions": EXTENSIONS}),
        "/v2/health/live": _page({"live": True}),
        "/v2/health/ready": _page({"ready": True}, warm=True),
        "/v2/models/": Route("*", _no_model, failure, warm=False, untyped=True),
        "/v2/": Route("*", _no_path, failure, warm=False, untyped=True),
    }
    for model in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{VERSION}"):
        found[model] = _page(_described(context))
        found[f"{model}/ready"] = _page({"name": name, "ready": True}, warm=True)
        found[f"{model}/infer"] = Route("POST", infer, failure, untyped=True, name="v2_infer", asks=True)
    return found


def failure(error: BantamError) -> tuple[int, bytes]:
    """Status and body of an error."""
    return status(error), orjson.dumps({"error": str(error)})


def infer(body: bytes, context: Context, headers: Headers) -> Question:
    """Tensors of a batch of texts."""
    body, raw = tensors.parted(body, headers.get(LENGTH))
    content = asked(body, "inputs")
    request = string(content, "id")
    parameters = tensors.parameters(content, "parameters")
    found = _texts(content["inputs"], raw, context)
    wanted = _wanted(content.get("outputs"), flag(parameters, "binary_data_output"), context)
    head: dict[str, Any] = {"model_name": context.name, "model_version": VERSION}
    if request is not None:
        head["id"] = request
    write = partial(_write, head, wanted, context.task.labels)
    return Question(found, write, flag(parameters, "truncate"), flag(parameters, "raw_scores"))


def _texts(inputs: Any, raw: bytes, context: Context) -> list[Text]:
    names = ("text", "text_pair")[: context.task.inputs]
    found = tensors.read(inputs, names, raw, context)
    if len(names) == 1:
        return list(found["text"])
    lefts, rights = found["text"], found["text_pair"]
    if len(lefts) != len(rights):
        raise BadField("inputs", f'"text" has {len(lefts)} elements and "text_pair" {len(rights)}: they must be equal')
    return list(zip(lefts, rights, strict=True))


def _wanted(outputs: Any, binary: bool, context: Context) -> dict[str, bool]:
    """Names of the outputs that are asked for, and whether as raw bytes."""
    known = [tensor["name"] for tensor in _outputs(context)]
    if outputs is None or outputs == []:
        return dict.fromkeys(known, binary)
    if type(outputs) is not list:
        raise BadField("outputs", f'"outputs" must be a list, got {kind(outputs)}')
    found: dict[str, bool] = {}
    for at, output in enumerate(outputs):
        where = f"outputs[{at}]"
        name = string(tensors.checked(output, where), "name")
        if name is None or name not in known or name in found:
            got = "nothing" if name is None else f'"{name[:SHOWN]}"'
            raise BadField("outputs", f'"{where}" must name one of {known} once, got {got}')
        parameters = tensors.parameters(output, "parameters")
        if "classification" in parameters or "shared_memory_region" in parameters:
            raise BadField("outputs", f'"{where}" asks for an extension that is not here; there is {EXTENSIONS}')
        found[name] = flag(parameters, "binary_data", default=binary)
    return found


def _write(head: dict[str, Any], wanted: dict[str, bool], labels: tuple[str, ...], answer: Answer) -> Written:
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, binary in wanted.items():
        tensor = _tensor(name, labels, answer)
        if binary:
            parts.append(tensors.packed(tensor.pop("data")))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        outputs.append(tensor)
    written = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return written
    extra = [(LENGTH, b"%d" % len(written)), (b"content-type", b"application/octet-stream")]
    return b"".join([written, *parts]), extra


def _tensor(name: str, labels: tuple[str, ...], answer: Answer) -> dict[str, Any]:
    if name == "label":
        words = [labels[best] for best in answer.values.argmax(1).tolist()]
        return {"name": name, "datatype": "BYTES", "shape": [len(words)], "data": words}
    values = rows(answer)
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.reshape(-1)}


def _described(context: Context) -> dict[str, Any]:
    names = ("text", "text_pair")[: context.task.inputs]
    return {
        "name": context.name,
        "versions": [VERSION],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
        "outputs": _outputs(context),
    }


def _outputs(context: Context) -> list[dict[str, Any]]:
    if context.task.embedding is not None:
        return [{"name": "embedding", "datatype": "FP32", "shape": [-1, context.task.embedding.size]}]
    scores = {"name": "scores", "datatype": "FP32", "shape": [-1, len(context.task.labels)]}
    label = {"name": "label", "datatype": "BYTES", "shape": [-1]}
    return [scores, label] if context.task.kind == "classification" else [scores]


def _page(content: dict[str, Any], *, warm: bool = False) -> Route:
    body = orjson.dumps(content)
    return Route("GET", lambda *_: body, failure, warm=warm)


def _no_model(body: bytes, context: Context, headers: Headers) -> bytes:
    raise UnknownModel(f"There is no such model, version or action; this is {context.name!r}, version {VERSION}")


def _no_path(body: bytes, context: Context, headers: Headers) -> bytes:
    raise NotFound("There is no such path; try GET /v2 or POST /v2/models/{name}/infer")
