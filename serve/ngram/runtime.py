"""Texts straight to logits, in C where it was built and in numpy elsewhere. Both give the same bits."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from serve.encode import Text, check_texts
from serve.engine.network import Declined
from serve.errors import BackendError
from serve.ngram.file import Model
from serve.ngram.library import Native
from serve.ngram.plain import Answers, Plain, flattened

# Its CPU plugin (2026.4) turns int64 into int32 without a word, inputs and all.
NARROW = "it cuts whole numbers to 32 bits, and keys have 64"
ALONE = 256  # texts from which a second thread is worth its start


def opened(model: Model, *, max_words: int) -> tuple[Native | Plain, str | None]:
    """What answers texts of at most `max_words` words, and why it is not our C where it is not."""
    try:
        return Native(model, max_words=max_words), None
    except Declined as declined:
        return Plain(model, max_words=max_words), str(declined)


def straight(answering: Native | Plain, *, device: str, threads: int) -> "Engine":
    if device != "cpu":
        raise BackendError(f"runtime 'bantam' runs on the CPU, got device {device!r}; use 'onnxruntime'")
    return Engine(answering, threads)


class Engine:
    """Answers texts in one pass each, several threads at once where there are many texts."""

    def __init__(self, answering: Native | Plain, threads: int = 1) -> None:
        self.answering, self.threads = answering, threads
        self._pool = ThreadPoolExecutor(threads, "bantam-ngram") if threads > 1 else None

    def texts(self, texts: Sequence[Text]) -> Answers:
        """Logits [texts, labels], words that were read of each text, and whether it had more.

        Raises InputError where a text is no text, or not of as many parts as the model takes.
        """
        try:
            if self._pool is None or len(texts) < 2 * ALONE:
                return self.answering.texts(texts)
            cuts = np.linspace(0, len(texts), min(self.threads, len(texts) // ALONE) + 1).astype(int)
            parts = self._pool.map(self.answering.texts, [texts[a:b] for a, b in pairwise(cuts)])
            logits, words, truncated = zip(*parts, strict=True)
            return np.concatenate(logits), np.concatenate(words), np.concatenate(truncated)
        except (AttributeError, TypeError, UnicodeEncodeError):
            check_texts(texts)  # it says which
            flattened(texts, self.answering.model.inputs)
            raise
