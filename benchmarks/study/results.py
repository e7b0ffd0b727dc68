"""study.json as numbers: the values of each arm on each task, and what it has over the baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.statistics import Difference, Mean, difference, mean

FORMAT = 1
SPLITS = ("test", "validation")
UNSCALED = ("mse",)  # all other metrics are told in points: 100 x the metric

Results = dict[str, Any]
Run = dict[str, Any]


def is_study(path: Path) -> bool:
    """Whether `path` is a study.json rather than another report, or something that `read` of either refuses."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "study" in found


def read(path: Path) -> Results:
    """A study.json that `bantam study` wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or "study" not in found:
        raise ValueError(f'{path} must be a study with "format": {FORMAT}')
    return found


def done(results: Results, **wanted: Any) -> list[Run]:
    """The finished runs with these values of arm, task and seed."""
    runs = (run for run in results["runs"] if run["status"] == "done")
    return [run for run in runs if all(run[name] == value for name, value in wanted.items())]


def split_of(results: Results, run: Run) -> str:
    """Which split the study tells of this run: the one it names, else test before validation."""
    asked = results["study"].get("split")
    return asked or next((split for split in SPLITS if split in run["metrics"]), next(iter(run["metrics"])))


def value(results: Results, run: Run, measure: str) -> float | None:
    """In points (but see UNSCALED); None where the run has no such measure. Perplexity is of the last pre-training."""
    if measure == "perplexity":
        told = [stage["perplexity"] for stage in run.get("cost") or () if "perplexity" in stage]
        return float(told[-1]) if told else None
    found = run["metrics"].get(split_of(results, run), {}).get(measure)
    if found is None:
        return None
    return float(found["value"]) * (1 if run["metric"] in UNSCALED else 100)


def by_seed(results: Results, arm: str, task: str, measure: str) -> dict[int, float]:
    values = {run["seed"]: value(results, run, measure) for run in done(results, arm=arm, task=task)}
    return {seed: found for seed, found in values.items() if found is not None}


def average(results: Results, arm: str, task: str, measure: str) -> Mean | None:
    """Over the seeds that are finished; None where there is none."""
    values = by_seed(results, arm, task, measure)
    return mean([*values.values()]) if values else None


def against(results: Results, measure: str) -> str:
    """The measure of the baseline that this one is compared with."""
    return results["study"].get("against") or measure


def gain(results: Results, arm: str, task: str, measure: str) -> Difference | None:
    """What the arm has over the baseline, paired over the seeds that both have finished; None where there is none.

    The baseline's own is None unless its measure is compared with another one.
    """
    baseline, other = results["study"]["baseline"], against(results, measure)
    if (arm, measure) == (baseline, other):
        return None
    mine, theirs = by_seed(results, arm, task, measure), by_seed(results, baseline, task, other)
    both = [seed for seed in mine if seed in theirs]
    return difference([mine[seed] - theirs[seed] for seed in both]) if both else None


def measures(results: Results) -> list[str]:
    """Those that the study names and some finished run has."""
    return [m for m in results["study"]["measures"] if any(value(results, run, m) is not None for run in done(results))]


def tasks(results: Results) -> list[str]:
    return list(results["study"]["tasks"])


def arms(results: Results) -> list[str]:
    return list(results["study"]["arms"])


def seeds(results: Results, task: str) -> Sequence[int]:
    own = results["study"]["tasks"][task].get("seeds")
    return list(own or results["study"]["seeds"])


def unfinished(results: Results) -> Iterator[str]:
    for run in results["runs"]:
        if run["status"] != "done":
            why = f": {run['error']}" if run.get("error") else ""
            yield f"{run['arm']}/{run['task']}/{run['seed']} {run['status']}{why}"
