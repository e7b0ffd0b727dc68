"""`python -m benchmarks.reliability ARTEFACT --json FILE`: what the service withstands, measured and judged.

Each check starts the service anew, as `bantam serve` does, and says what must hold and what did; the exit code is 1
where something does not. The report is written after each check, and `--resume` goes on with what it lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data as rows_of
from benchmarks.reliability.catalogue import CHECKS, chosen
from benchmarks.reliability.corpus import post
from benchmarks.reliability.judge import failed
from benchmarks.reliability.report import KIND, SCHEMA, Report, markdown
from benchmarks.reliability.service import Place, Service, ours
from benchmarks.report import check_target, is_kind, read_kind, write
from serve import machine
from serve.artefact import Artefact, load
from serve.encode import Text
from serve.launch import SERVERS

WORDS = "the a film plot is was not very good bad dull and with of great story acting too long but it has charm".split()
ROTATION = 512  # texts

Start = Callable[[int, Mapping[str, str]], Service]


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        report = examine(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {options.json} has the checks until now, --resume goes on", file=sys.stderr)
        return 130
    print(markdown(report), end="")
    names = chosen(options.only)
    return 0 if all(report["checks"][name]["passed"] for name in names) else 1


def examine(options: argparse.Namespace) -> Report:
    """The report, written to `options.json` after each check. ValueError for input that is wrong."""
    counts = {"--requests": options.requests, "--cases": options.cases, "--texts": options.texts}
    counts |= {"--deadline": options.deadline, "--seconds": 1 if options.seconds is None else options.seconds}
    for name, value in counts.items():
        if value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    names, settings = chosen(options.only), _service_settings(options.set)
    check_target(options.json)
    artefact = load(options.artefact)
    data, texts = _texts(options.data, artefact)
    report = begun(options, artefact, settings, data)
    start = ours(artefact.root, {f"BANTAM_{name}": value for name, value in settings.items()}, options.server)
    run(names, report, options, start, messages(artefact, texts, options.texts))
    return report


def run(names: list[str], report: Report, options: argparse.Namespace, start: Start, asked: list[bytes]) -> None:
    """Each check that the report lacks or that broke off, into the report and its file."""
    for name in names:
        if "rows" in report["checks"].get(name, {}):
            continue
        print(f"{name}: begun", file=sys.stderr)
        clock, neighbours = time.perf_counter(), os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="bantam-reliability-") as scratch:
            sizes = {"requests": options.requests, "cases": options.cases, "texts": options.texts}
            place = Place(start, asked, Path(scratch), options.seconds, deadline=options.deadline, **sizes)
            try:
                found = CHECKS[name](place)
            except (ValueError, OSError) as error:  # the service does not start, or what is asked for is not there
                found = {"passed": False, "error": " ".join(str(error).split())[:500]}
        found |= {"seconds": time.perf_counter() - clock, "load_before": neighbours}
        report["checks"][name] = found
        write(options.json, json.dumps(report, indent=2) + "\n")
        print(f"{name}: {'passed' if found['passed'] else 'FAILED'}", file=sys.stderr)
        for words in [found["error"]] if "error" in found else failed(found):
            print(f"  {words}", file=sys.stderr)


def begun(options: argparse.Namespace, artefact: Artefact, service: Mapping[str, str], data: str) -> Report:
    """A new report, or with `--resume` the one that is there. ValueError for one of something else."""
    manifest = artefact.manifest
    model = manifest.models[manifest.served]
    about: dict[str, Any] = {"name": manifest.name, "sha256": manifest.files[model.path].sha256}
    about |= {"precision": model.precision, "method": model.method}
    settings: dict[str, Any] = {"seconds": options.seconds, "requests": options.requests, "cases": options.cases}
    settings |= {
        "deadline": options.deadline,
        "texts": options.texts,
        "data": data,
        "server": options.server,
        "service": dict(service),
    }
    same = {"artefact": about, "settings": settings}
    if options.resume and options.json.exists():
        if not is_kind(options.json, KIND):
            raise ValueError(f"{options.json} is no report of this command; name another file or leave out --resume")
        found = read_kind(options.json, KIND, SCHEMA)
        if differ := [key for key, value in same.items() if found[key] != value]:
            raise ValueError(f"{options.json} was measured with another {', '.join(differ)}; it cannot be gone on with")
        return found
    created = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"schema": SCHEMA, "kind": KIND, "created": created, "machine": machine.describe()}
    return {**head, **same, "checks": {}}


def messages(artefact: Artefact, texts: Sequence[Text], size: int) -> list[bytes]:
    """Requests of `size` texts each, to the path that answers for the model."""
    path = "/embed" if artefact.manifest.task.kind == "embedding" else "/predict"
    rows = [[text] if isinstance(text, str) else list(text) for text in texts]
    found = []
    for first in range(0, len(rows) - size + 1, size):
        part = rows[first : first + size]
        inputs: Any = [row[0] for row in part] if path == "/embed" else part
        if size == 1 and len(part[0]) == 1:
            inputs = part[0][0]
        found.append(post(path, json.dumps({"inputs": inputs, "truncate": True}).encode()))
    if not found:
        raise ValueError(f"requests of {size} texts need as many texts, got {len(texts)}")
    return found


def _texts(path: Path | None, artefact: Artefact) -> tuple[str, list[Text]]:
    """The name of the data and its texts; without a file made-up ones of 3 to 40 words."""
    task = artefact.manifest.task
    generator = np.random.default_rng(0)
    if path is not None:
        name, found = rows_of.load_texts(path, task, limit=ROTATION)
        return name, [found[at] for at in generator.permutation(len(found))]

    def made() -> str:
        return " ".join(generator.choice(WORDS, size=generator.integers(3, 41)))

    return "made-up sentences", [made() if task.inputs == 1 else (made(), made()) for _ in range(ROTATION)]


def _service_settings(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if wrong := [
        one for one, (name, _, value) in zip(given, pairs, strict=True) if not (name.isidentifier() and value)
    ]:
        raise ValueError(f"--set takes NAME=VALUE, as MAX_BATCH_TOKENS=512, got {wrong[0]}")
    return {name.upper(): value for name, _, value in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="Write the report here.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(CHECKS))
    parser.add_argument("--data", type=Path, metavar="FILE", help="Texts in the artefact's columns; else made-up ones.")
    parser.add_argument("--texts", type=int, default=1, metavar="N", help="Texts a request.")
    parser.add_argument("--seconds", type=float, metavar="N", help="Of the load; else 120 of overload, 300 of bytes.")
    parser.add_argument("--requests", type=int, default=1_000_000, metavar="N", help="Of the soak.")
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="Of the schema.")
    parser.add_argument("--deadline", type=float, default=1.0, metavar="SECONDS", help="Of requests under overload.")
    parser.add_argument("--server", default="uvicorn", choices=SERVERS)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="Settings of the service.")
    parser.add_argument("--resume", action="store_true", help="Go on with what the report lacks.")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all the ends of `with`
    sys.exit(main(sys.argv[1:]))
