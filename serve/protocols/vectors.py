"""What protocols do with the vectors of an embedding model."""

import numpy as np

from serve.engines import Logits
from serve.errors import WrongTask
from serve.manifest import Embedding
from serve.question import Answer, Context


def embedding(context: Context, refusal: str) -> Embedding:
    """How the model makes its vectors; WrongTask with `refusal` where it makes none."""
    if context.task.embedding is None:
        raise WrongTask(refusal)
    return context.task.embedding


def rows(answer: Answer) -> Logits:
    """The vectors as orjson and base64 take them: single precision, one behind the other."""
    return np.ascontiguousarray(answer.values, dtype=np.float32)


def normalised(vectors: Logits) -> Logits:
    """Each of length 1; one of zeros stays as it is."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    result: Logits = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return result
