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
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Row, check_target, measured, named, number, titled, write
from serve import machine
from serve.artefact import load
from serve.engine.library import Compiled, multiply
from serve.engine.network import Declined, Network
from serve.engine.reading import network
from serve.engine.runtime import config_of, opened

SCHEMA = 1
KIND = "engine"
PEAK_ROUNDS = 400_000  # about a millisecond
CALLS = 3  # at least
PARTS = ("products", "attention", "the rest")  # of a call's time, as the table has them


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
    fastest, ticks, calls = np.inf, dict[str, int](), 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or calls < CALLS:
        engine.times()
        start = time.perf_counter()
        engine.run(ids)
        taken, calls = time.perf_counter() - start, calls + 1
        if taken < fastest:
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


def rows(name: str, root: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A row for each length and number of texts. ValueError where the engine does not run the artefact."""
    artefact = load(root)
    file = artefact.path(options.model or artefact.manifest.served)
    try:
        engine = opened(file, code_path=options.path, timed=True)
        found = network(file, config_of(file))
    except Declined as declined:
        raise ValueError(f"the engine does not run {root}: {declined}") from None
    about = {
        "name": titled(name, artefact.manifest.provenance),
        "path": engine.path,
        "sparsity": max(artefact.manifest.sparsity.values(), default=0.0),
    }
    for length in options.lengths:
        for batch in options.batches:
            fits = min(length, engine.longest)
            yield {**about, "length": fits, **measure(engine, found, [fits] * batch, options.seconds)}


def _numbers(words: str) -> list[int]:
    found = words.split(",")
    if not all(word.isdecimal() and int(word) for word in found):
        raise ValueError(f"lengths and batches must be whole numbers from 1 on, with commas between, got {words!r}")
    return [int(word) for word in found]


def markdown(report: Report) -> str:
    head = ["target", "zeros", "texts x word pieces", "texts/s", *PARTS, "products, GMAC/s", "of the peak"]
    table = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in report["rows"]:
        shares = row["shares"]
        parts = {**{name: shares[name] for name in PARTS[:-1]}, PARTS[-1]: 1 - sum(shares[name] for name in PARTS[:-1])}
        top = row["peak_gmac_per_second"]
        table.append(
            [
                row["name"].replace("|", "\\|"),
                f"{row['sparsity']:.0%}",
                f"{row['texts']} x {row['length']}",
                number(row["texts_per_second"]),
                *(f"{share:.0%}" for share in parts.values()),
                number(row["gmac_per_second"]),
                f"{row['gmac_per_second'] / top:.0%}" if top else "–",
            ]
        )
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([*lines, "", _conditions(report)]) + "\n"


def _conditions(report: Report) -> str:
    peaks = [row["peak_gmac_per_second"] for row in report["rows"]]
    ways = {row["path"] for row in report["rows"]}
    fused = "Products of this path end with the activation and its bytes where the file has their range. "
    return (
        f"The engine's path {', '.join(sorted(ways))}, one thread, word pieces to "
        "logits, the fastest of many calls. Shares are of that call's time. GMAC/s count products as if no weight were "
        "zero, so that skipped blocks may pass the peak: that is what the path's own instruction multiplies from "
        f"registers alone, {number(min(peaks))} to {number(max(peaks))} GMAC/s when each line was measured. "
        f"{fused if 'amx' in ways else ''}{measured(report)}"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", nargs="+", type=named, metavar="[NAME=]ARTEFACT")
    parser.add_argument("--model", help="key of the artefact's models (default: the served one)")
    parser.add_argument("--path", help="path of the engine (default: the best here)")
    parser.add_argument("--lengths", default="16,32,128", help="word pieces of a text")
    parser.add_argument("--batches", default="1,32", help="texts of a call")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        options.lengths, options.batches = _numbers(options.lengths), _numbers(options.batches)
        if options.json:
            check_target(options.json)
        report: Report = {
            "schema": SCHEMA,
            "kind": KIND,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe(),
            "rows": [],
        }
        for name, root in options.artefacts:
            for row in rows(name, root, options):
                report["rows"].append(row)
                _print(row)
        if options.json:
            write(options.json, json.dumps(report, indent=2) + "\n")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _print(row: Row) -> None:
    parts = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
    top = row["peak_gmac_per_second"]
    near = f", {row['gmac_per_second'] / top:.0%} of the peak of {top:.0f}" if top else ""
    print(
        f"{row['name']} {row['path']} {row['texts']} x {row['length']}: {row['texts_per_second']:.0f} texts/s; "
        f"{parts}; products {row['gmac_per_second']:.0f} GMAC/s{near}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
