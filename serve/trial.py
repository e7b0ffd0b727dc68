"""How fast files answer on this host: one thread, real texts at their real lengths, tokenisation included.

A second here is a second of processor time, so that busy neighbours do not choose the file.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from serve.encode import Text
from serve.runtime import Session

GROUPS = (1, 2, 4, 8, 16, 32)  # texts a run at most
REQUESTS = (1, 32)  # texts a call
SECONDS = 0.2  # of work a measurement, about
ROUNDS = 3  # the best counts; rounds take turns over the files, so that all see the same neighbours


def speeds(sessions: Mapping[str, Session], texts: Sequence[Text]) -> dict[str, dict[str, float]]:
    """Texts a second of each session, by the number of texts a call ("1", "32")."""
    found = {name: {str(size): 0.0 for size in REQUESTS} for name in sessions}
    chosen = {name: sample(session, texts) for name, session in sessions.items()}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            for size in REQUESTS:
                found[name][str(size)] = max(found[name][str(size)], _rate(session, chosen[name], size))
    return {name: {size: round(rate, 1) for size, rate in rates.items()} for name, rates in found.items()}


def best_group(session: Session, texts: Sequence[Text]) -> int:
    """The group size with the most texts a second in calls of 32; the smallest of those within 2 % of it."""
    before, chosen = session.batch, sample(session, texts)
    rates = dict.fromkeys(GROUPS, 0.0)
    try:
        for _ in range(ROUNDS):
            for size in GROUPS:
                session.batch = size
                rates[size] = max(rates[size], _rate(session, chosen, 32))
    finally:
        session.batch = before
    return next(size for size in GROUPS if rates[size] >= 0.98 * max(rates.values()))


def sample(session: Session, texts: Sequence[Text], *, seed: int = 0) -> list[Text]:
    """32 to 256 texts, as many as take about SECONDS."""
    order = np.random.default_rng(seed).permutation(len(texts))
    some = [texts[row] for row in order[:256]]
    some = (some * (32 // len(some) + 1))[: max(32, len(some))]
    rate = _rate(session, some[:8], 1)
    return some[: int(np.clip(rate * SECONDS, 32, len(some))) // 32 * 32]


def _rate(session: Session, texts: Sequence[Text], size: int) -> float:
    start = time.process_time()
    for at in range(0, len(texts), size):
        session.logits(texts[at : at + size])
    return len(texts) / max(time.process_time() - start, 1e-9)
