"""Texts to model inputs. Training uses the same code as serving, so that the two cannot drift apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serve.engine.network import Declined
from serve.errors import ArtefactError, EmptyInput, InputError, TooLong
from serve.wordpiece import IGNORED, AsciiPieces

Text = str | tuple[str, str]
Feeds = dict[str, NDArray[np.int64]]

KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Encoded:
    ids: list[NDArray[np.int64]]  # one row of word pieces a text, special ones included
    types: list[NDArray[np.int64]]  # 0 for the first text of a pair, 1 for the second
    truncated: list[bool]

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> list[int]:
        return [len(row) for row in self.ids]


class WordPieces:
    """A Hugging Face tokenizer.json, cut to `max_length` word pieces; the longer text of a pair is cut first.

    `declined` says why our own, quicker pass has no part in it; None where it cuts what it can (`serve.wordpiece`).
    """

    def __init__(self, tokenizer_path: Path | str, *, max_length: int, pad_id: int, inputs: Sequence[str]) -> None:
        unknown = sorted(set(inputs) - set(KNOWN_INPUTS))
        if unknown or "input_ids" not in inputs:
            raise ArtefactError(f"model inputs must be input_ids and some of {KNOWN_INPUTS[1:]}, got {tuple(inputs)}")
        self.path = Path(tokenizer_path)
        self.max_length, self.pad_id, self.inputs = max_length, pad_id, tuple(inputs)
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ArtefactError(f"{tokenizer_path} is not a tokenizer that can be read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._ascii, self.declined = _ascii_pieces(tokenizer_path, max_length)

    @property
    def tokenizer(self) -> str:
        """Who cuts ASCII texts, and why, where not we. All others are for `tokenizers`."""
        return "bantam" if self.declined is None else f"tokenizers: {self.declined}"

    def vocabulary(self) -> dict[str, int]:
        """Every word piece and its id."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def uncut(self, text: str, *, specials: bool) -> list[Any]:
        """What `tokenizers` makes of a text of any length: encodings of `max_length` each, one behind the other."""
        first = self._tokenizer.encode(text, add_special_tokens=specials)
        return [first, *first.overflowing]

    def decode(self, ids: Sequence[int], *, specials: bool) -> str:
        """The text of word pieces, with or without special ones; ids that the vocabulary lacks are left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not specials))

    def encode(self, texts: Sequence[Text], *, truncate: bool = True) -> Encoded:
        """Word pieces of each text. Without `truncate` a text over the maximum length is TooLong."""
        check_texts(texts)
        encoded = self._encode(list(texts))
        if not truncate and any(encoded.truncated):
            raise TooLong(
                f"`inputs` must have at most {self.max_length} tokens, but text {encoded.truncated.index(True)} has "
                'more; shorten it or ask for "truncate": true'
            )
        return encoded

    def _encode(self, texts: list[Text]) -> Encoded:
        if self._ascii is None:
            return self._by_library(texts)
        ids, types, became = self._ascii.encode(texts)
        truncated = list(map(bool, became))
        if IGNORED in became:
            others = [at for at, one in enumerate(became) if one == IGNORED]
            found = self._by_library([texts[at] for at in others])
            for row, at in enumerate(others):
                ids[at], types[at], truncated[at] = found.ids[row], found.types[row], found.truncated[row]
        return Encoded(ids, types, truncated)

    def _by_library(self, texts: list[Text]) -> Encoded:
        rows = self._tokenizer.encode_batch_fast(texts)
        ids = [np.array(row.ids, dtype=np.int64) for row in rows]
        types = [np.array(row.type_ids, dtype=np.int64) for row in rows]
        return Encoded(ids, types, [bool(row.overflowing) for row in rows])

    def batch(self, encoded: Encoded, rows: Sequence[int]) -> Feeds:
        """The model's inputs [len(rows), longest row], padded on the right."""
        shape = (len(rows), max(len(encoded.ids[row]) for row in rows))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for at, row in enumerate(rows):
            length = len(encoded.ids[row])
            ids[at, :length] = encoded.ids[row]
            mask[at, :length] = 1
            types[at, :length] = encoded.types[row]
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: feeds[name] for name in self.inputs}


def _ascii_pieces(tokenizer_path: Path | str, max_length: int) -> tuple[AsciiPieces | None, str | None]:
    try:
        return AsciiPieces(tokenizer_path, max_length=max_length), None
    except Declined as declined:
        return None, str(declined)


def check_texts(texts: Sequence[Text]) -> None:
    """InputError unless every text is a string, or a pair of strings, that UTF-8 can carry."""
    for at, text in enumerate(texts):
        if isinstance(text, str) and text.isascii():  # nearly all of them
            continue
        parts = text if isinstance(text, tuple) else (text, "")
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise InputError(f"text {at} must be a string or a pair of strings, got {type(text).__name__}")
        for part in parts:
            if not part.isascii() and any("\ud800" <= char <= "\udfff" for char in part):
                raise InputError(f"text {at} holds half of a surrogate pair, which is no character")


def check_inputs(texts: Sequence[Text], inputs: int) -> None:
    """InputError unless each text has as many parts as the task, EmptyInput where there is nothing to read."""
    for at, text in enumerate(texts):
        if inputs == 1 and isinstance(text, str) and text and not text[0].isspace():  # nearly all of them
            continue
        parts = text if isinstance(text, tuple) else (text,)
        if len(parts) != inputs:
            got, wanted = ("a pair", "single texts") if inputs == 1 else ("a single text", "pairs of texts")
            raise InputError(f"text {at} is {got}, but this model takes {wanted}")
        if not any(part.strip() for part in parts):
            raise EmptyInput(f"`inputs` cannot be empty, but text {at} is")
