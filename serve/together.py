"""Short questions of n-grams that came in one pass of the event loop, answered by one call of the model.

A text takes a microsecond there and the call several, so that they share it. Nobody waits for company: the call is made
when the event loop has heard all that is there.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from serve.question import Answer, Question

log = logging.getLogger("bantam.serve")


@dataclass(slots=True, eq=False)
class Turn:
    """A question that waits for the next call. It ends with an `answer` or an `error`."""

    question: Question
    deadline: float | None
    told: Callable[["Turn"], None]
    asked: float  # when, in time.perf_counter's seconds
    answer: Answer | None = None
    error: Exception | None = None


class Together:
    """`several` answers turns in one call, or raises; `one` a turn alone, or raises what is wrong with it."""

    def __init__(self, several: Callable[[list[Turn]], list[Answer]], one: Callable[[Turn], Answer]) -> None:
        self._several, self._one = several, one
        self._turns = list[Turn]()

    def add(self, question: Question, deadline: float | None, told: Callable[[Turn], None]) -> Turn:
        """To be called on the event loop, which calls `told`."""
        if not self._turns:
            asyncio.get_running_loop().call_soon(self._run)
        turn = Turn(question, deadline, told, time.perf_counter())
        self._turns.append(turn)
        return turn

    def _run(self) -> None:
        turns, self._turns = self._turns, []
        try:
            answers = self._several(turns) if len(turns) > 1 else []
        except Exception:  # something is wrong with one of them: the others are answered
            answers = []
        for turn, answer in zip(turns, answers, strict=False):
            turn.answer = answer
        for turn in turns:
            if turn.answer is None:
                self._alone(turn)
            try:
                turn.told(turn)
            except Exception:  # the same reason
                log.exception("an answer could not be delivered")

    def _alone(self, turn: Turn) -> None:
        try:
            turn.answer = self._one(turn)
        except Exception as error:
            turn.error = error
