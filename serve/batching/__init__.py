"""One queue of requests, the model threads that answer it, and the packing of texts into runs.

packer(costs: Costs | None, *, max_batch_tokens: int, alone: bool = False) -> Packer
    Packer.describe() -> dict                                         for people

Batcher(run: Callable[[Encoded], Logits], *, packer: Packer, done: Callable[[list[Ticket]], None],
        max_queued_tokens: int, threads: int = 1, observe: Callable[[BatchFacts], None] | None = None)
    submit(encoded, caller=None, *, deadline: float | None = None) -> Ticket    raises Overloaded, NotReady
    check_room(deadline) -> None                                      raises Overloaded
    cancel(ticket) -> None
    close() -> None
    queued_tokens: int; waiting: int                                  now

Ticket: caller; values: Logits | None; error: BantamError | None; queued, inference: float      once it has ended
BatchFacts: tokens, padded_tokens, texts: int; seconds: float         of a run
"""

from serve.batching.packing import Packer, packer
from serve.batching.threads import Batcher
from serve.batching.ticket import BatchFacts, Ticket

__all__ = ["BatchFacts", "Batcher", "Packer", "Ticket", "packer"]
