"""Which runtime answers a model's file quickest on this host, and what its runs take.

Both are measured once for each model file, processor, number of threads and versions of the runtimes (`host_cache`).

Measuring takes a process of its own (`python -m serve.choice`): the server shall not keep the memory of runtimes that
it does not use, nor end with two of them, since one that had opened onnxruntime 1.31 and OpenVINO 2026.4 ended with a
segmentation fault.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serve import costs
from serve.costs import Costs
from serve.encode import Encoded, WordPieces
from serve.engines import ENGINES, REFERENCE, Engine, answer, open_engine
from serve.errors import BackendError, BantamError
from serve.host_cache import once_a_host, place

Rates = dict[str, dict[str, float]]
CANDIDATES = ("bantam", "onnxruntime", "openvino")
REQUESTS = (1, 32)  # texts a call
SECONDS = 0.03  # of work a measurement, or a single call where that takes longer
ROUNDS = 2  # the best counts
HOPELESS = 0.25  # of the quickest in small calls: not measured in larger ones
NEARLY = 0.95  # of two runtimes this close the earlier candidate is taken
EXACT = "bantam"  # its 8-bit products overflow on no processor
OVERFLOW = "this processor has no VNNI: sums of two 8-bit products overflow in this runtime, and answers would differ"
LENGTHS = (12, 20, 28, 48)  # word pieces of a text; few, since OpenVINO makes code for each shape that it meets
TRIAL = 120.0  # seconds that the process which measures may take

Found = TypeVar("Found", bound=BaseModel)


class Choice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str  # the quickest
    rates: Rates = {}  # runtime -> texts a call, as "1" -> texts a second; none for the only one
    declined: dict[str, str] = {}  # runtime -> why it does not run the file


def choose(path: Path, digest: str, pieces: WordPieces, *, batch: int, device: str = "cpu", threads: int = 1) -> Choice:
    """The runtime for an artefact's ONNX file of that sha256. Raises BantamError where none runs it."""
    facts: dict[str, Any] = {"model": digest, "device": device, "threads": threads, "batch": batch}
    facts["trial"] = [CANDIDATES, REQUESTS, SECONDS, ROUNDS, LENGTHS, HOPELESS]
    found = once_a_host(
        place("runtimes", facts),
        Choice,
        lambda: apart(path, pieces, batch=batch, device=device, threads=threads),
        sound=lambda found: found.runtime in CANDIDATES,
    )
    return found or unmeasured(path, device=device, threads=threads)


def costs_of(
    path: Path, digest: str, pieces: WordPieces, *, runtime: str, alone: bool, device: str = "cpu", threads: int = 1
) -> Costs | None:
    """What runs of that file take in a runtime, for `serve.batching`; None where measuring fails."""
    facts: dict[str, Any] = {"model": digest, "device": device, "threads": threads, "runtime": runtime, "alone": alone}
    facts["trial"] = [costs.GROUPS, costs.LENGTHS, costs.RAGGED, costs.SECONDS, costs.ROUNDS, pieces.max_length]
    told: dict[str, Any] = {"runtime": runtime, "alone": alone, "device": device, "threads": threads}
    return once_a_host(place("batches", facts), Costs, lambda: _in_a_process(Costs, path, pieces, told))


def apart(path: Path, pieces: WordPieces, *, batch: int, device: str, threads: int) -> Choice | None:
    """`trial` in a process of its own; None where it fails."""
    return _in_a_process(Choice, path, pieces, {"batch": batch, "device": device, "threads": threads})


def _in_a_process(kind: type[Found], path: Path, pieces: WordPieces, way: Mapping[str, Any]) -> Found | None:
    told = {"path": str(path), "tokenizer": str(pieces.path), "way": way}
    told["pieces"] = {"max_length": pieces.max_length, "pad_id": pieces.pad_id, "inputs": pieces.inputs}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serve.choice"],
            input=json.dumps(told).encode(),
            capture_output=True,
            env=environment,
            timeout=TRIAL,
        )
        return kind.model_validate_json(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValidationError):
        return None


def main() -> None:
    """What that starts: its words on standard input, what was found as the last line of standard output."""
    told = json.load(sys.stdin)
    path, way = Path(told["path"]), told["way"]
    pieces = WordPieces(told["tokenizer"], **told["pieces"])
    found = _costs(path, pieces, **way) if "runtime" in way else trial(path, pieces, **way)
    sys.stdout.write("\n" + found.model_dump_json() + "\n")
    sys.stdout.flush()
    os._exit(0)  # not through the ends of the runtimes


def _costs(path: Path, pieces: WordPieces, *, runtime: str, alone: bool, device: str, threads: int) -> Costs:
    engine = ENGINES[runtime](path, device=device, threads=threads)
    return costs.measured(engine, pieces, alone=alone, device=device, threads=threads)


def unmeasured(path: Path, *, device: str, threads: int) -> Choice:
    """The first candidate that runs the file. Raises the reference's BantamError where none does."""
    declined = dict[str, str]()
    for name in CANDIDATES:
        try:
            ENGINES[name](path, device=device, threads=threads)
        except BantamError as error:
            if name == REFERENCE:
                raise
            declined[name] = str(error)
        else:
            return Choice(runtime=name, declined=declined)
    raise AssertionError("the reference is a candidate")


def exact(path: Path, *, device: str, threads: int) -> tuple[Choice | None, dict[str, str]]:
    """Our engine for an INT8 file on a processor where the others' products overflow; and why they, or it, decline."""
    lost = {name: OVERFLOW for name in CANDIDATES if name != EXACT}
    try:
        ENGINES[EXACT](path, device=device, threads=threads)
    except BantamError as error:
        return None, {EXACT: str(error), **lost}
    return Choice(runtime=EXACT), lost


def trial(path: Path, pieces: WordPieces, *, batch: int, device: str, threads: int) -> Choice:
    """Measure every candidate that runs the file."""
    engines, declined = dict[str, Engine](), dict[str, BantamError]()
    for name in CANDIDATES:
        try:
            engines[name] = ENGINES[name](path, device=device, threads=threads)
        except BantamError as error:
            declined[name] = error
    if not engines:
        raise declined[REFERENCE]
    rates = _measured(engines, pieces, batch, threads) if len(engines) > 1 else {}
    reasons = {name: str(error) for name, error in declined.items()}
    return Choice(runtime=best(rates) if rates else next(iter(engines)), rates=rates, declined=reasons)


def best(rates: Mapping[str, Mapping[str, float]]) -> str:
    """The first whose geometric mean of rates is NEARLY the highest, of those that were measured in all calls."""
    whole = max(map(len, rates.values()))
    means = {name: float(np.exp(np.mean(np.log([*one.values()])))) for name, one in rates.items() if len(one) == whole}
    return next(name for name, mean in means.items() if mean >= NEARLY * max(means.values()))


def _measured(engines: Mapping[str, Engine], pieces: WordPieces, batch: int, threads: int) -> Rates:
    # A second of one thread's work is one of processor time: busy neighbours do not choose. Several threads wait, too.
    clock = time.process_time if threads == 1 else time.perf_counter
    some, found = _texts(pieces, max(REQUESTS)), {name: dict[str, float]() for name in engines}

    def rate(engine: Engine, requests: Sequence[Encoded]) -> float:
        start, done = clock(), 0
        while not done or clock() - start < SECONDS:
            answer(engine, pieces, requests[done % len(requests)], batch)
            done += 1
        return done * len(requests[0]) / max(clock() - start, 1e-9)

    left = dict(engines)
    for size in REQUESTS:
        requests = [_cut(some, at, size) for at in range(0, len(some), size)][: len(LENGTHS)]
        for engine in left.values():
            for request in requests:  # what is made ready by the first call of a shape
                answer(engine, pieces, request, batch)
        for _ in range(ROUNDS):  # in turn, so that all see the same neighbours
            for name, engine in left.items():
                found[name][str(size)] = max(found[name].get(str(size), 0.0), round(rate(engine, requests), 1))
        quickest = max(found[name][str(size)] for name in left)
        left = {name: engine for name, engine in left.items() if found[name][str(size)] >= HOPELESS * quickest}
    return found


def _texts(pieces: WordPieces, count: int) -> Encoded:
    """Word pieces at random: no runtime looks at what they say."""
    rng, known = np.random.default_rng(0), np.array(sorted(pieces.vocabulary().values()))
    ids = [rng.choice(known, min(LENGTHS[at % len(LENGTHS)], pieces.max_length)) for at in range(count)]
    return Encoded(ids, [np.zeros_like(row) for row in ids], [False] * count)


def _cut(texts: Encoded, at: int, size: int) -> Encoded:
    return Encoded(texts.ids[at : at + size], texts.types[at : at + size], texts.truncated[at : at + size])


def opened(choice: Choice, path: Path, *, device: str, threads: int, callers: int = 1) -> tuple[Choice, Engine]:
    """The engine of a choice; where it no longer starts, the reference's, and the choice says so."""
    try:
        return choice, open_engine(choice.runtime, path, device=device, threads=threads, callers=callers)
    except BackendError as error:
        if choice.runtime == REFERENCE:
            raise
        declined = {**choice.declined, choice.runtime: str(error)}
        other = Choice(runtime=REFERENCE, rates=choice.rates, declined=declined)
        return other, ENGINES[REFERENCE](path, device=device, threads=threads)


if __name__ == "__main__":
    main()
