"""Texts to answers within one worker: read, queued, run by the model's threads, put in order."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from serve.batching import Batcher, Ticket, packer
from serve.body import Gone, Receive
from serve.costs import Costs
from serve.encode import Encoded, Text, check_inputs
from serve.errors import Expired, Overloaded
from serve.ngram.encode import check_whole
from serve.ngram.runtime import Engine
from serve.question import Answer, Question, Shared
from serve.runtime import Session
from serve.settings import Settings
from serve.telemetry.metrics import Metrics
from serve.together import Together, Turn

INLINE = 8_192  # characters of a request that are read on the event loop; more would keep its other callers waiting
ASIDE = 16_000_000  # characters of all requests that may wait to be read beside it
Result = TypeVar("Result")


@dataclass(slots=True)
class Caller:
    """Who waits for a ticket."""

    loop: asyncio.AbstractEventLoop
    told: Callable[[Ticket], None]  # there, once it has ended
    tokenised: float  # seconds of turning its texts into tokens


class Answering:
    """Answers questions with one Session; asked on one event loop.

    Word pieces are cut first and queued then, so that the queue is bounded in what it costs. N-grams on our own code
    take microseconds, less than any queue: they are answered where they are asked, unless they are long.
    """

    def __init__(self, session: Session, costs: Costs | None, settings: Settings, metrics: Metrics) -> None:
        self.session, self._metrics = session, metrics
        self._aside = ThreadPoolExecutor(1, "aside")
        self._characters = 0  # that wait there
        self.batcher: Batcher | None = None
        self._together: Together | None = None
        if (engine := session.straight) is not None:
            self._together = Together(
                lambda turns: self._several(engine, turns),
                lambda turn: self._straight(engine, turn.question, turn.deadline, turn.asked),
            )
        else:
            self.batcher = Batcher(
                session.run,
                packer=packer(costs, max_batch_tokens=settings.max_batch_tokens, alone=session.batch == 1),
                done=self._ended,
                max_queued_tokens=settings.max_queued_tokens,
                threads=settings.parallel,
                observe=metrics.batch,
            )

    async def ask(self, question: Question, deadline: float | None, receive: Receive) -> Answer:
        """The answer. `deadline` in time.perf_counter's seconds; `receive` tells when the client leaves.

        Raises Overloaded, Expired, Gone, and what is wrong with the texts or with the model.
        """
        check_inputs(question.texts, self.session.artefact.manifest.task.inputs)
        if (engine := self.session.straight) is not None:
            asked = time.perf_counter()
            return await self.aside(_size(question.texts), lambda: self._straight(engine, question, deadline, asked))
        self.check_room(deadline)
        start = time.perf_counter()
        size = _size(question.texts)
        encoded = self._encode(question) if size <= INLINE else await self.aside(size, lambda: self._encode(question))
        return self.collected(question, await self._waited(encoded, deadline, start, receive))

    def check_room(self, deadline: float | None) -> None:
        """Overloaded where a question would surely be refused: to be asked before anything is done for it."""
        if self.batcher is not None:
            self.batcher.check_room(deadline)

    def queued(self, question: Question, deadline: float | None, told: Callable[[Any], None]) -> Ticket | Turn:
        """A short question's place: `told` is called with it on this event loop, once it has ended. Raises Overloaded,
        and what is wrong with the texts.
        """
        check_inputs(question.texts, self.session.artefact.manifest.task.inputs)
        if self._together is not None:
            return self._together.add(question, deadline, told)
        start = time.perf_counter()
        return self._submit(self._encode(question), deadline, start, told)

    def collected(self, question: Question, ticket: Ticket | Turn) -> Answer:
        """What came of it. Raises what went wrong with it."""
        if ticket.error is not None:
            raise ticket.error
        if isinstance(ticket, Turn):
            assert ticket.answer is not None, "a turn ends with one of both"
            return ticket.answer
        self._gauge()
        assert ticket.values is not None, "a ticket ends with one of both"
        values, caller = self.session.finished(ticket.values, raw=question.raw), ticket.caller
        return Answer(
            values, ticket.lengths, ticket.encoded.truncated, caller.tokenised, ticket.queued, ticket.inference
        )

    def cancel(self, ticket: Ticket | Turn) -> None:
        """Nobody waits for it any more."""
        if isinstance(ticket, Ticket):
            assert self.batcher is not None, "it gave the ticket"
            self.batcher.cancel(ticket)
            self._gauge()

    def close(self) -> None:
        """Answer what was admitted, then end the threads. Waits for that."""
        self._aside.shutdown()
        if self.batcher is not None:
            self.batcher.close()

    def _encode(self, question: Question) -> Encoded:
        return self.session.pieces.encode(question.texts, truncate=question.truncate)

    def at_once(self, question: Question, deadline: float | None) -> Answer | None:
        """The answer to few and short texts of n-grams; None where it takes a thread or a queue: `ask` then."""
        engine = self.session.straight
        if engine is None or _size(question.texts) > INLINE:
            return None
        check_inputs(question.texts, self.session.artefact.manifest.task.inputs)
        return self._straight(engine, question, deadline, time.perf_counter())

    def _straight(self, engine: Engine, question: Question, deadline: float | None, asked: float) -> Answer:
        start = time.perf_counter()
        if deadline is not None and start > deadline:
            raise Expired("the deadline passed before the text was read")
        values, words, cut = engine.texts(question.texts)
        truncated = cut.tolist()
        check_whole(truncated, truncate=question.truncate, max_length=self.session.pieces.max_length)
        values = self.session.finished(values, raw=question.raw)
        seconds = time.perf_counter() - start
        lengths = words.tolist()
        tokens = sum(lengths)
        self._metrics.straight(tokens=tokens, texts=len(truncated), seconds=seconds)
        return Answer(values, lengths, truncated, 0.0, start - asked, seconds)

    def _several(self, engine: Engine, turns: list[Turn]) -> list[Answer]:
        """Of questions that may be answered by one call; whatever is out of the ordinary with one of them raises."""
        start = time.perf_counter()
        logits, words, cut = engine.texts([text for turn in turns for text in turn.question.texts])
        truncated, lengths = cut.tolist(), words.tolist()
        scores = self.session.finished(logits, raw=False)
        seconds = time.perf_counter() - start
        if True in truncated:
            raise ValueError("out of the ordinary")
        answers, at, shared = list[Answer](), 0, Shared(scores)
        for turn in turns:
            question, first, deadline = turn.question, at, turn.deadline
            at += len(question.texts)
            if question.raw or (deadline is not None and start > deadline):
                raise ValueError("out of the ordinary")
            values, mine, cuts = scores[first:at], lengths[first:at], truncated[first:at]
            answers.append(Answer(values, mine, cuts, 0.0, start - turn.asked, seconds, shared, first))
        self._metrics.straight(tokens=sum(lengths), texts=len(lengths), seconds=seconds)
        return answers

    async def aside(self, size: int, work: Callable[[], Result]) -> Result:
        """What `work` gives, in a thread beside the event loop; `size` in characters. Raises Overloaded."""
        if self._characters and self._characters + size > ASIDE:
            raise Overloaded(f"{self._characters} characters of texts wait to be read; try again in a moment")
        self._characters += size
        try:
            return await asyncio.get_running_loop().run_in_executor(self._aside, work)
        finally:
            self._characters -= size

    def _submit(self, encoded: Encoded, deadline: float | None, start: float, told: Callable[[Ticket], None]) -> Ticket:
        assert self.batcher is not None, "n-grams on our own code have no queue"
        caller = Caller(asyncio.get_running_loop(), told, time.perf_counter() - start)
        ticket = self.batcher.submit(encoded, caller, deadline=deadline)
        self._gauge()
        return ticket

    async def _waited(self, encoded: Encoded, deadline: float | None, start: float, receive: Receive) -> Ticket:
        """A ticket that has ended. Raises Gone where its client did not wait for it."""
        assert self.batcher is not None, "n-grams on our own code have no queue"
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # Nobody looks out for the client of a request that runs at once: that would cost more than it could save.
        waits = not self.batcher.idle
        ticket = self._submit(encoded, deadline, start, lambda _: _tell(ended))
        watch = loop.create_task(_left(receive, ended)) if waits else None
        try:
            await ended
        except BaseException:
            self.cancel(ticket)
            raise
        finally:
            if watch is not None:
                watch.cancel()
        return ticket

    def _gauge(self) -> None:
        if self.batcher is not None:
            self._metrics.queued_tokens.set(self.batcher.queued_tokens)
            self._metrics.waiting.set(self.batcher.waiting)

    @staticmethod
    def _ended(tickets: list[Ticket]) -> None:
        """In a model's thread: wake the event loop once for all that ended together."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            tickets[0].caller.loop.call_soon_threadsafe(_told, tickets)


def _size(texts: list[Text]) -> int:
    """Characters."""
    if len(texts) == 1 and isinstance(first := texts[0], str):  # nearly always
        return len(first)
    return sum([len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts])


def _told(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.caller.told(ticket)


def _tell(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


async def _left(receive: Receive, told: "asyncio.Future[None]") -> None:
    """Wait until the client hangs up, and say so."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not told.done():
        told.set_exception(Gone())
