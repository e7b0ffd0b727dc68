"""Our own artefacts beside the peers: a line for each name, with as many seeds as it has artefacts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import as_json, write
from benchmarks.static.peers import Peer
from benchmarks.static.report import Report
from benchmarks.static.run import answers_of, measured_row
from benchmarks.static.task import Task
from serve.artefact import Artefact, load

FORM = "artefact"
OURS = "bantam"

Student = tuple[str, Path]  # its name in the table, its folder


def fill(report: Report, task: Task, students: Sequence[Student], *, path: Path, tell: Callable[[str], None]) -> None:
    """Add the rows of artefacts that are missing, and write the report to `path` after each.

    ValueError where an artefact answers other labels than the task's, or is of pairs.
    """
    opened = [(name, load(folder)) for name, folder in students]
    for name, artefact in opened:
        check(name, artefact, task)
    for name, artefact in opened:
        digest = artefact.manifest.files[artefact.manifest.models[artefact.manifest.served].path].sha256
        done = [row for row in report["rows"] if (row["peer"], row["form"]) == (name, FORM)]
        if any(row["sha256"] == digest for row in done):
            continue
        tell(f"{name}: {artefact.root}")
        peer = Peer(name, OURS, (), (), ours=True)
        measured = answers_of(peer, Path(sys.executable), task, report["settings"], artefact.root)
        row = measured_row(task, measured, seed=len(done), settings=about(artefact))
        report["rows"].append({"peer": name, "form": FORM, "sha256": digest, **row, **told(artefact, task)})
        write(path, as_json(report))


def check(name: str, artefact: Artefact, task: Task) -> None:
    asked = artefact.manifest.task
    if asked.kind != "classification" or asked.inputs != 1 or set(asked.labels) != set(task.labels):
        raise ValueError(
            f"{name} must put single texts into the classes {', '.join(task.labels)}; it is for {asked.kind} of "
            f"{'pairs' if asked.inputs == 2 else 'single texts'} into {', '.join(asked.labels)}"
        )


def about(artefact: Artefact) -> dict[str, Any]:
    """The student's size, in a word or two."""
    student = artefact.manifest.recipe.get("student", {})
    if artefact.manifest.encoder.kind == "ngram":
        return {name: student[name] for name in ("rows", "width", "orders") if name in student}
    config = json.loads((artefact.root / "config.json").read_text(encoding="utf-8"))
    return {"layers": config.get("num_hidden_layers", config.get("n_layers"))}


def told(artefact: Artefact, task: Task) -> dict[str, Any]:
    """What the artefact itself says: its size, what training took, and how often it agrees with its teacher."""
    manifest = artefact.manifest
    costs = manifest.provenance.get("cost") or []
    own = [cost.get("seconds", 0.0) for cost in costs if not cost.get("cached")]
    found = manifest.metrics.get(task.judged, {}).get(f"agreement_{manifest.served}")
    return {
        "size_bytes": artefact.served_size(manifest.served),
        "train_seconds": sum(own),
        "agreement": found,
        "versions": {},
    }
