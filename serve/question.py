"""What passes between a protocol and the app: a question, its answer, and what a protocol knows of the model."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.encode import Text
from serve.encoders import AnyEncoder
from serve.engines import Logits
from serve.errors import BantamError
from serve.manifest import Task


@dataclass(slots=True)
class Answer:
    values: Logits  # [texts, outputs]: scores, or the vectors of an embedding
    lengths: list[int]  # tokens of each text after truncation: word pieces, or words of n-grams
    truncated: list[bool]
    queued: float = 0.0  # seconds from admission to the start of its first run
    inference: float = 0.0  # seconds in the model

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Question:
    texts: list[Text]
    write: Callable[[Answer], bytes]  # the body that answers it
    truncate: bool = False  # or TooLong, where a text has more tokens than the model reads
    raw: bool = False  # logits in place of probabilities


@dataclass(frozen=True)
class Context:
    """What is loaded."""

    name: str
    task: Task
    encoder: AnyEncoder
    max_length: int  # tokens of a text
    max_texts: int  # of a request
    created: int  # Unix seconds


@dataclass(frozen=True)
class Route:
    method: str  # "GET" or "POST"
    read: Callable[[bytes, Context], Question | bytes]  # bytes: the answer, nothing to compute. Raises BantamError
    failure: Callable[[BantamError], tuple[int, bytes]]  # the protocol's own status and body of an error
