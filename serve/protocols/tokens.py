"""Texts to the tokens that a caller sees, and token ids back to texts."""

from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from serve.encode import WordPieces
from serve.encoders import AnyEncoder
from serve.errors import BadField, WrongTask


class Token(NamedTuple):
    id: int
    text: str
    special: bool
    start: int | None  # in bytes of UTF-8, of what is not special
    stop: int | None


def word_pieces(encoder: AnyEncoder) -> WordPieces:
    """The encoder, if its tokens have ids; a model of n-grams has only hashes of whatever words there are."""
    if not isinstance(encoder, WordPieces):
        raise WrongTask("Model has no tokens with ids: it reads n-grams of words")
    return encoder


def tokens(encoder: WordPieces, text: str, *, specials: bool) -> list[Token]:
    """Every token of a text, however long."""
    parts = encoder.uncut(text, specials=specials)
    first, last = parts[0], parts[-1]
    before = sum(takewhile(bool, first.special_tokens_mask))
    after = sum(takewhile(bool, reversed(last.special_tokens_mask)))
    found = [Token(id, piece, True, None, None) for id, piece in zip(first.ids[:before], first.tokens, strict=False)]
    ends = None if text.isascii() else [0, *accumulate(len(char.encode()) for char in text)]
    for part in parts:
        for id, special, (start, stop) in zip(part.ids, part.special_tokens_mask, part.offsets, strict=True):
            if not special:
                place = (start, stop) if ends is None else (ends[start], ends[stop])
                found.append(Token(id, text[start:stop], False, *place))
    if before < len(first.ids):  # else there was nothing but special ones
        closing = zip(last.ids[-after:], last.tokens[-after:], strict=True) if after else ()
        found += [Token(id, piece, True, None, None) for id, piece in closing]
    return found


def text_of(ids: Any, name: str, encoder: AnyEncoder) -> str:
    """The text that token ids stand for, with or without the special ones around it.

    BadField unless the tokenizer cuts this text into the same ids: another one's ids would get an answer as well, and
    a wrong one.
    """
    if not isinstance(encoder, WordPieces):
        raise BadField(name, f'"{name}" must be text: this model reads n-grams of words, and has no token ids')
    check_ids(ids, name)
    inner = _inside(ids, encoder)
    text = encoder.decode(inner, specials=True)
    if [id for part in encoder.uncut(text, specials=False) for id in part.ids] != inner:
        raise BadField(name, f'"{name}" must hold token ids as this model\'s tokenizer gives them; send the text')
    return text


def check_ids(ids: Any, name: str) -> None:
    """BadField unless all are whole numbers that may be a token's."""
    for at, id in enumerate(ids):
        if type(id) is not int or not 0 <= id < 1 << 32:
            raise BadField(name, f'"{name}"[{at}] must be a token id, a whole number of 0 or more')


def _inside(ids: list[int], encoder: WordPieces) -> list[int]:
    """Token ids without the special ones that the tokenizer puts around a text."""
    around = encoder.uncut("", specials=True)[0].ids
    for before in range(len(around), -1, -1):
        end = len(ids) - (len(around) - before)
        if before <= end and ids[:before] + ids[end:] == around:
            return ids[before:end]
    return ids
