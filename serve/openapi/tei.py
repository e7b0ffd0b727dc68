"""Operations of text-embeddings-inference's protocol (serve.protocols.tei)."""

from typing import Any

from serve.encode import WordPieces
from serve.openapi.operation import ASKED, Operation, Schema, json
from serve.openapi.schemas import (
    ANY_TEXT,
    COUNT,
    FLAG,
    FLAG_ON,
    NOTHING,
    NUMBER,
    PAIR,
    RIGHT,
    TEXT,
    TOKEN_ID,
    any_of,
    fields,
    label,
    listed,
    record,
    texts,
    vector,
)
from serve.protocols.tei_tokens import LETTERS
from serve.question import Context

TAG = "text-embeddings-inference"
STATUSES = tuple(sorted((*ASKED, 422, 424)))
CUT = {"truncate": FLAG, "truncation_direction": RIGHT}
SCORED = {**CUT, "raw_scores": FLAG}
NO_VECTORS, NO_IDS = "The model makes no embeddings.", "The model reads n-grams of words: there are no token ids."


def operations(context: Context) -> dict[str, Operation]:
    vectors = None if context.task.embedding else NO_VECTORS
    ids = None if isinstance(context.encoder, WordPieces) else NO_IDS
    return {
        "/predict": _predict(context),
        "/rerank": _rerank(context),
        "/embed": _post("embed", "One vector a text", _embed(context), listed(vector(context, least=1)), _ONE, vectors),
        "/similarity": _post(
            "similarity",
            "The cosine of one text and each of others",
            _similarity(context),
            listed(NUMBER, least=1, most=context.max_texts - 1),
            {"two": {"inputs": {"source_sentence": "a great film", "sentences": ["a fine movie", "it rained"]}}},
            vectors,
        ),
        "/tokenize": _post("tokenize", "The tokens of texts", _tokenize(context), _TOKENS, _ONE, ids, computed=False),
        "/decode": _post(
            "decode",
            "The texts of token ids",
            fields({"ids": _ids(context)}, {"skip_special_tokens": FLAG_ON}),
            listed(ANY_TEXT, least=1, most=context.max_texts),
            {"one": {"ids": [0, 1]}},
            ids,
            computed=False,
        ),
    }


_ONE = {"one": {"inputs": "a great film"}}
_TOKENS = listed(
    listed(
        record(
            {
                "id": TOKEN_ID,
                "text": ANY_TEXT,
                "special": {"type": "boolean"},
                "start": {"type": ["integer", "null"], "minimum": 0, "description": "In bytes of UTF-8"},
                "stop": {"type": ["integer", "null"], "minimum": 0},
            }
        )
    ),
    least=1,
)


def _post(
    name: str,
    summary: str,
    body: Schema,
    answer: Schema,
    examples: dict[str, Any],
    refusal: str | None,
    *,
    computed: bool = True,
) -> Operation:
    return Operation(
        "post",
        name,
        summary,
        TAG,
        STATUSES,
        json(answer),
        body=body,
        examples=examples,
        computed=computed,
        refusal=refusal,
    )


def _predict(context: Context) -> Operation:
    task = context.task
    one = listed(record({"score": NUMBER, "label": label(context)}), least=len(task.labels), most=len(task.labels))
    if task.inputs == 2:
        inputs = any_of(PAIR, listed(PAIR, least=1, most=context.max_texts))
        examples = {
            "pair": ["a great film", "it was good"],
            "batch": [["a great film", "it was good"], ["good", "bad"]],
        }
    else:
        lone = listed(TEXT, least=1, most=1)
        inputs = any_of(TEXT, lone, listed(lone, least=1, most=context.max_texts))
        examples = {"one": "a great film", "batch": [["a great film"], ["a dull film"]]}
    return _post(
        "predict",
        "Labels with their scores, highest first",
        fields({"inputs": inputs}, SCORED),
        any_of(one, listed(one, least=1, most=context.max_texts)),
        {name: {"inputs": inputs} for name, inputs in examples.items() if name != "batch" or context.max_texts > 1},
        "The model is not a classifier." if task.kind == "embedding" else None,
    )


def _rerank(context: Context) -> Operation:
    """A pair of which neither part says anything is refused; so either the query says something, or every text."""
    plain = listed(ANY_TEXT, least=1, most=context.max_texts)
    body = fields({"query": ANY_TEXT, "texts": plain}, {**SCORED, "return_text": FLAG})
    body |= any_of({"properties": {"query": TEXT}}, {"properties": {"texts": {"items": TEXT}}})
    ranked = record({"index": COUNT, "text": ANY_TEXT, "score": NUMBER}, optional=("text",))
    ranks = context.task.kind == "regression" and context.task.inputs == 2
    return _post(
        "rerank",
        "Texts by how well they suit a query, best first",
        body,
        listed(ranked, least=1, most=context.max_texts),
        {"two": {"query": "a great film", "texts": ["a fine movie", "it rained"][: context.max_texts]}},
        None if ranks else "The model does not score pairs of texts.",
    )


def _embed(context: Context) -> Schema:
    size = {"type": ["integer", "null"], "minimum": 1, "maximum": max(1, context.task.outputs)}
    more = {**CUT, "prompt_name": NOTHING, "dimensions": size, "normalize": FLAG_ON}
    return fields({"inputs": texts(context)}, more)


def _similarity(context: Context) -> Schema:
    others = listed(TEXT, least=1, most=context.max_texts - 1)
    parameters = {"type": ["object", "null"], "properties": {**CUT, "prompt_name": NOTHING}}
    return fields({"inputs": fields({"source_sentence": TEXT, "sentences": others}, {})}, {"parameters": parameters})


def _tokenize(context: Context) -> Schema:
    text = {"type": "string", "maxLength": context.max_length * LETTERS}
    inputs = any_of(text, listed(text, least=1, most=context.max_texts))
    return fields({"inputs": inputs}, {"add_special_tokens": FLAG_ON, "prompt_name": NOTHING})


def _ids(context: Context) -> Schema:
    return any_of(listed(TOKEN_ID, least=1), listed(listed(TOKEN_ID), least=1, most=context.max_texts))
