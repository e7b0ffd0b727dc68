"""Which runtime answers a model's file quickest on this host: measured once, then read from the user's cache.

The cache holds a JSON file for each model file, processor, number of threads and versions of the runtimes. Workers that
start together take turns, so that one measures alone and the others read what it found. Without a cache that can be
written each of them measures for itself.

Measuring takes a process of its own (`python -m serve.choice`): the server shall not keep the memory of runtimes that
it does not use, nor end with two of them, since one that had opened onnxruntime 1.31 and OpenVINO 2026.4 ended with a
segmentation fault.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serve import cache, machine
from serve.encode import Encoded, WordPieces
from serve.engines import ENGINES, REFERENCE, Engine, answer
from serve.errors import BackendError, BantamError

Rates = dict[str, dict[str, float]]
CANDIDATES = ("bantam", "onnxruntime", "openvino")
REQUESTS = (1, 32)  # texts a call
SECONDS = 0.03  # of work a measurement, or a single call where that takes longer
ROUNDS = 2  # the best counts
HOPELESS = 0.25  # of the quickest in small calls: not measured in larger ones
NEARLY = 0.95  # of two runtimes this close the earlier candidate is taken
LENGTHS = (12, 20, 28, 48)  # word pieces of a text; few, since OpenVINO makes code for each shape that it meets
TRIAL = 120.0  # seconds that the process which measures may take
WAIT = 60.0  # seconds for another worker's trial; it may have to make the engine's file first
LIBRARY = Path(__file__).parent / "engine" / "built" / "libbantam.so"  # named here, since a Bento holds no engine


class Choice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str  # the quickest
    rates: Rates = {}  # runtime -> texts a call, as "1" -> texts a second; none for the only one
    declined: dict[str, str] = {}  # runtime -> why it does not run the file


def choose(path: Path, digest: str, pieces: WordPieces, *, batch: int, device: str = "cpu", threads: int = 1) -> Choice:
    """The runtime for an artefact's ONNX file of that sha256. Raises BantamError where none runs it."""
    target = _file(digest, device, threads, batch)
    if found := _kept(target):
        return found
    with _turn(target):
        if found := _kept(target):
            return found
        found = apart(path, pieces, batch=batch, device=device, threads=threads)
        if found is None:
            return unmeasured(path, device=device, threads=threads)
        _keep(target, found)
    return found


def apart(path: Path, pieces: WordPieces, *, batch: int, device: str, threads: int) -> Choice | None:
    """`trial` in a process of its own; None where it fails."""
    told = {"path": str(path), "batch": batch, "device": device, "threads": threads, "tokenizer": str(pieces.path)}
    told |= {"max_length": pieces.max_length, "pad_id": pieces.pad_id, "inputs": pieces.inputs}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serve.choice"],
            input=json.dumps(told).encode(),
            capture_output=True,
            env=environment,
            timeout=TRIAL,
        )
        return Choice.model_validate_json(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValidationError):
        return None


def main() -> None:
    """What `apart` starts: its words on standard input, the choice as the last line of standard output."""
    told = json.load(sys.stdin)
    fields = {name: told[name] for name in ("max_length", "pad_id", "inputs")}
    way = {name: told[name] for name in ("batch", "device", "threads")}
    found = trial(Path(told["path"]), WordPieces(told["tokenizer"], **fields), **way)
    sys.stdout.write("\n" + found.model_dump_json() + "\n")
    sys.stdout.flush()
    os._exit(0)  # not through the ends of the runtimes


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


def _file(digest: str, device: str, threads: int, batch: int) -> Path | None:
    """Where the choice is kept; None where this user has no cache."""
    packages = ("onnxruntime", "openvino", "numpy")
    facts: dict[str, Any] = {
        "model": digest,
        "device": device,
        "threads": threads,
        "batch": batch,
        "processor": machine.processor(),
        "versions": {name: machine.version(name) for name in packages},
        "engine": hashlib.sha256(LIBRARY.read_bytes()).hexdigest() if LIBRARY.is_file() else None,
        "path": os.environ.get("BANTAM_ENGINE_PATH"),
        "trial": [CANDIDATES, REQUESTS, SECONDS, ROUNDS, LENGTHS, HOPELESS],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    with suppress(RuntimeError):
        return cache.folder() / "runtimes" / f"{key}.json"
    return None


def _kept(target: Path | None) -> Choice | None:
    if target is None:
        return None
    try:
        found = Choice.model_validate_json(target.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged
        return None
    return found if found.runtime in CANDIDATES else None


def _keep(target: Path | None, choice: Choice) -> None:
    if target is None:
        return
    with suppress(OSError):  # nowhere to keep it: the next start measures again
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "w") as opened:
                opened.write(choice.model_dump_json(indent=2) + "\n")
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def _turn(target: Path | None) -> Iterator[None]:
    """One process at a time, for as long as the others are ready to wait; the lock ends with the process."""
    with ExitStack() as stack:
        if target is not None:
            with suppress(OSError, ImportError):  # a folder that cannot be written, a system without such locks
                import fcntl

                target.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(target.with_suffix(".lock").open("w"))
                end = time.monotonic() + WAIT
                while time.monotonic() < end:
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    time.sleep(0.05)
        yield


def opened(choice: Choice, path: Path, *, device: str, threads: int) -> tuple[Choice, Engine]:
    """The engine of a choice; where it no longer starts, the reference's, and the choice says so."""
    try:
        return choice, ENGINES[choice.runtime](path, device=device, threads=threads)
    except BackendError as error:
        if choice.runtime == REFERENCE:
            raise
        declined = {**choice.declined, choice.runtime: str(error)}
        other = Choice(runtime=REFERENCE, rates=choice.rates, declined=declined)
        return other, ENGINES[REFERENCE](path, device=device, threads=threads)


if __name__ == "__main__":
    main()
