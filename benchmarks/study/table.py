"""A study's results as Markdown: arms down, tasks across."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.study.results import (
    Results,
    Run,
    against,
    arms,
    average,
    done,
    gain,
    measures,
    seeds,
    split_of,
    tasks,
    unfinished,
)
from benchmarks.study.statistics import Difference, Mean

DASH = "–"
AT_MOST = 5  # unfinished runs named one by one


def markdown(results: Results) -> str:
    """Values and differences for each measure, then what each arm cost and gave, then conditions."""
    parts = [_values(results, measure) + _gains(results, measure) for measure in measures(results)]
    return "\n\n".join(part.strip() for part in [*parts, _costs(results), _conditions(results)] if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first `words` columns hold words, the others numbers."""
    lines = [head, ["---" if column < words else "---:" for column in range(len(head))], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _values(results: Results, measure: str) -> str:
    rows = _grid(results, lambda arm, task: _mean(average(results, arm, task, measure), results, task))
    return f"**{measure}**: mean ± standard deviation over seeds\n\n" + table(_head(results), rows) + "\n"


def _gains(results: Results, measure: str) -> str:
    rows = _grid(results, lambda arm, task: _difference(gain(results, arm, task, measure)))
    told = [row for row in rows if any(cell != DASH for cell in row[1:])]
    other = f"{results['study']['baseline']}, {against(results, measure)}"
    says = f"**{measure} minus {other}**: mean of paired differences [95 % interval over seeds]\n\n"
    return says + table(_head(results), told) + "\n" if told else ""


def _grid(results: Results, cell: Callable[[str, str], str]) -> list[list[str]]:
    return [[arm, *(cell(arm, task) for task in tasks(results))] for arm in arms(results)]


def _head(results: Results) -> list[str]:
    """Each task with its metric, split and seeds."""
    head = ["arm"]
    for task in tasks(results):
        runs = done(results, task=task)
        what = f", {runs[0]['metric']}, {split_of(results, runs[0])}" if runs else ""
        count = len(seeds(results, task))
        head.append(f"{task}{what}, {count} seed{'s' * (count > 1)}")
    return head


def _mean(found: Mean | None, results: Results, task: str) -> str:
    if found is None:
        return DASH
    spread = "" if found.spread is None else f" ± {found.spread:.2f}"
    short = f" ({found.n} of {len(seeds(results, task))})" if found.n < len(seeds(results, task)) else ""
    return f"{found.value:.2f}{spread}{short}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return f"{found.value:+.2f}"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


# --- costs

COLUMNS = ("arm", "task", "INT8 method", "zeros", "served MB", "updates", "student passes", "teacher passes",
           "passes, x baseline", "training min", "whole run min", "peak GiB")  # fmt: skip


def _costs(results: Results) -> str:
    rows = [
        _cost(results, arm, task, done(results, arm=arm, task=task))
        for task in tasks(results)
        for arm in arms(results)
        if done(results, arm=arm, task=task)
    ]
    return "**What it took**: means over seeds\n\n" + table(COLUMNS, rows, words=3) if rows else ""


def _cost(results: Results, arm: str, task: str, runs: Sequence[Run]) -> list[str]:
    base = _over(done(results, arm=results["study"]["baseline"], task=task), passes)
    mine = _over(runs, passes)
    methods = sorted({run["methods"].get("int8", DASH) for run in runs})
    return [
        arm,
        task,
        ", ".join(methods),
        _number(_over(runs, lambda run: 100 * run["sparsity"]["unstructured"]), "{:.1f} %"),
        _number(_over(runs, lambda run: run["bytes"]["served"][run["served"]] / 1e6), "{:.1f}"),
        _number(_over(runs, lambda run: _sum(run, "updates")), "{:,.0f}"),
        _number(_over(runs, lambda run: _sum(run, "student") + _sum(run, "backward")), "{:,.0f}"),
        _number(_over(runs, lambda run: _sum(run, "teacher")), "{:,.0f}"),
        _number(mine / base if mine and base else None, "{:.2f}x"),
        _number(_over(runs, lambda run: _sum(run, "seconds") / 60), "{:.1f}"),
        _number(_over(runs, lambda run: run["seconds"] / 60), "{:.1f}"),
        _number(_over(runs, lambda run: run["peak_bytes"] / 2**30), "{:.2f}"),
    ]


def passes(run: Run) -> float:
    """Forwards and backwards of training, in examples, without what the cache keeps for other runs."""
    return _sum(run, "student") + _sum(run, "teacher") + _sum(run, "backward")


def _sum(run: Run, name: str) -> float:
    return sum(float(phase[name]) for phase in run["cost"] if not phase.get("cached"))


def _over(runs: Sequence[Run], measure: Callable[[Run], float]) -> float | None:
    """The mean over runs; None where some run does not tell."""
    try:
        return statistics.fmean(measure(run) for run in runs) if runs else None
    except (KeyError, TypeError):
        return None


def _number(found: float | None, form: str) -> str:
    return DASH if found is None else form.format(found)


# --- conditions


LEGEND = (
    "Points are 100 x the metric. ± is the standard deviation of one run over seeds, intervals are Student's t over "
    "paired seeds. Passes are examples through a model: the student's forwards and backwards, the teacher's forwards; "
    "those of the cached teacher and pre-training, made once for all arms, are left out. Times and memory are of "
    "whole runs, stopped and failed attempts among them; MB are 10^6 bytes."
)


def _conditions(results: Results) -> str:
    """How to read it, machine, commits, and what is missing."""
    runs = done(results)
    commits = sorted({_commit(str(run["commit"])) for run in runs if run.get("commit")})
    parts = [LEGEND, *results.get("notes", ())]
    if runs:
        machines = sorted({_machine(run["machine"]) for run in runs})
        parts.append(f"Measured on {'; '.join(machines)}; commit {', '.join(commits) or 'unknown'}.")
    if len(commits) > 1:
        parts.append("Runs of more than one commit stand side by side.")
    if missing := [*unfinished(results)]:
        parts.append(f"{len(missing)} of {len(results['runs'])} runs are not finished: {'; '.join(missing[:AT_MOST])}.")
    return "\n" + " ".join(parts) + "\n"


def _commit(full: str) -> str:
    """Short, with the + of a tree that differed from it."""
    return full[:10] + "+" * full.endswith("+")


def _machine(machine: dict[str, Any]) -> str:
    versions = machine.get("versions") or {}
    names = [f"{name} {versions[name]}" for name in ("torch", "onnxruntime") if versions.get(name)]
    return f"{machine.get('cpu')} ({machine.get('usable_cores')} cores), {', '.join(names)}"
