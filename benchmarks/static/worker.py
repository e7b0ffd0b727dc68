"""One order for one peer, in the peer's own environment: `python -I worker.py PEER.py`, nothing of ours imported.

The order is a JSON object on standard input; JSON lines come on standard output, of which the last has "ok". What
libraries print goes to standard error. A peer's file defines four functions:

    train(texts, labels, settings, *, seed, scratch) -> model    `scratch` is a folder for files that may go
    save(model, folder)                                          all that `load` needs, and nothing else
    load(folder) -> model
    predict(model, texts) -> labels                              as its users call it, their pre-processing included
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

WARM = 0.1  # share of a window's time that is run before the clock starts

Order = dict[str, Any]
Say = Callable[[Order], None]


def choose(peer: ModuleType, order: Order, say: Say) -> Order:
    """Each of the grid's settings trained, and its accuracy on the selection split."""
    data = json.loads(Path(order["data"]).read_text(encoding="utf-8"))
    tried = []
    for settings in order["grid"]:
        model, spent = _trained(peer, data, settings, order["seed"])
        right = _accuracy(peer.predict(model, data["selection"]["texts"]), data["selection"]["labels"])
        del model  # before the next one is built: some take a gigabyte
        tried.append({"settings": settings, "accuracy": right, **spent})
        say({"tried": tried[-1]})
    return {"tried": tried}


def train(peer: ModuleType, order: Order, say: Say) -> Order:
    """A model trained and saved to the folder `to`, with what that took."""
    data = json.loads(Path(order["data"]).read_text(encoding="utf-8"))
    model, spent = _trained(peer, data, order["settings"], order["seed"])
    memory = peak_memory()
    folder = Path(order["to"])
    peer.save(model, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    versions = {name: metadata.version(name) for name in order["packages"]}
    rows = len(data["train"]["texts"])
    return {**spent, "rows": rows, "peak_memory_bytes": memory, "size_bytes": size, "versions": versions}


def measure(peer: ModuleType, order: Order, say: Say) -> Order:
    """What a saved model answers to all the reported texts, and how fast it answers some of them."""
    splits = json.loads(Path(order["data"]).read_text(encoding="utf-8"))
    model = peer.load(Path(order["from"]))
    answers = {name: list(peer.predict(model, texts)) for name, texts in splits.items()}
    timed = [splits[order["split"]][row] for row in order["rows"]]
    rates = {}
    for batch in order["batches"]:
        say({"timing": batch})
        windows = [
            window(lambda texts: peer.predict(model, texts), timed, batch=batch or len(timed), seconds=order["seconds"])
            for _ in range(order["windows"])
        ]
        rates[str(batch or "all")] = _summary(windows)
    return {"answers": answers, "rates": rates, "peak_memory_bytes": peak_memory()}


def window(predict: Callable[[list[str]], Any], texts: Sequence[str], *, batch: int, seconds: float) -> Order:
    """Whole passes over `texts` in calls of `batch` until `seconds` have gone by; a tenth of it first, to warm up."""
    calls = [list(texts[first : first + batch]) for first in range(0, len(texts), batch)]
    warm_until = time.perf_counter() + WARM * seconds
    for call in calls:
        predict(call)
        if time.perf_counter() >= warm_until:
            break
    gc.collect()
    passes = 0
    cpu, start = time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        for call in calls:
            predict(call)
        passes += 1
    return {
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "texts": passes * len(texts),
    }


def peak_memory() -> int | None:
    """High-water mark of this process's resident memory in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _trained(peer: ModuleType, data: Order, settings: Order, seed: int) -> tuple[Any, Order]:
    """The model, and the seconds that it took. Texts come in an order of the seed: some files lie sorted by label."""
    rows = list(zip(data["train"]["texts"], data["train"]["labels"], strict=True))
    random.Random(seed).shuffle(rows)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    with tempfile.TemporaryDirectory(prefix="bantam-peer-") as scratch:
        cpu, start = time.process_time(), time.perf_counter()
        model = peer.train(texts, labels, settings, seed=seed, scratch=Path(scratch))
        return model, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def _accuracy(found: Sequence[str], labels: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(found, labels, strict=True)) / len(labels)


def _summary(windows: list[Order]) -> Order:
    rates = [part["texts"] / part["wall"] for part in windows]
    return {
        "texts_per_second": statistics.median(rates),
        "texts_per_second_windows": rates,
        "cpu_seconds_per_text": sum(part["cpu"] for part in windows) / sum(part["texts"] for part in windows),
    }


ORDERS = {"choose": choose, "train": train, "measure": measure}


def main(file: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Order) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        order = json.loads(sys.stdin.readline())
        spec = importlib.util.spec_from_file_location("peer", file)
        assert spec is not None and spec.loader is not None
        peer = importlib.util.module_from_spec(spec)
        sys.modules["peer"] = peer  # where dataclasses and pickles look for it
        spec.loader.exec_module(peer)
        say({"ok": True, **ORDERS[order["do"]](peer, order, say)})
    except Exception as error:  # told to the other end, which raises it again
        say({"ok": False, "error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main(sys.argv[1])
