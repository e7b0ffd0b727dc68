"""What a request of the load came to, as one number: the HTTP status of its answer, or one of these."""

from __future__ import annotations

LOST = 0  # all of it was sent, and the connection ended before the whole answer
REFUSED = 1  # nobody took the connection
UNSENT = 2  # the connection ended before all of it was sent, or nothing was sent by the end
LATE = 3  # no answer within ANSWER_WITHIN of the end of the load
BROKEN = 4  # what came back is not HTTP
FIRST_STATUS = 100

WORDS = {
    LOST: "lost",
    REFUSED: "refused",
    UNSENT: "not sent",
    LATE: "no answer",
    BROKEN: "not HTTP",
}


def named(status: int) -> str:
    """`status` in words, as reports name it."""
    return WORDS.get(status) or str(status)
