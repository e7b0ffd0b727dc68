"""The report of static peers as a table: one line for a peer and the labels that it was trained on."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from statistics import fmean, median
from typing import Any

from benchmarks.report import number, share
from benchmarks.study.statistics import mean

SCHEMA = 1
KIND = "static"
BATCHES = ("1", "32", "all")

Report = dict[str, Any]
Row = dict[str, Any]


def markdown(report: Report) -> str:
    splits = report.get("splits", [report["data"]["split"]])
    header = ["peer", "labels", "settings"]
    for split in splits:
        header += [f"accuracy{f' on {split}' if len(splits) > 1 else ''} [95 % interval]", "spread over seeds"]
    header += ["agrees with its teacher", "size MB", "training s"]
    header += ["peak memory MB, training / answering"]
    header += [f"texts/s, {'all at once' if batch == 'all' else f'batch {batch}'}" for batch in BATCHES]
    header += ["CPU µs/text, 1 / 32 / all"]
    rule = ["---" if place < 3 else "---:" for place in range(len(header))]
    table = [header, rule, *(_cells(rows, splits) for rows in _lines(report))]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([*lines, "", _conditions(report)]) + "\n"


def _lines(report: Report) -> list[list[Row]]:
    """The rows of all seeds of a peer and form together, in order of first appearance."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in report["rows"]:
        grouped.setdefault((row["peer"], row["form"]), []).append(row)
    return list(grouped.values())


def _cells(rows: list[Row], splits: list[str]) -> list[str]:
    def told(*path: str, scale: float = 1.0) -> str:
        return number(_median(rows, *path) * scale)

    trained = "train_cpu_seconds" in rows[0]
    memory = [name for name in ("train_peak_memory_bytes", "peak_memory_bytes") if rows[0].get(name) is not None]
    return [
        rows[0]["peer"],
        rows[0]["form"],
        ", ".join(f"{name} {value}" for name, value in rows[0]["settings"].items()),
        *(cell for split in splits for cell in _accuracy([row["metrics"][split] for row in rows])),
        _agreement(rows),
        told("size_bytes", scale=1e-6),
        f"{told('train_seconds')} ({told('train_cpu_seconds')} CPU)" if trained else told("train_seconds"),
        " / ".join(told(name, scale=1e-6) for name in memory) or "–",
        *(told("rates", batch, "texts_per_second") for batch in BATCHES),
        " / ".join(told("rates", batch, "cpu_seconds_per_text", scale=1e6) for batch in BATCHES),
    ]


def _accuracy(scores: list[dict[str, float]]) -> list[str]:
    """Mean over seeds with its interval, and the spread."""
    whole = {part: fmean(score[part] for score in scores) for part in ("value", "low", "high")}
    spread = mean([score["value"] for score in scores])
    return [share(whole), "–" if spread.spread is None else f"±{spread.spread:.4f} ({spread.n})"]


def _agreement(rows: list[Row]) -> str:
    """With the teacher that an artefact learned from; peers have none."""
    found = [row["agreement"]["value"] for row in rows if row.get("agreement")]
    return f"{fmean(found):.1%}" if found else "–"


def _median(rows: list[Row], *path: str) -> float:
    """Of the value at the end of the path in each row."""
    found: list[Any] = [reduce(getitem, path, row) for row in rows]
    return float(median(found))


def _conditions(report: Report) -> str:
    """The sentences that the table must not travel without."""
    where, data, settings = report["machine"], report["data"], report["settings"]
    rows = ", ".join(f"{name} {count:,}" for name, count in data["rows"].items())
    versions: dict[str, str] = {}
    for row in report["rows"]:
        versions |= row["versions"]
    judged = data["split"]
    others = " and ".join(split for split in report.get("splits", []) if split != judged)
    told = f"{judged} and {others} are told, agreement and speed on {judged}" if others else f"{judged} is told"
    chosen = f" No peer was chosen by {others}; an artefact may have been." if others else ""
    commits = dict.fromkeys((row["commit"] or "unknown")[:10] for row in report["rows"])
    return (
        f"{data['name']}: {rows} rows; {told}, {number(data['words_mean'])} words a text. Settings "
        f"are the best of {settings['budget']} for each line on the selection split, carved from train and not trained "
        f"on.{chosen} Value and interval (bootstrap over texts) are means over seeds; the spread is the standard "
        "deviation of one seed (how many); the rest are medians. Text to label through Python, pre-processing "
        f"included, one thread, medians of {settings['windows']} windows of {settings['seconds']:g} s or more; CPU "
        f"time leaves out what other programs took. Measured {report['created'][:10]} on {where['cpu']} "
        f"({where['cores']} cores, {', '.join(where['flags']) or 'no vector flags known'}), commit "
        f"{', '.join(commits) or 'unknown'}; {', '.join(f'{name} {found}' for name, found in versions.items())}. MB "
        "are 10^6 bytes."
    )
