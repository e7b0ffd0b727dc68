"""`python -m benchmarks.peers ARTEFACT --data FILE --json FILE`: the service beside its peers over HTTP.

Each peer is installed into an environment of its own in the cache, when first asked for, and serves the artefact's
ONNX file with the same onnxruntime. Servers take turns; each is started, held against our labels, loaded and ended
before the next. The report is written after each turn, and `--resume` goes on with what it lacks. A peer that cannot
be measured is left out, and the table says why.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data as rows_of
from benchmarks.measure import turns as in_turn
from benchmarks.peers import environment
from benchmarks.peers.bundle import bundle, is_ngram
from benchmarks.peers.catalogue import PEERS, SERVED, SERVERS, chosen
from benchmarks.peers.report import KIND, SCHEMA, Report, markdown
from benchmarks.peers.turn import LIST, Task, take
from benchmarks.report import check_target, is_kind, read_kind, write
from serve import machine
from serve.artefact import Artefact, load
from serve.runtime import Session


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        report = compare(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {options.json} has the turns until now, --resume goes on", file=sys.stderr)
        return 130
    print(markdown(report), end="")
    return 0


def compare(options: argparse.Namespace) -> Report:
    """The report, written to `options.json` after each turn. ValueError for input that is wrong."""
    if min([*options.connections, options.rounds, options.texts - LIST + 1]) < 1 or options.seconds <= 0:
        raise ValueError(f"connections, rounds and seconds must be above 0, and texts at least {LIST}")
    names = chosen(options.peers)
    check_target(options.json)
    artefact = load(options.artefact)
    name, texts = _shuffled(options, artefact)
    report = _begun(options, artefact, name, len(texts))
    with tempfile.TemporaryDirectory(prefix="bantam-peers-") as folder:
        task = Task(
            artefact=artefact.root,
            bundle=bundle(artefact, Path(folder) / "model"),
            group=artefact.manifest.models[artefact.manifest.served].batch,
            texts=texts,
            labels=_ours(artefact, texts),
            connections=tuple(options.connections),
            seconds=options.seconds,
        )
        for name in names:
            if is_ngram(artefact) and not SERVED[name].any_model:
                report["left_out"][name] = "it has no n-grams, and takes no code of others"
            else:
                _install(name, report)
        for number, name in in_turn(names, options.rounds):
            _measure(name, number, task, report, options.json)
    return report


def _measure(name: str, number: int, task: Task, report: Report, target: Path) -> None:
    """One turn into the report and its file, unless it is there or the server was left out."""
    if name in report["left_out"] or any((row["server"], row["round"]) == (name, number) for row in report["rows"]):
        return
    server = SERVED[name]
    print(f"round {number + 1}: {server.title}", file=sys.stderr)
    try:
        programs = _programs(name)
        report["rows"].append({"server": name, "round": number, **take(server, task, programs)})
    except ValueError as error:
        report["left_out"][name] = _said(error)
        print(f"{server.title} is left out: {error}", file=sys.stderr)
    write(target, json.dumps(report, indent=2) + "\n")


def _install(name: str, report: Report) -> None:
    """Its environment and what is in it; a server that had failed gets another chance."""
    report["left_out"].pop(name, None)
    try:
        packages = environment.versions(_programs(name))
    except ValueError as error:
        report["left_out"][name] = _said(error)
        return
    server = SERVED[name]
    shared = {package: packages.get(package) for package in ("onnxruntime", "tokenizers", "numpy", "uvicorn")}
    version = packages.get(server.package)
    report["servers"][name] = {"version": version, "workers": server.workers, "packages": shared}


def _programs(name: str) -> Path:
    requirements = SERVED[name].requirements
    return environment.prepare(name, SERVERS / requirements) if requirements else Path(sys.executable).parent


def _said(error: ValueError) -> str:
    return environment.ADDRESS.sub("…", " ".join(str(error).split()))[:300]


def _begun(options: argparse.Namespace, artefact: Artefact, data: str, texts: int) -> Report:
    """A new report, or with `--resume` the one that is there. ValueError for one of something else."""
    manifest = artefact.manifest
    model = manifest.models[manifest.served]
    about: dict[str, Any] = {"name": manifest.name, "sha256": manifest.files[model.path].sha256}
    about |= {"precision": model.precision, "method": model.method, "group": model.batch}
    settings: dict[str, Any] = {"connections": options.connections, "seconds": options.seconds, "list": LIST}
    settings["rounds"] = options.rounds
    same = {"artefact": about, "data": {"name": data, "texts": texts}, "settings": settings}
    if options.resume and options.json.exists():
        if not is_kind(options.json, KIND):
            raise ValueError(f"{options.json} is no report of this command; name another file or leave out --resume")
        found = read_kind(options.json, KIND, SCHEMA)
        if differ := [key for key, value in same.items() if found[key] != value]:
            raise ValueError(f"{options.json} was measured with another {', '.join(differ)}; it cannot be gone on with")
        return found
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"schema": SCHEMA, "kind": KIND, "created": created, "machine": machine.describe()}
    return {**head, **same, "servers": {}, "left_out": {}, "rows": []}


def _shuffled(options: argparse.Namespace, artefact: Artefact) -> tuple[str, list[str]]:
    """The name of the data and its texts, in an order in which whoever gets less far sees the same lengths."""
    name, found = rows_of.load_texts(options.data, artefact.manifest.task, limit=options.texts)
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < LIST:
        raise ValueError(f"{name} must have at least {LIST} single texts, got {len(texts)}")
    return name, [texts[at] for at in np.random.default_rng(0).permutation(len(texts))]


def _ours(artefact: Artefact, texts: list[str]) -> list[str]:
    session = Session(artefact, runtime="onnxruntime")
    return [session.labels[at] for at in session.logits(texts).argmax(axis=1)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="Texts in the artefact's columns.")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="Write the report here.")
    parser.add_argument(
        "--peers", nargs="+", default=[*PEERS, "ours"], metavar="NAME", help=f"{', '.join(PEERS)}, ours"
    )
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32], metavar="COUNT")
    parser.add_argument("--seconds", type=float, default=3.0, help="Of each window.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512, help="Texts in rotation at most.")
    parser.add_argument("--resume", action="store_true", help="Go on with what the report lacks.")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all the ends of `with`
    sys.exit(main(sys.argv[1:]))
