"""What callers see of tokens, against `tokenizers` with nothing cut."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from serve.errors import BadField, BantamError, EmptyInput, TooLarge, WrongTask
from serve.ngram.encode import NGrams
from serve.protocols.paths import routes
from serve.question import Context
from tests.serve.protocols.conftest import WORDS, ask, whole_tokenizer

Contexts = Callable[[str], Context]
TEXTS = [
    "good",
    "",
    "the film isn't bad!",
    "été 電電 gôod é",
    "a [SEP] b [CLS]",
    "the film is good " * 20,
    "é" * 30,
    "  ",
]


def got(context: Context, path: str, content: Any) -> Any:
    body = routes(context)[path].read(json.dumps(content).encode(), context, {})
    assert isinstance(body, bytes)
    return json.loads(body)


@pytest.mark.parametrize("specials", [True, False])
def test_tokens_are_the_tokenizers_with_places_in_bytes(context: Contexts, specials: bool) -> None:
    whole = whole_tokenizer()
    for text in TEXTS:
        (found,) = got(context("classes"), "/tokenize", {"inputs": text, "add_special_tokens": specials})
        wanted = whole.encode(text, add_special_tokens=specials)
        assert [token["id"] for token in found] == wanted.ids
        assert [token["special"] for token in found] == list(map(bool, wanted.special_tokens_mask))
        for token, (start, stop), name in zip(found, wanted.offsets, wanted.tokens, strict=True):
            assert list(token) == ["id", "text", "special", "start", "stop"]
            if token["special"]:
                assert (token["text"], token["start"], token["stop"]) == (name, None, None)
            else:
                assert token["text"] == text[start:stop]
                assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]


def test_many_texts_get_a_list_each(context: Contexts) -> None:
    found = got(context("pairs"), "/tokenize", {"inputs": ["good", "the film"]})
    assert [[WORDS[token["id"]] for token in tokens] for tokens in found] == [
        ["[CLS]", "good", "[SEP]"],
        ["[CLS]", "the", "film", "[SEP]"],
    ]


def test_decode_gives_the_words_of_ids(context: Contexts) -> None:
    ids = [2, 5, 9, 11, 3]
    words = [WORDS[at] for at in ids]
    assert got(context("classes"), "/decode", {"ids": ids}) == [" ".join(words[1:4]).replace(" ##", "")]
    assert got(context("classes"), "/decode", {"ids": [ids, [4]], "skip_special_tokens": False}) == [
        " ".join(words).replace(" ##", ""),
        "a",
    ]


def test_texts_come_back_from_their_token_ids(context: Contexts) -> None:
    """With and without special tokens around them; what is asked then has the same word pieces."""
    whole, rng = whole_tokenizer(), random.Random(0)
    for _ in range(100):
        text = " ".join(
            rng.choices(["good", "film", "does", "isn't", "é!", "電", "unknown", "."], k=rng.randint(1, 12))
        )
        for specials in (True, False):
            ids = whole.encode(text, add_special_tokens=specials).ids
            for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
                question = ask(context("vectors"), path, {field: [ids, "a"]})
                assert question.texts[1] == "a"
                assert whole.encode(question.texts[0]).ids == whole.encode(text).ids
                assert ask(context("vectors"), path, {field: ids}).texts == question.texts[:1]


@pytest.mark.parametrize("ids", [[99999], [2**32], [-1], [4, 1.5], [4, "a"], [11, 4], [4, True], [4, None], [4, [5]]])
def test_ids_that_are_not_this_tokenizers_are_an_error(context: Contexts, ids: Any) -> None:
    """##es cannot begin a text: cut again it would be something else."""
    with pytest.raises(BadField, match="token id"):
        ask(context("vectors"), "/embed", {"inputs": ids})


@pytest.mark.parametrize(
    ("path", "content", "error", "word"),
    [
        ("/tokenize", {}, BadField, "missing"),
        ("/tokenize", {"inputs": []}, EmptyInput, "cannot be empty"),
        ("/tokenize", {"inputs": [["a"]]}, BadField, "got a list"),
        ("/tokenize", {"inputs": ["a"] * 6}, TooLarge, "batch size 6"),
        ("/tokenize", {"inputs": "a" * 2001}, BadField, "less than 2000 characters. Given: 2001"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 1}, BadField, "true or false"),
        ("/tokenize", {"inputs": "a", "prompt_name": "q"}, BadField, "no prompts"),
        ("/decode", {"ids": "a"}, BadField, "got a string"),
        ("/decode", {"ids": []}, EmptyInput, "cannot be empty"),
        ("/decode", {"ids": [[4], 4]}, BadField, '"ids"[1] must be a list'),
        ("/decode", {"ids": [4, -1]}, BadField, '"ids"[1] must be a token id'),
        ("/decode", {"ids": [[4], [1e300]]}, BadField, '"ids[1]"[0] must be a token id'),
        ("/decode", {"ids": [[4]] * 6}, TooLarge, "batch size 6"),
    ],
)
def test_bad_input_is_told_why(context: Contexts, path: str, content: Any, error: type, word: str) -> None:
    with pytest.raises(BantamError) as raised:
        got(context("classes"), path, content)
    assert type(raised.value) is error
    assert word in str(raised.value)


def test_a_model_of_ngrams_has_no_tokens(context: Contexts) -> None:
    ngrams = replace(context("classes"), encoder=object.__new__(NGrams))
    for path, content in (("/tokenize", {"inputs": "a"}), ("/decode", {"ids": [4]})):
        with pytest.raises(WrongTask, match="no tokens"):
            got(ngrams, path, content)
    with pytest.raises(BadField, match="has no token ids"):
        ask(ngrams, "/classify", {"input": [4]})
