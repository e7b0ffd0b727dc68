"""Requests whose texts say who they are, and packers by hand-made costs."""

from collections.abc import Sequence

import numpy as np

from serve.batching.packing import Alone, Packer, Padded, Ragged
from serve.batching.ticket import Ticket
from serve.costs import Costs
from serve.encode import Encoded
from serve.engines import Logits

TOKENS = 24  # of a run


def encoded(name: int, lengths: Sequence[int]) -> Encoded:
    """Text `at` of request `name`, as word pieces that are all 1000 * name + at."""
    ids = [np.full(length, 1000 * name + at) for at, length in enumerate(lengths)]
    return Encoded(ids, [np.zeros_like(row) for row in ids], [False] * len(ids))


def answers(asked: Encoded) -> Logits:
    """Of each text the word piece that it is made of, and its length."""
    return np.array([[row[0], len(row)] for row in asked.ids], np.float32)


def ticket(name: int, lengths: Sequence[int], *, deadline: float | None = None) -> Ticket:
    tokens = sum(lengths)
    left = list(range(len(lengths)))
    return Ticket(name, encoded=encoded(name, lengths), lengths=[*lengths], deadline=deadline, left=left, tokens=tokens)


def packers() -> dict[str, Packer]:
    costs = Costs(lengths=(2, 12), seconds=((1.0, 1.2, 1.6, 2.4), (6.0, 11.0, 21.0, 44.0)))
    return {"alone": Alone(), "ragged": Ragged(TOKENS), "padded": Padded(costs, tokens=TOKENS)}
