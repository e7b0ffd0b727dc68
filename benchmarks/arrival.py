"""`python -m benchmarks.arrival ARTEFACT ... --data FILE --json FILE`: real texts in the order in which they come.

Every artefact on every runtime asked for, one thread, to labels: from word pieces, and from text. Calls of so many
texts are taken in arrival order, and a call runs as one group, padded to its longest text where a runtime needs
padding. That is not the best such a runtime can do, so `sorted` is measured too: all texts in one call, sorted by
length, in groups of the size that is fastest for it, tried before the clock starts. Padding and sorting count. Targets
take turns. A student of n-grams has no word pieces, so it is timed from text alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import shapes
from benchmarks.arrival_table import KIND, SCHEMA, SORTED, SOURCES, markdown
from benchmarks.data import load_texts
from benchmarks.measure import turns
from benchmarks.report import Report, deliver, named
from serve import machine
from serve.encode import Encoded, Text
from serve.encoders import AnyEncoder, open_encoder
from serve.engines import answer
from serve.runtime import Session
from serve.trial import GROUPS

TRIES = 2  # of each group size; the first meets its shapes for the first time

Call = Encoded | list[Text]


@dataclass
class Target:
    """A model on a runtime with the texts of the run, as `calls[source][way]`; of n-grams from text alone."""

    model: shapes.Target
    pieces: AnyEncoder
    calls: dict[str, dict[str, list[Call]]]
    group: int | None = None  # of `sorted`, once it is chosen; None for an engine that needs none

    @property
    def ragged(self) -> bool:
        """Whether it takes texts as they are, in no groups."""
        run = self.model.run
        return run.runtime == "bantam" if isinstance(run, Session) else hasattr(run, "ragged")

    @property
    def source(self) -> str:
        """What its model reads: word pieces, or text."""
        return next(iter(self.calls))

    def answers(self, call: Call, group: int) -> NDArray[np.int64]:
        run, group = self.model.run, 1 if self.model.alone else group
        if isinstance(run, Session):
            assert isinstance(call, list), "n-grams are timed from text"
            run.batch = group
            logits = run.logits(call)
        else:
            encoded = self.pieces.encode(call) if isinstance(call, list) else call
            logits = answer(run, self.pieces, encoded, group)
        labels: NDArray[np.int64] = logits.argmax(axis=1)
        return labels

    def seconds(self, source: str, way: str, clock: Callable[[], float]) -> float:
        """Of one pass over all texts."""
        return self._timed(self.calls[source][way], (self.group or 1) if way == SORTED else int(way), clock)

    def _timed(self, calls: list[Call], group: int, clock: Callable[[], float]) -> float:
        start = clock()
        for call in calls:
            self.answers(call, group)
        return clock() - start

    def choose(self, clock: Callable[[], float]) -> None:
        """The group size with the fastest pass over the sorted texts."""
        if self.ragged or self.model.alone:
            self.group = None if self.ragged else 1
            return
        calls = self.calls[self.source][SORTED]
        found = {
            size: min(self._timed(calls, size, clock) for _ in range(TRIES)) for size in GROUPS if size <= len(calls[0])
        }
        self.group = min(found, key=lambda size: found[size])


def targets(models: Sequence[shapes.Target], texts: list[Text], batches: Sequence[int]) -> list[Target]:
    """Each model with its own word pieces of the texts, cut into calls."""
    if len(texts) < max(batches):
        raise ValueError(f"there are {len(texts)} texts, too few for calls of {max(batches)}")
    ways = {**{str(batch): batch for batch in batches}, SORTED: len(texts)}
    cuts = {way: [slice(at, at + size) for at in range(0, len(texts), size)] for way, size in ways.items()}
    found = []
    for model in models:
        pieces = open_encoder(model.artefact)
        calls: dict[str, dict[str, list[Call]]] = {}
        if not isinstance(model.run, Session):
            encoded = pieces.encode(texts)
            calls["pieces"] = {way: [_part(encoded, cut) for cut in those] for way, those in cuts.items()}
        calls["text"] = {way: [texts[cut] for cut in those] for way, those in cuts.items()}
        found.append(Target(model, pieces, calls))
    return found


def _part(encoded: Encoded, cut: slice) -> Encoded:
    return Encoded(encoded.ids[cut], encoded.types[cut], encoded.truncated[cut])


def measure(
    found: Sequence[Target], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[dict[str, Any]]:
    """A row a target: the seconds of a pass over all texts in each round, by what it begins with and by way."""
    first: dict[str, NDArray[np.int64]] = {}
    rows = []
    for target in found:
        target.choose(clock)
        for way in target.calls[target.source]:
            target.seconds(target.source, way, clock)  # some runtimes make code for each shape that they meet
        labels = target.answers(target.calls[target.source][SORTED][0], target.group or 1)
        same = labels == first.setdefault(target.model.name, labels)
        rows.append({**_about(target), "same_labels": float(same.mean())})
        print(f"{target.model.name} on {target.model.runtime} is warm", file=sys.stderr)
    ways = found[0].calls["text"]
    every = [(source, way, at) for source in SOURCES for way in ways for at in range(len(found))]
    cells = [(source, way, at) for source, way, at in every if source in found[at].calls]
    for done, (_, (source, way, at)) in enumerate(turns(cells, rounds), start=1):
        rows[at]["seconds"][source][way].append(found[at].seconds(source, way, clock))
        if done % len(cells) == 0:
            print(f"round {done // len(cells)} of {rounds} measured", file=sys.stderr)
    return rows


def _about(target: Target) -> dict[str, Any]:
    manifest = target.model.artefact.manifest
    file = manifest.models[target.model.model]
    return {
        "name": target.model.name,
        "runtime": target.model.runtime,
        "precision": file.precision,
        "method": file.method,
        "sparsity": max(manifest.sparsity.values(), default=0.0),
        "group": target.group,
        "seconds": {source: {way: [] for way in ways} for source, ways in target.calls.items()},
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", nargs="+", type=named, metavar="[NAME=]ARTEFACT")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="texts: parquet, csv, tsv or jsonl")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino", "bantam"], metavar="NAME")
    parser.add_argument("--model", help="Key of the manifest's models; left out: the served one.")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 32], metavar="TEXTS")
    parser.add_argument("--texts", type=int, default=256, help="at most so many, evenly spaced over the file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write the report here.")
    options = parser.parse_args(arguments)
    return deliver(lambda: run(options), options.json, markdown)


def run(options: argparse.Namespace) -> Report:
    """The report; ValueError, before anything is timed, for what cannot be measured."""
    if min([*options.batches, options.rounds]) < 1:
        raise ValueError("batches and rounds must be 1 or more")
    models = shapes.targets(options.artefacts, options.runtimes, options.model, threads=1, ngrams=True)
    check_alike(models, len(options.artefacts))
    name, texts = load_texts(options.data, models[0].artefact.manifest.task, limit=options.texts)
    found = targets(models, texts, options.batches)
    counted = next((target for target in found if "pieces" in target.calls), found[0])
    lengths = counted.pieces.encode(texts).lengths()
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "data": {
            "name": name,
            "texts": len(texts),
            "counted": "word pieces" if "pieces" in counted.calls else "words",
            "pieces_mean": float(np.mean(lengths)),
            "pieces_max": max(lengths),
        },
        "rounds": options.rounds,
        "rows": measure(found, options.rounds),
    }


def check_alike(models: Sequence[shapes.Target], artefacts: int) -> None:
    """ValueError unless the artefacts have names of their own, and all classify single texts, or all pairs."""
    if len({model.name for model in models}) < artefacts:
        raise ValueError("every artefact must have a name of its own; give them as NAME=ARTEFACT")
    inputs = models[0].artefact.manifest.task.inputs
    for model in models:
        task = model.artefact.manifest.task
        if task.kind != "classification" or task.inputs != inputs:
            raise ValueError(
                f"every artefact must classify {inputs} text(s) at a time, as {models[0].name} takes them; "
                f"{model.name} is for {task.kind} of {task.inputs}"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
