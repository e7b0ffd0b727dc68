"""Accuracy against speed, arm by arm: `python -m benchmarks.front STUDY.json ... --speed ARRIVAL.json --json FILE`.

Joins studies with a report of `benchmarks.arrival` in which each target is named like the arm that made it; its first
target is the dense teacher. Accuracy is that of the INT8 file, as the difference to the teacher's own of the same
task and seed; speed is our engine's, on word pieces, in calls of the largest size, over the best that any other runtime
does with the dense teacher in any way. An arm is on a task's front if no arm that is at least as accurate there is
faster, and none as fast is more accurate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import arrival_table
from benchmarks.arrival_table import OURS, spread
from benchmarks.report import Report, deliver, measured, named, number, read_kind
from benchmarks.study import results
from benchmarks.study.statistics import difference
from benchmarks.study.table import table

SCHEMA = 1
KIND = "front"
SOURCE = "pieces"
INT8, TEACHER = "int8", ("teacher_int8", "teacher")  # the dense twin: its INT8 file, or the teacher where none is told

Point = tuple[float, float]  # texts/s, points against the teacher


def front(points: Mapping[str, Point]) -> set[str]:
    """Names of those that no other beats in one of both without being beaten in the other."""
    return {
        name
        for name, (fast, good) in points.items()
        if not any(f >= fast and g >= good and (f, g) != (fast, good) for f, g in points.values())
    }


def gather(studies: Sequence[tuple[str, Path]], speed: Report) -> Report:
    """The report: one row an arm that both the speed report and a study have. ValueError where that is none."""
    timed = {row["name"]: row for row in speed["rows"] if row["runtime"] == OURS}
    texts, best = speed["data"]["texts"], best_peer(speed)
    dense = next(iter(timed), None)
    if dense is None:
        raise ValueError(f"the speed report has no row of our engine ({OURS}): measure with --runtimes ... {OURS}")
    rows, scores = [], {}
    for name, path in studies:
        found = results.read(path)
        for arm in (arm for arm in results.arms(found) if arm in timed):
            scores[arm] = {task: lost for task in results.tasks(found) if (lost := against_teacher(found, arm, task))}
            rows.append({"arm": arm, "study": name, **pace(timed[arm], texts, best), "tasks": scores[arm]})
    if not rows:
        raise ValueError(f"no arm of these studies is a target of the speed report, which has {', '.join(timed)}")
    rows.insert(0, {"arm": dense, "study": None, **pace(timed[dense], texts, best), "tasks": {}})
    told = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    for task in told:
        points = {
            row["arm"]: (row["texts_per_second"], row["tasks"][task]["value"]) for row in rows if task in row["tasks"]
        }
        on = front({dense: (rows[0]["texts_per_second"], 0.0)} | points)
        for row in rows:
            row.setdefault("front", {})[task] = row["arm"] in on
    kept = {key: speed[key] for key in ("created", "machine", "data", "rounds")}
    return {"schema": SCHEMA, "kind": KIND, **kept, "tasks": told, "rows": rows}


def pace(row: Mapping[str, Any], texts: int, best: NDArray[np.float64]) -> dict[str, Any]:
    """Texts a second in calls of the largest size, and what that is of the best peer's, round by round."""
    seconds = np.array(row["seconds"][SOURCE][largest(row)])
    return {
        "zeros": row["sparsity"],
        "texts_per_second": texts / float(np.median(seconds)),
        "times_best_peer": (best / seconds).tolist(),
    }


def largest(row: Mapping[str, Any]) -> str:
    return max((way for way in row["seconds"][SOURCE] if way != arrival_table.SORTED), key=int)


def best_peer(speed: Report) -> NDArray[np.float64]:
    """Seconds of each round that the best other runtime takes with the first target, in whichever way suits it best."""
    first = speed["rows"][0]["name"]
    ways = [
        np.array(taken)
        for row in speed["rows"]
        if row["name"] == first and row["runtime"] != OURS
        for taken in row["seconds"].get(SOURCE, {}).values()
    ]
    if not ways:
        raise ValueError(f"the speed report has no other runtime for its first target {first}: measure one with it")
    return min(ways, key=lambda taken: float(np.median(taken)))


def against_teacher(found: results.Results, arm: str, task: str) -> dict[str, Any] | None:
    """The INT8 file's mean in points, and its paired difference to the dense twin; None where nothing is finished."""
    mine = results.by_seed(found, arm, task, INT8)
    if not mine:
        return None
    twin = next(name for name in TEACHER if set(results.by_seed(found, arm, task, name)) >= set(mine))
    theirs = results.by_seed(found, arm, task, twin)
    lost = difference([mine[seed] - theirs[seed] for seed in mine])
    return {"mean": float(np.mean([*mine.values()])), "seeds": len(mine), "against": twin, **asdict(lost)}


def markdown(report: Report) -> str:
    """Arms from the fastest to the slowest; a star where one is on the front of a task."""
    tasks = report["tasks"]
    head = ["arm", "zeros", "texts/s", "x best peer, dense", *(f"{task}, points to dense" for task in tasks)]
    rows = []
    for row in sorted(report["rows"], key=lambda row: -row["texts_per_second"]):
        cells = [row["arm"], f"{row['zeros']:.0%}", number(row["texts_per_second"])]
        cells.append(spread(np.array(row["times_best_peer"])))
        cells += [_lost(row, task) for task in tasks]
        rows.append(cells)
    data = report["data"]
    note = (
        "Points to dense: INT8 file less that of the dense teacher of the same task and seed, mean of paired "
        "differences [95 % interval over seeds] (seeds); * is on the front: nothing measured is as fast and more "
        f"accurate, or as accurate and faster. Speed on {data['texts']:,} texts of {data['name']} in arrival order, "
        f"one thread, word pieces to labels, median and range of {report['rounds']} rounds; best peer: the fastest of "
        f"the other runtimes with the dense teacher, padding and sorting as suits it best. {measured(report)}"
    )
    return f"{table(head, rows)}\n{note}\n"


def _lost(row: Mapping[str, Any], task: str) -> str:
    star = " *" if row["front"][task] else ""
    if task not in row["tasks"]:
        return ("0" if row["study"] is None else "–") + star
    found = row["tasks"][task]
    span = "" if found["low"] is None else f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"{found['value']:+.2f}{span} ({found['seeds']}){star}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.front", description="Accuracy against speed, arm by arm."
    )
    parser.add_argument("studies", nargs="+", type=named, metavar="[NAME=]STUDY.json")
    parser.add_argument("--speed", required=True, type=Path, metavar="ARRIVAL.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes; without it, only the table")
    options = parser.parse_args(arguments)

    def make() -> Report:
        return gather(options.studies, read_kind(options.speed, arrival_table.KIND, arrival_table.SCHEMA))

    return deliver(make, options.json, markdown)


if __name__ == "__main__":
    sys.exit(main())
