"""What passes through the queue: a request's ticket, the run that takes texts from it, and what a run came to."""

from dataclasses import dataclass, field
from typing import Any

from serve.encode import Encoded
from serve.engines import Logits
from serve.errors import BantamError

NOTHING = Encoded([], [], [])


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way through the model. It ends once: with `values`, with an `error`, or cancelled, untold.

    Callers read the first block of fields, once they are told of the end; the rest is the queue's.
    """

    caller: Any  # whatever `submit` was given to know it by
    values: Logits | None = None  # [texts, outputs], in the order of the texts
    error: BantamError | None = None  # `__cause__` is what the model raised
    queued: float = 0.0  # seconds from admission to the start of its first run
    inference: float = 0.0  # seconds from there to the end of its last

    encoded: Encoded = NOTHING
    lengths: list[int] = field(default_factory=list)
    deadline: float | None = None
    admitted: float = 0.0
    started: float = 0.0  # when its first run was taken
    left: list[int] = field(default_factory=list)  # rows that no run has taken, in the order to take them
    tokens: int = 0  # of those
    running: int = 0  # runs that hold rows of it
    ended: bool = False


@dataclass(slots=True)  # not frozen: that would take three times as long to make
class BatchFacts:
    """One run."""

    tokens: int
    padded_tokens: int  # with padding, where the runtime needs it
    texts: int
    seconds: float


@dataclass(slots=True, eq=False)
class Run:
    """Rows of one or several tickets that the model answers together."""

    parts: list[tuple[Ticket, list[int]]]
    tokens: int
    longest: int

    @property
    def texts(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def encoded(self) -> Encoded:
        first, rows = self.parts[0]
        if len(self.parts) == 1 and len(rows) == len(first.lengths):  # a whole request alone
            return first.encoded
        found = Encoded([], [], [])
        for ticket, rows in self.parts:
            found.ids.extend([ticket.encoded.ids[row] for row in rows])
            found.types.extend([ticket.encoded.types[row] for row in rows])
            found.truncated.extend([ticket.encoded.truncated[row] for row in rows])
        return found

    def alone(self) -> list["Run"]:
        """The same in a run for each ticket."""
        return [_alone(ticket, rows) for ticket, rows in self.parts]


def _alone(ticket: Ticket, rows: list[int]) -> Run:
    lengths = [ticket.lengths[row] for row in rows]
    return Run([(ticket, rows)], sum(lengths), max(lengths))
