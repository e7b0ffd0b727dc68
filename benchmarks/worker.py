"""One target alone in a process, so that threads and peak memory are its own: `python -m benchmarks.worker`.

Speaks JSON lines: orders on standard input, answers on standard output, an end of input ends it.
Libraries that print are sent to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.targets import Spec, Target, open_target

Order = dict[str, Any]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    target = None
    try:
        start = json.loads(sys.stdin.readline())
        texts = [
            text if isinstance(text, str) else tuple(text) for text in json.loads(Path(start["texts"]).read_text())
        ]
        target = open_target(Spec(**start["spec"]), texts)
        _say(answers, {"ok": True, "runtime": target.runtime})
        for line in sys.stdin:
            _say(answers, {"ok": True, **_obey(target, texts, json.loads(line))})
    except Exception as error:  # told to the parent, which raises it again
        mendable = isinstance(error, ValueError)
        _say(answers, {"ok": False, "error": f"{error}", "kind": type(error).__name__, "mendable": mendable})
        raise
    finally:
        if target is not None:
            target.close()


def _obey(target: Target, texts: list[Any], order: Order) -> Order:
    if order["do"] == "evaluate":
        start = time.perf_counter()
        step = order["chunk"]
        parts = [target.logits(texts[first : first + step]) for first in range(0, len(texts), step)]
        seconds = time.perf_counter() - start
        np.save(order["to"], np.concatenate(parts))
        return {"seconds": seconds}
    if order["do"] == "window":
        rows = [texts[row] for row in order["rows"]]
        window = target.window(rows, batch=order["batch"], clients=order["clients"], seconds=order["seconds"])
        return {"window": window.as_dict()}
    assert order["do"] == "memory", order
    return {"peak_memory_bytes": target.peak_memory()}


def _say(answers: IO[str], answer: Order) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
