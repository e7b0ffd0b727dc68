"""text-embeddings-inference's /tokenize and /decode: answered at once, as no model has to run.

Places of tokens are in bytes of UTF-8, as there, whatever the language of the client counts in.
"""

from typing import Any

import orjson

from serve.errors import BadField, EmptyInput
from serve.protocols.reading import asked, check_batch, flag, kind, strings
from serve.protocols.tei_vectors import check_no_prompt
from serve.protocols.tokens import check_ids, tokens, word_pieces
from serve.question import Context, Headers

LETTERS = 250  # that a text may have for each token of the longest text which the model reads


def tokenize(body: bytes, context: Context, headers: Headers) -> bytes:
    """The tokens of each text, which may have more than the model reads."""
    content = asked(body, "inputs")
    inputs = content["inputs"]
    found = [inputs] if type(inputs) is str else strings(inputs, "inputs", context)
    specials = flag(content, "add_special_tokens", default=True)
    check_no_prompt(content)
    encoder = word_pieces(context.encoder)
    limit = context.max_length * LETTERS
    for text in found:
        if len(text) > limit:
            raise BadField("inputs", f"`inputs` must have less than {limit} characters. Given: {len(text)}")
    return orjson.dumps([[token._asdict() for token in tokens(encoder, text, specials=specials)] for text in found])


def decode(body: bytes, context: Context, headers: Headers) -> bytes:
    """The text of each list of token ids."""
    content = asked(body, "ids")
    found = _lists(content["ids"], context)
    skip = flag(content, "skip_special_tokens", default=True)
    encoder = word_pieces(context.encoder)
    return orjson.dumps([encoder.decode(ids, specials=not skip) for ids in found])


def _lists(ids: Any, context: Context) -> list[list[int]]:
    if type(ids) is not list:
        raise BadField("ids", f'"ids" must be a list of token ids or a list of such lists, got {kind(ids)}')
    if not ids:
        raise EmptyInput("`ids` cannot be empty")
    lists = ids if type(ids[0]) is list else [ids]
    check_batch(len(lists), context)
    for at, one in enumerate(lists):
        if type(one) is not list:
            raise BadField("ids", f'"ids"[{at}] must be a list of token ids, got {kind(one)}')
        check_ids(one, "ids" if lists is not ids else f"ids[{at}]")
    return lists
