"""A study's results as files beside its study.json: table.md, and a plot for each measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import draw
from benchmarks.report import write
from benchmarks.study import plot, table
from benchmarks.study.results import Results, arms, average, gain, measures, tasks


def write_all(results: Results, folder: Path) -> None:
    """Each whole or not at all; what an earlier state of the study left is replaced."""
    words = table.markdown(results)
    for measure in measures(results):
        if svg := plot.differences(results, measure):
            write(folder / f"{measure}.svg", draw.standalone(svg))
            words += f"\n![{measure} against the baseline]({measure}.svg)\n"
    write(folder / "table.md", words)


def summary(results: Results) -> dict[str, Any]:
    """{arm: {task: {measure: {mean, deviation, seeds, difference: {value, low, high}}}}} in points, for programs."""

    def cells(arm: str, task: str) -> dict[str, Any]:
        return {measure: _cell(results, arm, task, measure) for measure in measures(results)}

    return {arm: {task: cells(arm, task) for task in tasks(results)} for arm in arms(results)}


def _cell(results: Results, arm: str, task: str, measure: str) -> dict[str, Any] | None:
    found, over = average(results, arm, task, measure), gain(results, arm, task, measure)
    if found is None:
        return None
    told = None if over is None else {"value": over.value, "low": over.low, "high": over.high}
    return {"mean": found.value, "deviation": found.spread, "seeds": found.n, "difference": told}
