"""A report as JSON (schema 1), as a Markdown table and on the console. One line of a table is one target."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

SCHEMA = 1
WIDTH = 136  # columns that the shown table takes

Row = dict[str, Any]
Report = dict[str, Any]


def as_json(report: Report) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Report:
    """A report that `as_json` wrote."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA or not isinstance(report.get("rows"), list):
        raise ValueError(f'{path} must be a bench report with "schema": {SCHEMA}, got {found!r}')
    return dict(report)


def named(argument: str) -> tuple[str, Path]:
    """`NAME=PATH`, or a path that gives its last part as the name."""
    name, equals, path = argument.partition("=")
    return (name, Path(path)) if equals and name and "/" not in name else (Path(argument).name, Path(argument))


def titled(name: str, provenance: Mapping[str, Any]) -> str:
    """An artefact's name in a table, which tells of weights that nobody trained."""
    return f"{name} (random weights, speed only)" if provenance.get("weights") == "random" else name


def is_kind(path: Path, kind: str) -> bool:
    """Whether the file is a report that says it is of that kind; anything that is no report of ours is not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == kind


def read_kind(path: Path, kind: str, schema: int) -> Report:
    """A report of that kind and schema; ValueError for another."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("kind") != kind or report.get("schema") != schema:
        raise ValueError(f'{path} must be a report of kind "{kind}" and schema {schema}')
    return dict(report)


def check_target(path: Path) -> None:
    """ValueError now rather than after an hour of measuring."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write the report to")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; make it before the report is written there")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to; choose another place for the report")


def write(path: Path, text: str) -> None:
    """All of it or nothing: a file beside the target, renamed once it is safely on disk."""
    check_target(path)
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise ValueError(f"{path} could not be written ({error.strerror}); nothing was left behind") from error
    finally:
        Path(name).unlink(missing_ok=True)


def deliver(make: Callable[[], Report], target: Path | None, table: Callable[[Report], str]) -> int:
    """The exit code of a command that makes a report, writes it to `target`, if there is one, and prints its table.

    A ValueError, of which a bad target is one before anything is made, is one line on standard error.
    """
    try:
        if target:
            check_target(target)
        report = make()
        if target:
            write(target, json.dumps(report, indent=2) + "\n")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(report), end="")
    return 0


def measured(report: Report) -> str:
    """The sentence on when, on which processor, at which commit and with what a report was made."""
    where = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    return (
        f"Measured {report['created'][:10]} on {where['cpu']} ({', '.join(where['flags'])}), commit "
        f"{(where['commit'] or 'unknown')[:10]}; {versions}."
    )


# --- one line a target


def lines(report: Report) -> list[dict[str, Row]]:
    """Rows of one target together: {batch or "batch x clients": row}, in order of first appearance."""
    grouped: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in report["rows"]:
        key = (row["target"], row["runtime"], row["precision"], row["device"], row["threads"], row.get("clients", 1))
        grouped.setdefault(key, {})[str(row["batch"])] = row
    return list(grouped.values())


def batches(report: Report) -> list[str]:
    return list(dict.fromkeys(str(row["batch"]) for row in report["rows"]))


def header(report: Report) -> list[str]:
    metric = report.get("data", {}).get("metric", "accuracy")
    first = ["target", "runtime", "precision", f"{metric} [95 % interval]", "agreement with teacher [95 % interval]"]
    timed = [
        column
        for batch in batches(report)
        for column in (f"texts/s, batch {batch}", f"speed-up, batch {batch}", f"p50 / p99 ms, batch {batch}")
    ]
    return [*first, "size MB", "peak memory MB", *timed, "CPU ms/text, " + "/".join(batches(report))]


def cells(line: dict[str, Row], every_batch: Sequence[str]) -> list[str]:
    row = next(iter(line.values()))
    clients = f", {row['clients']} clients" if row.get("clients", 1) > 1 else ""
    found = [row["target"] + clients, row["runtime"], row["precision"], share(row["accuracy"]), share(row["agreement"])]
    found += [megabytes(row["size_bytes"]), megabytes(row["peak_memory_bytes"])]
    for batch in every_batch:
        found += _timed(line[batch]) if batch in line else ["–"] * 3
    spent = [number(line[batch]["cpu_seconds_per_text"] * 1000) if batch in line else "–" for batch in every_batch]
    return [*found, " / ".join(spent)]


def _timed(row: Row) -> list[str]:
    latency = row["latency_ms"]
    speedup = row.get("speedup")
    return [
        number(row["texts_per_second"]),
        "–" if speedup is None else f"{number(speedup)}x",
        f"{number(latency['p50'])} / {number(latency['p99'])}",
    ]


def share(found: dict[str, float] | None) -> str:
    return "–" if found is None else f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def megabytes(count: int | None) -> str:
    return "–" if count is None else number(count / 1e6)


def number(value: float) -> str:
    """Three significant digits, whole thousands apart: 0.0312, 1.58, 23.6, 1,470."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# --- outputs


def markdown(report: Report) -> str:
    """A GitHub table with the machine below it."""
    every = batches(report)
    body = [cells(line, every) for line in lines(report)]
    columns = header(report)
    rule = ["---" if place < 3 else "---:" for place in range(len(columns))]
    table = [columns, rule, *body]
    written = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in table]
    return "\n".join([*written, "", conditions(report)]) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def conditions(report: Report) -> str:
    """The sentence that a table must not travel without."""
    about, settings, where = report.get("data", {}), report.get("settings", {}), report["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in where.get("versions", {}).items() if found)
    rows = f"{about.get('rows', 0):,} of {about.get('total', 0):,} rows of {about.get('name', '?')}"
    return (
        f"Measured {report.get('created', '?')[:10]} on {where.get('cpu')} ({where.get('cores')} cores, "
        f"{', '.join(where.get('flags', [])) or 'no vector flags known'}), {settings.get('threads', '?')} thread(s), "
        f"{settings.get('device', '?')}; {rows}, {number(about.get('tokens_mean', 0))} tokens a text on average; "
        f"text to label, tokenisation included; medians of {settings.get('windows', '?')} windows, targets taking "
        f"turns; commit {(where.get('commit') or 'unknown')[:10]}; {versions}. MB are 10^6 bytes."
    )


def show(report: Report, console: Console) -> None:
    """The table that fits most terminals: medians only, one line a target. A narrower one wraps it whole."""
    every = batches(report)
    table = Table(title="teacher and students", caption=conditions(report), caption_justify="left", box=SIMPLE_HEAD)
    metric = report.get("data", {}).get("metric", "accuracy")
    for place, name in enumerate(["target", "runtime", metric, "agreement", "MB"]):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place < 2)
    for batch in every:
        table.add_column(f"texts/s\nbatch {batch}", justify="right")
        table.add_column("x", justify="right")
    table.add_column(f"p50/p99 ms\nbatch {every[0]}", justify="right")
    for line in lines(report):
        table.add_row(*_short(line, every))
    wide = Console(file=console.file, width=max(console.width, WIDTH), force_terminal=console.is_terminal)
    wide.print(table)
    for note in report.get("notes", []):
        wide.print(f"note: {note}", markup=False)


def _short(line: dict[str, Row], every: Sequence[str]) -> list[str]:
    row = next(iter(line.values()))
    full = cells(line, every)
    found = [
        full[0],
        f"{row['runtime']} {row['precision']}",
        _brief(row["accuracy"]),
        _brief(row["agreement"]),
        full[5],
    ]
    for place in range(len(every)):
        found += full[7 + 3 * place : 9 + 3 * place]
    return [*found, full[9].replace(" ", "")]


def _brief(found: dict[str, float] | None) -> str:
    """0.894 ±0.014: half the interval's width."""
    return "–" if found is None else f"{found['value']:.3f} ±{(found['high'] - found['low']) / 2:.3f}"
