"""The vocabulary of a corpus, counted once and kept in the user's cache under a digest of texts and settings."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from compress.ngram.vocabulary import count
from compress.progress import say
from compress.recipe import digest
from compress.source import Source
from serve import cache
from serve.ngram.keys import Keys
from serve.ngram.words import Characters

if TYPE_CHECKING:
    from compress.students.ngram import NGram


def vocabulary(student: "NGram", source: Source, characters: Characters) -> Keys:
    """Keys [V] of the most frequent n-grams of the corpus and the training texts, by falling count."""
    sha = hashlib.sha256(characters.pages.tobytes() + characters.index.tobytes())
    for text in texts(source):
        sha.update(text.encode("utf-8", "replace") + b"\0")
    wanted = [student.orders, student.rows, student.least, sha.hexdigest()]
    path = cache.folder() / "vocabularies" / f"{digest(wanted)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write(path, counted(student, source, characters))
    found: Keys = np.load(path)
    say(f"vocabulary {path.stem}: {len(found):,} n-grams of 1 to {student.orders} words")
    return found


def texts(source: Source) -> Iterator[str]:
    training = (part for text in source.data.train.texts for part in (text if isinstance(text, tuple) else (text,)))
    return chain(source.corpus, training)


def counted(student: "NGram", source: Source, characters: Characters) -> Keys:
    found = count(
        texts(source),
        orders=student.orders,
        rows=student.rows,
        characters=characters,
        memory=round(student.memory * 2**30),
        least=student.least,
        progress=True,
    )
    return found.keys


def write(path: Path, keys: Keys) -> None:
    part = path.with_suffix(".part.npy")
    np.save(part, keys)
    part.replace(path)
