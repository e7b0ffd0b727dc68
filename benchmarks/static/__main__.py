"""`python -m benchmarks.static --data FOLDER --text COLUMN --label COLUMN --json FILE`: peers of a static student.

Each peer is installed into an environment of its own in the cache, when first asked for. Its settings are chosen on a
part of train; then it is trained for each seed, judged on test and validation and timed, text to label, one thread.
With `--teacher-labels` each is trained once more with those texts added, the fair opponent of a distilled student.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.report import as_json, check_target, write
from benchmarks.report import named as named_artefact
from benchmarks.static import run, students, task
from benchmarks.static.peers import MOST, PEERS, named
from benchmarks.static.report import markdown


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        peers = named(options.peers)
        found = task.load(options.data, text=options.text, label=options.label, extra=options.teacher_labels)
        report = run.begun(found, budget=options.budget, windows=options.windows, seconds=options.seconds)
        if options.json.exists():
            report = run.resumed(options.json, report)
        write(options.json, as_json(report))
        students.fill(report, found, options.students, path=options.json, tell=_tell)
        run.fill(report, found, peers, seeds=options.seeds, path=options.json, tell=_tell)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted: {options.json} holds what is finished; --resume goes on with it", file=sys.stderr)
        return 130
    print(markdown(report), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.static", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="Train, validation and test files.")
    parser.add_argument("--text", required=True, metavar="COLUMN")
    parser.add_argument("--label", required=True, metavar="COLUMN")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="Write the report here.")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="NAME", help="Peers or families of them.")
    parser.add_argument(
        "--students",
        nargs="+",
        type=named_artefact,
        default=[],
        metavar="[NAME=]ARTEFACT",
        help="Ours, in the same table; of one name are seeds of one student.",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="Models of each peer that a seed changes.")
    parser.add_argument("--budget", type=int, default=MOST, metavar="N", help="Settings tried of each peer.")
    parser.add_argument(
        "--teacher-labels",
        type=Path,
        metavar="FILE",
        help="Columns text and label: more texts, as a teacher sees them.",
    )
    parser.add_argument("--windows", type=int, default=3, metavar="N", help="Timed windows of each batch size.")
    parser.add_argument("--seconds", type=float, default=0.5, help="Least length of a window.")
    parser.add_argument("--resume", action="store_true", help="Go on with the report in FILE.")
    return parser


def _check(options: argparse.Namespace) -> None:
    for name, most in (("seeds", None), ("budget", MOST), ("windows", None)):
        value = getattr(options, name)
        if value < 1 or (most is not None and value > most):
            raise ValueError(f"--{name} must be 1 or more{f' and at most {most}' if most else ''}, got {value}")
    if not options.seconds > 0:
        raise ValueError(f"--seconds must be more than 0, got {options.seconds}")
    check_target(options.json)
    if options.json.exists() and not options.resume:
        raise ValueError(f"{options.json} exists; go on with it by --resume, or name another file")


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no worker is left behind
    sys.exit(main(sys.argv[1:]))
