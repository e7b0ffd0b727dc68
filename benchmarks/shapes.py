"""`python -m benchmarks.shapes ARTEFACT ... --json FILE`: models alone, on texts that all have the same length.

Word pieces in, logits out; no tokeniser, no padding. Every artefact runs on every runtime asked for. Word pieces are
drawn at random, since no runtime looks at them. A call has so many texts; a target takes them in groups of the size
that is fastest for it, tried before the clock starts. Targets take turns, and ratios are to the first target in the
same round.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import turns
from benchmarks.report import deliver, measured, named, number, titled
from serve import machine
from serve.artefact import Artefact, load
from serve.encode import Feeds
from serve.engines import ENGINES
from serve.errors import BackendError
from serve.runtime import Session

SCHEMA = 1
KIND = "shapes"
TRIES = 3  # of each group size

Report = dict[str, Any]


@dataclass
class Target:
    name: str
    runtime: str
    artefact: Artefact
    model: str
    run: Any  # serve.engines.Engine, or the Session of a student of n-grams
    vocabulary: int  # word pieces that it knows; 0 for n-grams

    def feeds(self, batch: int, length: int) -> Feeds:
        ids = np.random.default_rng(0).integers(1000 % self.vocabulary, self.vocabulary, (batch, length))
        known = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: known[name] for name in self.artefact.manifest.encoder.inputs}

    def seconds(self, feeds: Feeds, group: int) -> float:
        texts = len(feeds["input_ids"])
        start = time.perf_counter()
        for first in range(0, texts, group):
            self.run({name: value[first : first + group] for name, value in feeds.items()})
        return time.perf_counter() - start

    @property
    def alone(self) -> bool:
        """Whether texts run one by one, since answers would depend on batch mates."""
        return self.artefact.manifest.models[self.model].batch == 1 and self.runtime == "onnxruntime"

    def group(self, feeds: Feeds) -> int:
        """The group size with the fastest call."""
        texts = len(feeds["input_ids"])
        sizes = [size for size in (1, 2, 4, 8, 16, 32, texts) if size <= texts]
        if self.alone:
            return 1
        return min(sizes, key=lambda size: min(self.seconds(feeds, size) for _ in range(TRIES)))


def targets(
    artefacts: Sequence[tuple[str, Path]],
    runtimes: Sequence[str],
    model: str | None,
    threads: int,
    *,
    ngrams: bool = False,
) -> list[Target]:
    """Each artefact on each runtime. ValueError for an unknown name, or where no runtime runs an artefact.

    Without `ngrams` each must read word pieces; with it a student of n-grams runs as the service runs it.
    """
    if unknown := [name for name in runtimes if name not in ENGINES]:
        raise ValueError(f"runtimes must be among {', '.join(ENGINES)}; got {', '.join(unknown)}")
    found = []
    for name, path in artefacts:
        artefact = load(path)
        key = model or artefact.manifest.served
        if key not in artefact.manifest.models:
            raise ValueError(f"{path} has no model {key!r}; it has {', '.join(artefact.manifest.models)}")
        reads_ngrams = artefact.manifest.encoder.kind == "ngram"
        if reads_ngrams and not ngrams:
            raise ValueError(
                f"{path} must read word pieces, of which texts of one length are drawn here; it reads n-grams of real "
                "texts: time it with python -m benchmarks.arrival"
            )
        size = 0 if reads_ngrams else _vocabulary(artefact)
        declined = []
        for runtime in runtimes:
            file = key
            if runtime.startswith("openvino") and "int8-static" in artefact.manifest.models and key == "int8":
                file = "int8-static"  # it has no fast path for onnxruntime's dynamic operators
            try:
                if reads_ngrams:
                    run: Any = Session(artefact, model=file, runtime=runtime, threads=threads)
                else:
                    run = ENGINES[runtime](artefact.path(file), device="cpu", threads=threads)
            except BackendError as error:
                declined.append(f"{runtime}: {error}")
                continue
            found.append(Target(titled(name, artefact.manifest.provenance), runtime, artefact, file, run, size))
        for reason in declined:
            print(f"{name} on {reason}", file=sys.stderr)
        if len(declined) == len(runtimes):
            raise ValueError(f"no runtime runs {path}: {'; '.join(declined)}")
    return found


def _vocabulary(artefact: Artefact) -> int:
    config = json.loads((artefact.root / "config.json").read_text(encoding="utf-8"))
    return int(config["vocab_size"])


def score(artefact: Artefact, model: str) -> dict[str, Any] | None:
    """What the artefact says of the file: value, low and high on its test split, else on validation."""
    manifest = artefact.manifest
    for split in ("test", "validation"):
        if model in (told := manifest.metrics.get(split, {})):
            return {"metric": manifest.task.metric, "split": split, **told[model]}
    return None


def measure(found: Sequence[Target], batches: Sequence[int], lengths: Sequence[int], rounds: int) -> Report:
    """Seconds of each call, round by round, of every target at every batch and length."""
    rows = [
        {
            "name": target.name,
            "runtime": target.runtime,
            "precision": target.artefact.manifest.models[target.model].precision,
            "method": target.artefact.manifest.models[target.model].method,
            "sparsity": max(target.artefact.manifest.sparsity.values(), default=0.0),
            "score": score(target.artefact, target.model),
            "calls": {},
        }
        for target in found
    ]
    for batch in batches:
        for length in lengths:
            feeds = [target.feeds(batch, length) for target in found]
            groups = [target.group(feed) for target, feed in zip(found, feeds, strict=True)]
            taken: list[list[float]] = [[] for _ in found]
            for _, at in turns(range(len(found)), rounds):
                taken[at].append(found[at].seconds(feeds[at], groups[at]))
            for row, seconds, group in zip(rows, taken, groups, strict=True):
                row["calls"][f"{batch}x{length}"] = {"group": group, "seconds": seconds}
            print(f"{batch} x {length} word pieces measured", file=sys.stderr)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "rounds": rounds,
        "rows": rows,
    }


def markdown(report: Report) -> str:
    shapes = list(report["rows"][0]["calls"])
    first = report["rows"][0]
    told = first.get("score")
    scored = f"{told['metric']}, {told['split']} [95 % interval]" if told else "score"
    header = ["target", "runtime", "precision", "zeros", scored]
    header += [f"texts/s, {shape.replace('x', ' x ')}" for shape in shapes]
    table = [header, ["---", "---", "---", *["---:"] * (len(shapes) + 2)]]
    for row in report["rows"]:
        cells = [row["name"].replace("|", "\\|"), row["runtime"], f"{row['precision']} ({row['method']})"]
        cells += [f"{row['sparsity']:.0%}", _score(row.get("score"))]
        table.append([*cells, *(_cell(row, first, shape) for shape in shapes)])
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([*lines, "", _conditions(report)]) + "\n"


def _cell(row: dict[str, Any], first: dict[str, Any], shape: str) -> str:
    mine, theirs = (np.array(one["calls"][shape]["seconds"]) for one in (row, first))
    ratios = theirs / mine
    rate = int(shape.split("x")[0]) / float(np.median(mine))
    return f"{number(rate)}, {np.median(ratios):.2f}x [{ratios.min():.2f}, {ratios.max():.2f}]"


def _score(told: dict[str, Any] | None) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**told) if told else "–"


def _conditions(report: Report) -> str:
    return (
        "Texts x word pieces a call; word pieces to logits, no tokenising or padding. Ratios to the first line: median "
        f"and range of {report['rounds']} rounds in which targets take turns. One thread. {measured(report)}"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", nargs="+", type=named, metavar="[NAME=]ARTEFACT")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime"], metavar="NAME")
    parser.add_argument("--model", help="Key of the manifest's models; left out: the served one.")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32], metavar="TEXTS")
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 32, 128], metavar="PIECES")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the report here.")
    options = parser.parse_args(arguments)
    return deliver(lambda: run(options), options.json, markdown)


def run(options: argparse.Namespace) -> Report:
    """The report; ValueError, before anything is timed, for what cannot be measured."""
    if min([*options.batches, *options.lengths, options.rounds]) < 1:
        raise ValueError("batches, lengths and rounds must be 1 or more")
    found = targets(options.artefacts, options.runtimes, options.model, threads=1)
    return measure(found, options.batches, options.lengths, options.rounds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
