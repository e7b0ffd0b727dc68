"""Operations of OpenAI's API (serve.protocols.openai)."""

from serve.openapi.operation import ASKED, READ, Operation, json
from serve.openapi.schemas import COUNT, any_of, fields, listed, model, record, texts, vector
from serve.question import Context

TAG = "OpenAI"


def operations(context: Context) -> dict[str, Operation]:
    one = record(
        {"id": {"const": context.name}, "object": {"const": "model"}, "created": COUNT, "owned_by": {"const": "bantam"}}
    )
    every = record({"object": {"const": "list"}, "data": listed(one, least=1, most=1)})
    missing = tuple(sorted((*READ, 404)))
    return {
        "/v1/embeddings": _embeddings(context),
        "/v1/models": Operation("get", "models", "The models that are served", TAG, READ, json(every), "OpenAIError"),
        "/v1/models/{model}": Operation("get", "model", "The model", TAG, missing, json(one), "OpenAIError"),
    }


def _embeddings(context: Context) -> Operation:
    usage = record({"prompt_tokens": COUNT, "total_tokens": COUNT})
    embedding = any_of(vector(context), {"type": "string", "contentEncoding": "base64"})
    one = record({"object": {"const": "embedding"}, "index": COUNT, "embedding": embedding})
    data = listed(one, least=1, most=context.max_texts)
    answer = {"object": {"const": "list"}, "data": data, "model": {"const": context.name}, "usage": usage}
    optional = {
        "model": model(context),
        "dimensions": {"enum": [context.task.outputs, None]},
        "encoding_format": {"enum": ["float", "base64", None], "default": "float"},
    }
    return Operation(
        "post",
        "embeddings",
        "One vector of length 1 a text",
        TAG,
        tuple(sorted((*ASKED, 404))),
        json(record(answer)),
        "OpenAIError",
        body=fields({"input": texts(context)}, optional),
        examples={
            "one": {"input": "a great film", "model": context.name},
            "base64": {"input": ["a great film"], "encoding_format": "base64"},
        },
        computed=True,
        refusal=None if context.task.embedding else "The model makes no embeddings.",
    )
