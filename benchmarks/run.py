"""`bench`: the teacher and its students in one run, in process and over HTTP.

Targets sit in processes of their own and take turns; only one computes at a time. First each
answers all the evaluation rows, then come rounds of timed windows over the same texts for all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import compare, html, measure
from benchmarks import data as rows_of
from benchmarks import report as reports
from benchmarks.compare import Cell
from benchmarks.plan import Plan, plan
from benchmarks.remote import Remote
from benchmarks.targets import Spec, available
from serve import machine

MOST_TEXTS = 1024  # of a window

Advance = Callable[[str], None]


def bench(
    artefacts: Sequence[Path],
    *,
    teacher: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
    threads: int = 1,
    batches: Sequence[int] = (1, 32),
    json_path: Path | None = None,
    html_path: Path | None = None,
    limit: int | None = None,
    windows: int = 5,
    seconds: float = 1.0,
    clients: int = 8,
    http: bool = True,
    runtimes: Sequence[str] | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """The report (schema 1), shown on the console, and written to `json_path` and `html_path` where given.

    limit: evaluation rows at most, None for all. windows, seconds: rounds of timed windows and the least length of
    each. clients: connections of the concurrent HTTP rows, 1 for none. runtimes: some of "torch", "bantam",
    "onnxruntime", "openvino", "openvino-sparse", None for all that are there. What is wrong with the input is a
    ValueError before anything is measured.
    """
    console = console or Console(stderr=True)
    _check(threads, batches, windows, seconds, clients, (json_path, html_path))
    found, notes = available(device)
    kinds = _chosen(runtimes, found)
    planned = plan(artefacts, teacher=teacher, device=device, threads=threads, runtimes=kinds, http=http)
    task = planned.teacher.manifest.task
    source = rows_of.find(planned.students) if data is None else Path(data)
    rows = rows_of.load(source, task, label=_label_column(planned), limit=limit)
    if len(rows) < max(batches):
        raise ValueError(f"{rows.name} has {len(rows)} rows, too few for batches of {max(batches)}")
    described = machine.describe()
    notes += compare.without_amx(planned, described)
    with tempfile.TemporaryDirectory(prefix="bantam-bench-") as folder, ExitStack() as stack:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(rows.texts))
        remotes, answers, rates = _open_all(
            planned, texts, batch=max(batches), stack=stack, notes=notes, console=console
        )
        width = _width(len(rows), max(batches), min(rates.values()) * seconds)
        sets = _text_sets(len(rows), width, windows, seed)
        cells = _cells(list(remotes), batches, clients)
        measured = _time_all(remotes, cells, sets, seconds, console)
        memory = {spec: remote.peak_memory() for spec, remote in remotes.items()}
    table = compare.rows(planned, cells, measured, memory, answers, rows)
    notes += compare.busy(table)
    report = {
        "schema": reports.SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described,
        "data": compare.about_data(planned, rows),
        "settings": {
            "device": device,
            "threads": threads,
            "batches": list(batches),
            "windows": windows,
            "seconds": seconds,
            "texts_per_window": width,
            "clients": clients,
            "limit": limit,
            "seed": seed,
        },
        "artefacts": compare.about_artefacts(planned),
        "notes": notes,
        "rows": table,
    }
    if json_path is not None:
        reports.write(Path(json_path), reports.as_json(report))
    if html_path is not None:
        reports.write(Path(html_path), html.page(report))
    reports.show(report, console)
    return report


def _check(
    threads: int,
    batches: Sequence[int],
    windows: int,
    seconds: float,
    clients: int,
    outputs: Sequence[Path | None],
) -> None:
    for name, value in (
        ("threads", threads),
        ("windows", windows),
        ("clients", clients),
        *(("batch", b) for b in batches),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not batches or seconds <= 0:
        raise ValueError(f"bench needs a batch size and a positive time, got {list(batches)} and {seconds} s")
    for path in outputs:
        if path is not None:
            reports.check_target(Path(path))


def _chosen(runtimes: Sequence[str] | None, found: list[str]) -> list[str]:
    if runtimes is None:
        return found
    missing = [name for name in runtimes if name not in found]
    if missing or not runtimes:
        raise ValueError(f"runtimes must be some of {', '.join(found)}, got {', '.join(runtimes) or 'none'}")
    return list(runtimes)


def _label_column(planned: Plan) -> str:
    for artefact in (*planned.students, planned.teacher):
        task = artefact.manifest.recipe.get("task")
        if isinstance(task, dict) and task.get("label"):
            return str(task["label"])
    return "label"


def _open_all(
    planned: Plan, texts: Path, *, batch: int, stack: ExitStack, notes: list[str], console: Console
) -> tuple[dict[Spec, Remote], dict[Spec, NDArray[Any]], dict[Spec, float]]:
    """Every target, its logits [N, C] of all texts, and the texts per second at which it gave them."""
    remotes: dict[Spec, Remote] = {}
    answers: dict[Spec, NDArray[Any]] = {}
    rates: dict[Spec, float] = {}
    with _progress(console, "evaluate", len(planned.specs)) as advance:
        for number, spec in enumerate(planned.specs):
            advance(spec.label)
            try:
                remote = Remote(spec, texts)
            except ValueError as error:
                if not spec.runtime.startswith(("bantam", "openvino")):
                    raise
                notes.append(f"left out, {spec.runtime} cannot run this file: {error}")
                continue
            spec = spec.answered_by(remote.runtime)
            remotes[spec] = remote
            stack.callback(remote.close)
            to = texts.with_name(f"{number}.npy")
            taken = remote.evaluate(to, chunk=batch)
            answers[spec] = np.load(to)
            rates[spec] = len(answers[spec]) / taken
    return remotes, answers, rates


def _width(total: int, batch: int, wanted: float) -> int:
    """Texts of a window: whole batches, about one window's work for the slowest target, at least two batches."""
    most = min(MOST_TEXTS, total) // batch
    return batch * max(1, min(most, max(2, round(wanted / batch))))


def _text_sets(total: int, width: int, windows: int, seed: int) -> list[list[int]]:
    """Rows of each window, in arrival order: the windows walk through one shuffle of the data."""
    shuffled = np.random.default_rng(seed).permutation(total)
    starts = (np.arange(width) + number * width for number in range(windows))
    return [sorted(shuffled[start % total].tolist()) for start in starts]


def _cells(specs: Sequence[Spec], batches: Sequence[int], clients: int) -> list[Cell]:
    cells = [Cell(spec, batch, 1) for batch in batches for spec in specs]
    return cells + [Cell(spec, 1, clients) for spec in specs if spec.transport == "http" and clients > 1]


def _time_all(
    remotes: dict[Spec, Remote], cells: Sequence[Cell], sets: Sequence[list[int]], seconds: float, console: Console
) -> dict[Cell, list[measure.Window]]:
    measured: dict[Cell, list[measure.Window]] = {cell: [] for cell in cells}
    with _progress(console, "measure", len(cells) * len(sets)) as advance:
        for number, cell in measure.turns(cells, len(sets)):
            advance(f"{cell.spec.label}, batch {cell.batch}")
            window = remotes[cell.spec].window(sets[number], batch=cell.batch, clients=cell.clients, seconds=seconds)
            measured[cell].append(window)
    return measured


@contextmanager
def _progress(console: Console, verb: str, total: int) -> Iterator[Advance]:
    """A bar on the console; calling what it yields names what is begun."""
    columns = (SpinnerColumn(), TextColumn("{task.fields[verb]}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.description}"), console=console) as bar:
        line = bar.add_task("", total=total, verb=verb)
        begun = -1

        def advance(what: str) -> None:
            nonlocal begun
            begun += 1
            bar.update(line, completed=begun, description=what)

        yield advance
        bar.update(line, completed=total, description="")
