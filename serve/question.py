"""What passes between a protocol and the app: a question, its answer, and what a protocol knows of the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serve.encode import Text
from serve.encoders import AnyEncoder
from serve.engines import Logits
from serve.errors import BantamError
from serve.manifest import Task

Headers = Mapping[bytes, bytes]  # of a request; names in lower case
Written = bytes | tuple[bytes, list[tuple[bytes, bytes]]]  # a body; or it and its headers, content-type among them


@dataclass(slots=True)
class Shared:
    """What the answers of one call of the model have in common."""

    values: Logits  # of all texts
    ranked: tuple[bytes, list[int]] | None = None  # written for all of them when it is asked for the first time


@dataclass(slots=True)
class Answer:
    values: Logits  # [texts, outputs]: scores, or the vectors of an embedding
    lengths: list[int]  # tokens of each text after truncation: word pieces, or words of n-grams
    truncated: list[bool]
    tokenised: float = 0.0  # seconds of turning texts into tokens; of n-grams a part of `inference`
    queued: float = 0.0  # seconds from admission to the start of its first run
    inference: float = 0.0  # seconds in the model
    shared: Shared | None = None  # with other answers,
    first: int = 0  # of which its texts begin here

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(slots=True)
class Question:
    texts: list[Text]
    write: Callable[[Answer], Written]  # the body that answers it
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
    """What a path answers. A path that ends in "/" is for all below it that have no route of their own."""

    method: str  # "GET" or "POST"; "*" for any
    read: Callable[[bytes, Context, Headers], Question | bytes]  # bytes: the answer itself. Raises BantamError
    failure: Callable[[BantamError], tuple[int, bytes]]  # the protocol's own status and body of an error
    warm: bool = True  # asks for a model that is ready
    untyped: bool = False  # a body need not claim to be JSON: this protocol's clients send none, or raw tensors
    kind: bytes = b"application/json"  # of the answer
    headers: tuple[tuple[bytes, bytes], ...] = ()  # more of the answer
    name: str = "other"  # in the metrics: one of serve.telemetry.catalogue.ROUTES
    asks: bool = False  # the model, which may have no time
    head: bytes = b""  # `kind` and `headers` as lines
