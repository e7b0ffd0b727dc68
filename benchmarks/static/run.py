"""The run: settings chosen once for each peer and form of labels, then a model for each seed, trained and measured.

Whatever is finished is written to the report at once, and is not done again when that report is resumed.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environment import prepare
from benchmarks.report import as_json, read_kind, write
from benchmarks.static.peers import Peer
from benchmarks.static.remote import obey
from benchmarks.static.report import KIND, SCHEMA, Report
from benchmarks.static.task import Split, Task
from serve import machine, measures

BATCHES = (1, 32, None)  # None: all texts in one call
TIMED = 2048  # texts of the judged split that are timed, at most
GOLD, BOTH = "gold", "gold + teacher"

Tell = Callable[[str], None]


def begun(task: Task, *, budget: int, windows: int, seconds: float) -> Report:
    """A report without rows."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": _now(),
        "machine": machine.describe(),
        "data": task.about(),
        "splits": [task.judged, *(name for name in task.reports if name != task.judged)],
        "settings": {"budget": budget, "windows": windows, "seconds": seconds, "threads": 1},
        "choices": {},
        "rows": [],
    }


def resumed(path: Path, fresh: Report) -> Report:
    """The report at `path`, to go on with. ValueError where it is of other data or settings than `fresh`."""
    found = read_kind(path, KIND, SCHEMA)
    for part in ("settings", "data"):
        if found[part] != fresh[part]:
            raise ValueError(f"{path} was measured with other {part}; take the same, or name another file")
    return {**found, "splits": fresh["splits"]}  # rows have the accuracy on all of them, older reports told of one


def fill(report: Report, task: Task, peers: Sequence[Peer], *, seeds: int, path: Path, tell: Tell) -> None:
    """Add the rows that are missing, and write the report to `path` after each."""
    forms = {GOLD: task.train} | ({BOTH: task.train + task.extra} if task.extra is not None else {})
    for peer in peers:
        python = _python(peer)
        for form, train in forms.items():
            done = {row["seed"] for row in report["rows"] if (row["peer"], row["form"]) == (peer.name, form)}
            todo = [seed for seed in range(seeds if peer.seeded else 1) if seed not in done]
            if not todo:
                continue
            with tempfile.TemporaryDirectory(prefix="bantam-static-") as folder:
                bench = _Bench(peer, python, task, Path(folder), report["settings"], tell)
                bench.lay_out(train)
                key = f"{peer.name}/{form}"
                if key not in report["choices"]:
                    report["choices"][key] = bench.choose()
                    write(path, as_json(report))
                choice = report["choices"][key]
                if [one["settings"] for one in choice["tried"]] != bench.grid:
                    raise ValueError(f"{path}: {peer.name} was tuned over other settings; name another file")
                for seed in todo:
                    tell(f"{peer.name}, {form}, seed {seed}")
                    report["rows"].append({"peer": peer.name, "form": form, **bench.row(seed, choice["settings"])})
                    write(path, as_json(report))


def _python(peer: Peer) -> Path:
    try:
        return prepare(peer.family, peer.requirements) / "python"
    except ValueError as error:
        raise ValueError(f"the environment of the peer {peer.family!r}: {error}; --peers leaves it out") from None


class _Bench:
    """One peer with one form of labels: its data laid out in a folder, and the orders that it gets."""

    def __init__(
        self, peer: Peer, python: Path, task: Task, folder: Path, settings: dict[str, Any], tell: Tell
    ) -> None:
        self.peer, self.python, self.task, self.folder, self.settings = peer, python, task, folder, settings
        self.tell = tell
        self.grid = list(peer.grid[: settings["budget"]])
        self.training, self.reported = folder / "training.json", folder / "reported.json"

    def lay_out(self, train: Split) -> None:
        """Reported texts lie apart and without their labels: nothing that trains can see them."""
        splits = {"train": train, "selection": self.task.selection}
        told = {name: {"texts": split.texts, "labels": split.labels} for name, split in splits.items()}
        self.training.write_text(json.dumps(told), encoding="utf-8")
        lay_out_reports(self.task, self.reported)

    def choose(self) -> dict[str, Any]:
        """The settings with the best accuracy on the selection split, the earlier ones at a tie, and all tried."""
        tried: list[Any] = []

        def heard(line: dict[str, Any]) -> None:
            tried.append(line["tried"])
            accuracy, settings = line["tried"]["accuracy"], line["tried"]["settings"]
            self.tell(f"{self.peer.name}, settings {len(tried)} of {len(self.grid)}: {accuracy:.4f} with {settings}")

        self._obey(heard, do="choose", data=str(self.training), grid=self.grid, seed=0)
        best = max(tried, key=lambda one: one["accuracy"])
        return {"settings": best["settings"], "accuracy": best["accuracy"], "tried": tried}

    def row(self, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        """A model of that seed, trained in one process, then loaded and measured in another."""
        with tempfile.TemporaryDirectory(prefix="model-", dir=self.folder) as model:
            trained = self._obey(
                do="train",
                data=str(self.training),
                settings=settings,
                seed=seed,
                to=model,
                packages=list(self.peer.packages),
            )
            measured = self._obey(**measuring(self.task, self.settings, Path(model), self.reported))
        return {
            **measured_row(self.task, measured, seed=seed, settings=settings),
            "versions": trained["versions"],
            "size_bytes": trained["size_bytes"],
            "train_rows": trained["rows"],
            "train_seconds": trained["seconds"],
            "train_cpu_seconds": trained["cpu_seconds"],
            "train_peak_memory_bytes": trained["peak_memory_bytes"],
        }

    def _obey(self, heard: Callable[[dict[str, Any]], None] = lambda line: None, **order: Any) -> dict[str, Any]:
        return obey(self.peer, self.python, order, heard)


def lay_out_reports(task: Task, target: Path) -> None:
    texts = {name: split.texts for name, split in task.reports.items()}
    target.write_text(json.dumps(texts), encoding="utf-8")


def measuring(task: Task, settings: dict[str, Any], model: Path, reported: Path) -> dict[str, Any]:
    """The order to answer all reported texts and to time some of them."""
    told = {name: settings[name] for name in ("windows", "seconds")}
    order = {"data": str(reported), "from": str(model), "split": task.judged, "rows": _timed(task), **told}
    return {"do": "measure", "batches": list(BATCHES), **order}


def answers_of(peer: Peer, python: Path, task: Task, settings: dict[str, Any], model: Path) -> dict[str, Any]:
    """What a model that is there already answers, and how fast."""
    with tempfile.TemporaryDirectory(prefix="bantam-static-") as folder:
        reported = Path(folder) / "reported.json"
        lay_out_reports(task, reported)
        return obey(peer, python, measuring(task, settings, model.resolve(), reported), lambda line: None)


def measured_row(task: Task, measured: dict[str, Any], *, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """A row of what was measured, whoever trained the model."""
    return {
        "seed": seed,
        "settings": settings,
        "created": _now(),
        "commit": machine.commit(),
        "metrics": {name: _accuracy(task, name, found) for name, found in measured["answers"].items()},
        "peak_memory_bytes": measured["peak_memory_bytes"],
        "texts_timed": len(_timed(task)),
        "rates": measured["rates"],
    }


def _timed(task: Task) -> list[int]:
    """The rows of the judged split that are timed."""
    count = len(task.reports[task.judged])
    return sorted(random.Random(0).sample(range(count), min(TIMED, count)))


def _accuracy(task: Task, name: str, answers: list[str]) -> dict[str, float]:
    """With its bootstrap interval. Peers answer labels, so the scores are 1 for it and 0 for the others."""
    places = {label: place for place, label in enumerate(task.labels)}
    scores = np.eye(len(places))[[places[answer] for answer in answers]]
    labels = np.array([places[label] for label in task.reports[name].labels])
    return measures.interval("accuracy", scores, labels)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
