"""The operation of vLLM's API (serve.protocols.vllm)."""

from serve.openapi.operation import ASKED, Operation, json
from serve.openapi.schemas import ANY_TEXT, COUNT, FLAG_ON, NUMBER, fields, label, listed, model, record, texts
from serve.question import Context


def operations(context: Context) -> dict[str, Operation]:
    return {
        "/classify": Operation(
            "post",
            "classify",
            "The likeliest label of each text, and the probability of every one",
            "vLLM",
            tuple(sorted((*ASKED, 404))),
            json(_answer(context)),
            "VLLMError",
            body=fields(
                {"input": texts(context)},
                {
                    "model": model(context),
                    "use_activation": FLAG_ON,
                    "add_special_tokens": {"enum": [True, None], "default": True},
                    "truncate_prompt_tokens": {"enum": [-1, context.max_length, None]},
                    "truncation_side": {"enum": ["right", None]},
                },
            ),
            examples={"one": {"input": "a great film"}, "cut": {"input": ["a film"], "truncate_prompt_tokens": -1}},
            computed=True,
            headers={"x-request-id": {"type": "string", "description": "Comes back in `id`"}},
            refusal=_refusal(context),
        )
    }


def _refusal(context: Context) -> str | None:
    if context.task.kind == "embedding":
        return "The model is not a classifier."
    return "The model takes pairs, and this protocol has none." if context.task.inputs == 2 else None


def _answer(context: Context) -> dict[str, object]:
    size = len(context.task.labels)
    one = {
        "index": COUNT,
        "label": label(context),
        "probs": listed(NUMBER, least=size, most=size),
        "num_classes": {"const": size},
    }
    return record(
        {
            "id": {**ANY_TEXT, "pattern": "^classify-"},
            "object": {"const": "list"},
            "created": COUNT,
            "model": {"const": context.name},
            "data": listed(record(one), least=1, most=context.max_texts),
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT, "completion_tokens": {"const": 0}}),
        }
    )
