"""Twice as many requests as the service can answer, by a clock that does not wait for it."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.reliability.figures import settled
from benchmarks.reliability.judge import Found, Row, found, row
from benchmarks.reliability.load import Plan, Sent, send
from benchmarks.reliability.service import Place, Service, cores

SECONDS = 120.0
CLIENTS = (8, 32)  # of the closed loops, the better of which is the peak
SHED = {"200", "429", "503"}  # statuses that overload may give
WITHIN = 1.0  # seconds until things are normal again
USUAL = 2.0  # times the p99 of before that is normal


def check(place: Place) -> Found:
    seconds = place.seconds or SECONDS
    calm = max(0.5, seconds / 8)
    with place.start(cores(), place.keyed()) as service:
        closed = [_closed(service, place, clients, max(0.4, seconds / 16)) for clients in CLIENTS]
        peak = max(sent.rate() for sent in closed)
        if not peak:
            raise ValueError(f"no request of a closed loop was answered with 200: {closed[0].statuses()}")
        phases = ((peak / 2, calm), (2 * peak, seconds), (peak / 2, calm))
        plain = place.plain(f"x-request-timeout-ms: {place.deadline * 1000:.0f}")
        before = service.cpu()
        sent = send(service.port, Plan(plain, phases=phases), place.scratch)
        cpu = service.cpu() - before
    return judged(sent, peak, phases, place.deadline, cpu / max(1, len(sent)) * 1e6)


def judged(sent: Sent, peak: float, phases: tuple[tuple[float, float], ...], deadline: float, cpu: float) -> Found:
    """`phases` are half of `peak`, twice, and half again; `cpu` the server's microseconds a request."""
    starts = [sent.begun]
    for _, length in phases:
        starts.append(starts[-1] + length)
    half, over, after = (sent.part(*ends) for ends in pairwise(starts))
    calm, rush = half.latency(), over.latency()
    # A request may wait until its deadline for its turn; then it takes as long as any.
    bound = deadline + (calm["p99"] or 0.0) / 1e3
    inside = (sent.seconds <= bound) & (sent.done >= over.begun) & (sent.done < over.ended)
    goodput = float(inside.sum()) / phases[1][1]
    others = sum(count for status, count in sent.statuses().items() if status not in SHED)
    ratio = calm["p99"] / calm["p50"] if calm["p99"] and calm["p50"] else None
    rows: list[Row] = [
        row("peak of a closed loop", peak, "requests/s"),
        row("half of it, open loop: p50", calm["p50"], "ms"),
        row("half of it, open loop: p99 over p50", ratio, "times", most=3.0),
        row("half of it, open loop: not answered with 200", len(half) - int(half.good.sum()), most=0),
        row("twice of it: goodput, of the peak", goodput / peak, "%", least=0.9),
        row("twice of it: p50 of the accepted", rush["p50"], "ms"),
        row("twice of it: p99 of the accepted", rush["p99"], "ms", most=bound * 1e3),
        row("neither 200 nor 429 nor 503", others, most=0),
        row("until p99 is normal again", _back(after, calm["p99"]), "s", most=WITHIN),
        row("p99 of what the sender was late", sent.behind(), "ms", most=deadline * 250),
        row("the sender's CPU, of the server's, a request", sent.client() / cpu if cpu else None, "%", most=1.0),
    ]
    statuses = {"half": half.statuses(), "twice": over.statuses(), "after": after.statuses()}
    return found(rows, statuses=statuses, client_us=sent.client(), server_us=cpu, latency={"half": calm, "twice": rush})


def _closed(service: Service, place: Place, clients: int, seconds: float) -> Sent:
    sent = send(service.port, Plan(place.plain(), clients=clients, seconds=1.2 * seconds), place.scratch)
    return sent.part(sent.begun + 0.2 * seconds, sent.ended)  # once it is warm


def _back(after: Sent, p99: float | None) -> float | None:
    if p99 is None:
        return None
    window = min(1.0, (after.ended - after.begun) / 4)
    ends = {"after": after.begun, "until": after.ended}
    return settled(after.due, after.seconds, normal=USUAL * p99 / 1e3, window=window, **ends)
