"""The line of tickets, bounded in tokens. It knows no threads, clock or model; `threads` holds a lock around it."""

from collections import deque

import numpy as np

from serve.batching.packing import Packer
from serve.batching.ticket import NOTHING, Run, Ticket
from serve.engines import Logits
from serve.errors import BackendError, BantamError, Expired

REMEMBERED = 0.9  # of what is known of the speed, after another run
SOONEST, LATEST = 1.0, 60.0  # seconds after which to come again
PATIENCE = 0.5  # of the time until a deadline: who would wait longer is told at once, not when it is over


class Queue:
    """First come, first served, a run's worth at a time: whoever has texts left goes to the back."""

    def __init__(self, packer: Packer, *, max_tokens: int, threads: int = 1) -> None:
        self.tokens = 0  # that no run has taken
        self.waiting = 0  # tickets that have such
        self._packer, self._max, self._threads = packer, max_tokens, threads
        self._line: deque[Ticket] = deque()  # some may have ended since: they are passed over
        self._expired: list[Ticket] = []
        self._ran, self._took = 0.0, 0.0  # tokens, and seconds of a thread

    def add(self, ticket: Ticket) -> bool:
        """False where there is no room, or no time. One that is larger than all of it is taken where nothing waits."""
        if self.full(ticket.tokens, ticket.admitted, ticket.deadline):
            return False
        if self._packer.sorts and len(ticket.left) > 1:
            ticket.left.sort(key=ticket.lengths.__getitem__, reverse=True)
        self._line.append(ticket)
        self.tokens += ticket.tokens
        self.waiting += 1
        return True

    def full(self, tokens: int, now: float, deadline: float | None) -> bool:
        """Whether so many tokens more have no place, or would wait too long for their deadline."""
        if not self.waiting:
            return False
        late = deadline is not None and self.wait() > PATIENCE * (deadline - now)
        return late or self.tokens + tokens > self._max

    def wait(self) -> float:
        """Seconds until what waits now is done, by the speed of the last runs; 0 where there were none."""
        return self.tokens * self._took / (self._ran * self._threads) if self._ran else 0.0

    def retry_after(self) -> float:
        """The same, within reason."""
        return min(max(self.wait(), SOONEST), LATEST)

    def take(self, now: float, free: int) -> Run | None:
        """What a thread runs next, where `free` are free, itself among them; None where nothing waits."""
        seen, owners, lengths = self._look(now)
        if not seen:
            return None
        picked = [0] if len(lengths) == 1 else self._packer.pick(lengths, waiting=self.tokens, free=free)
        parts, tokens, longest = list[tuple[Ticket, list[int]]](), 0, 0
        last = -1
        for at in picked:
            if owners[at][0] != last:
                last = owners[at][0]
                parts.append((seen[last], []))
            parts[-1][1].append(owners[at][1])
            tokens += lengths[at]
            longest = max(longest, lengths[at])
        for at, (ticket, places) in enumerate(parts):
            parts[at] = (ticket, self._start(ticket, places, now))
        self._line.extendleft(ticket for ticket in reversed(seen[1:]) if ticket.left)
        if seen[0].left:
            self._line.append(seen[0])
        return Run(parts, tokens, longest)

    def _look(self, now: float) -> tuple[list[Ticket], list[tuple[int, int]], list[int]]:
        """The first tickets, taken from the line; and of their first texts the (ticket, place in it) and the length."""
        texts, enough = self._packer.texts, max(self._packer.tokens, 1)
        seen, owners, lengths, tokens = list[Ticket](), list[tuple[int, int]](), list[int](), 0
        while self._line and len(lengths) < texts and (tokens < enough or self._packer.sorts):
            ticket = self._line.popleft()
            if ticket.ended:
                continue
            if ticket.deadline is not None and ticket.deadline <= now:
                self._expire(ticket, now)
                continue
            for place, row in enumerate(ticket.left[: texts - len(lengths)]):
                owners.append((len(seen), place))
                lengths.append(ticket.lengths[row])
                tokens += ticket.lengths[row]
            seen.append(ticket)
        return seen, owners, lengths

    def _start(self, ticket: Ticket, places: list[int], now: float) -> list[int]:
        """Rows at these places of what the ticket has left, which it has no longer."""
        if not ticket.started:
            ticket.started, ticket.queued = now, now - ticket.admitted
        if len(places) == len(ticket.left):
            rows, ticket.left = ticket.left, []
        else:
            rows = [ticket.left[place] for place in places]
            for place in reversed(places):
                del ticket.left[place]
        tokens = sum([ticket.lengths[row] for row in rows])
        ticket.running += 1
        ticket.tokens -= tokens
        self.tokens -= tokens
        self.waiting -= not ticket.left
        rows.sort()
        return rows

    def _expire(self, ticket: Ticket, now: float) -> None:
        ticket.error = Expired("the request's deadline passed before its turn came")
        if not ticket.started:
            ticket.queued = now - ticket.admitted
        self._drop(ticket)
        self._expired.append(ticket)

    def still(self, run: Run, now: float) -> bool:
        """Whether a run of one ticket, taken earlier, is still to be run."""
        ((ticket, _),) = run.parts
        if not ticket.ended and ticket.deadline is not None and ticket.deadline <= now:
            self._expire(ticket, now)
        ticket.running -= ticket.ended
        return not ticket.ended

    def expired(self) -> list[Ticket]:
        """Those whose turn came too late since the last call."""
        found, self._expired = self._expired, []
        return found

    def cancel(self, ticket: Ticket) -> None:
        if not ticket.ended:
            self._drop(ticket)

    def finish(self, run: Run, values: Logits, now: float) -> list[Ticket]:
        """The tickets that end with this run."""
        ended, at = list[Ticket](), 0
        for ticket, rows in run.parts:
            some, at = values[at : at + len(rows)], at + len(rows)
            ticket.running -= 1
            if ticket.ended:
                continue
            if len(rows) == len(ticket.lengths):
                ticket.values = some
            else:
                if ticket.values is None:
                    ticket.values = np.empty((len(ticket.lengths), *values.shape[1:]), values.dtype)
                ticket.values[rows] = some
            if not ticket.left and not ticket.running:
                ticket.ended, ticket.inference = True, now - ticket.started
                ended.append(ticket)
        return ended

    def fail(self, run: Run, error: Exception, now: float) -> list[Ticket]:
        """The same where the model raised."""
        ended = list[Ticket]()
        for ticket, _ in run.parts:
            ticket.running -= 1
            if not ticket.ended:
                ticket.error = _told(error)
                ticket.inference = now - ticket.started
                self._drop(ticket)
                ended.append(ticket)
        return ended

    def ran(self, tokens: int, seconds: float) -> None:
        """For `retry_after`."""
        self._ran = REMEMBERED * self._ran + tokens
        self._took = REMEMBERED * self._took + seconds

    def _drop(self, ticket: Ticket) -> None:
        self.tokens -= ticket.tokens
        self.waiting -= bool(ticket.left)
        ticket.ended, ticket.tokens, ticket.left, ticket.values = True, 0, [], None
        if not ticket.running:  # it may stay in the line for a while
            ticket.encoded = NOTHING


def _told(error: Exception) -> BantamError:
    if isinstance(error, BantamError):
        return error
    told = BackendError("the model failed on this request; the log has the details")
    told.__cause__ = error
    return told
