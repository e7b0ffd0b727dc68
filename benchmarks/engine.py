"""`python -m benchmarks.engine ARTEFACT ...`: where our own engine's time goes, and how near its products come to the
fastest that the processor multiplies.

One thread, word pieces in, logits out. Word pieces are drawn at random, since the engine does not look at them. Of each
call the fastest of many counts: on a busy machine the others tell of its neighbours. Products are counted as if no
weight were zero, so that sparse ones may pass the peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from serve import machine
from serve.artefact import load
from serve.engine.library import Compiled, multiply
from serve.engine.network import Declined, Network
from serve.engine.reading import network
from serve.engine.runtime import config_of, opened

PEAK_ROUNDS = 400_000  # about a millisecond


def products(found: Network, lengths: list[int]) -> int:
    """Multiplications of all dense layers for texts of these lengths; the last layer ends with the first tokens."""
    tokens, texts, total = sum(lengths), len(lengths), 0
    for at, layer in enumerate(found.layers):
        rows = texts if at == len(found.layers) - 1 else tokens
        for one in (layer.query, layer.key, layer.value):
            total += tokens * one.weight.size if one else 0
        total += rows * (layer.out.weight.size + layer.down.weight.size + (layer.up.weight.size if layer.up else 0))
    return total + texts * sum(one.weight.size for one in found.head)


def peak(path: str, seconds: float = 0.2) -> float:
    """Multiplications a second of the path's own instruction, from registers alone."""
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        best = max(best, multiply(PEAK_ROUNDS, path=path) / (time.perf_counter() - start))
    return best


def measure(engine: Compiled, found: Network, lengths: list[int], seconds: float) -> dict[str, Any]:
    """The fastest call with texts of these lengths, and the shares of its parts."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, engine.vocabulary, length) for length in lengths]
    fastest, ticks, before = np.inf, dict[str, int](), 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not ticks:
        engine.times()
        start = time.perf_counter()
        engine.run(ids)
        before, taken = fastest, time.perf_counter() - start
        if taken < before:
            fastest, ticks = taken, engine.times()
    shares = {name: count / max(sum(ticks.values()), 1) for name, count in ticks.items()}
    rate = products(found, lengths) / (fastest * shares["products"]) if shares["products"] else 0.0
    top = peak(engine.path)
    return {
        "texts": len(lengths),
        "tokens": sum(lengths),
        "texts_per_second": len(lengths) / fastest,
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "gmac_per_second": rate / 1e9,
        "peak_gmac_per_second": top / 1e9,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    arguments.add_argument("artefacts", nargs="+", type=Path, metavar="ARTEFACT")
    arguments.add_argument("--model", help="key of the artefact's models (default: the served one)")
    arguments.add_argument("--path", help="path of the engine (default: the best here)")
    arguments.add_argument("--lengths", default="16,32,128", help="word pieces of a text")
    arguments.add_argument("--batches", default="1,32", help="texts of a call")
    arguments.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    arguments.add_argument("--json", type=Path, metavar="FILE")
    given = arguments.parse_args()
    report: dict[str, Any] = {"kind": "engine", "machine": machine.describe(), "rows": []}
    for root in given.artefacts:
        artefact = load(root)
        path = artefact.path(given.model or artefact.manifest.served)
        try:
            engine = opened(path, code_path=given.path, timed=True)
            found = network(path, config_of(path))
        except Declined as declined:
            sys.exit(f"error: the engine does not run {root}: {declined}")
        for length in (int(word) for word in given.lengths.split(",")):
            for batch in (int(word) for word in given.batches.split(",")):
                row = measure(engine, found, [min(length, engine.longest)] * batch, given.seconds)
                report["rows"].append({"name": root.name, "path": engine.path, "length": length, **row})
                _print(report["rows"][-1])
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def _print(row: dict[str, Any]) -> None:
    parts = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
    top = row["peak_gmac_per_second"]
    near = f", {row['gmac_per_second'] / top:.0%} of the peak of {top:.0f}" if top else ""
    print(
        f"{row['name']} {row['path']} {row['texts']} x {row['length']}: {row['texts_per_second']:.0f} texts/s; "
        f"{parts}; products {row['gmac_per_second']:.0f} GMAC/s{near}",
        flush=True,
    )


if __name__ == "__main__":
    main()
