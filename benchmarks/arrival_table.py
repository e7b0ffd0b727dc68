"""Reports of `benchmarks.arrival` as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Report, Row, measured, number

SCHEMA = 1
KIND = "arrival"
SORTED = "sorted"
SOURCES = {"pieces": "From word pieces to labels", "text": "From text to labels"}
OURS = "bantam"


def markdown(report: Report) -> str:
    """A table for what a call begins with, then our engine against each of the others on the same artefact."""
    parts = [
        f"**{title}**\n\n{_table(_speeds(report, source))}"
        for source, title in SOURCES.items()
        if any(source in row["seconds"] for row in report["rows"])
    ]
    if duels := list(_duels(report)):
        title = "Times as fast as another runtime with the same artefact"
        parts.append(f"**{title}**\n\n{_table([_rivals(report), *duels])}")
    return "\n\n".join([*parts, _conditions(report)]) + "\n"


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    rule = ["---" if at < 2 else "---:" for at in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def _speeds(report: Report, source: str) -> list[list[str]]:
    rows = [row for row in report["rows"] if source in row["seconds"]]  # n-grams have no word pieces
    first = rows[0]
    ways = list(first["seconds"][source])
    told = ["sorted, best group" if way == SORTED else f"calls of {way}" for way in ways]
    table = [["target", "runtime", "zeros", "labels as first", *(f"texts/s, {way}" for way in told)]]
    for row in rows:
        cells = [_escaped(row["name"]), row["runtime"], f"{row['sparsity']:.0%}", f"{row['same_labels']:.1%}"]
        for way in ways:
            taken, base = (_seconds(one, source, way) for one in (row, first))
            group = f" ({row['group']})" if way == SORTED and row["group"] else ""
            cells.append(f"{number(report['data']['texts'] / float(np.median(taken)))}{group}, {spread(base / taken)}")
        table.append(cells)
    return table


def _rivals(report: Report) -> list[str]:
    small, large = _ends(report)
    columns = [
        column
        for name in _others(report)
        for column in (f"calls of {small}, of {name}'s of {small}", f"calls of {large}, of {name}'s best group")
    ]
    return ["target", "from", *columns]


def _duels(report: Report) -> Iterator[list[str]]:
    """Our engine's calls against equal ones of the others, and against the best that they can do."""
    small, large = _ends(report)
    rows = {(row["name"], row["runtime"]): row for row in report["rows"]}
    for (name, runtime), ours in rows.items():
        if runtime != OURS:
            continue
        for source in ours["seconds"]:
            cells = [_escaped(name), "word pieces" if source == "pieces" else "text"]
            for other in _others(report):
                theirs = rows.get((name, other))
                for mine, way in ((small, small), (large, SORTED)):
                    cells.append(
                        spread(_seconds(theirs, source, way) / _seconds(ours, source, mine)) if theirs else "–"
                    )
            yield cells


def _ends(report: Report) -> tuple[str, str]:
    """The smallest and the largest call."""
    calls = sorted((way for way in report["rows"][0]["seconds"]["text"] if way != SORTED), key=int)
    return calls[0], calls[-1]


def _others(report: Report) -> list[str]:
    return list(dict.fromkeys(row["runtime"] for row in report["rows"] if row["runtime"] != OURS))


def _seconds(row: Row, source: str, way: str) -> NDArray[np.float64]:
    return np.array(row["seconds"][source][way])


def spread(ratios: NDArray[Any]) -> str:
    """Median and range: 2.02x [1.90, 2.36]."""
    return f"{np.median(ratios):.2f}x [{ratios.min():.2f}, {ratios.max():.2f}]"


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")


def _conditions(report: Report) -> str:
    data = report["data"]
    counted = data.get("counted", "word pieces")
    return (
        f"{data['texts']:,} texts of {data['name']} in arrival order, {number(data['pieces_mean'])} {counted} on "
        f"average, {data['pieces_max']} at most. A call runs as one group; `sorted` takes all texts in one call, by "
        "length, in groups of the size in brackets, the fastest one (our engine takes them as they are). Padding and "
        "sorting count. Ratios to the first line, or to the other runtime: median and range of "
        f"{report['rounds']} rounds in which targets take turns. One thread. Labels as first: share of texts that get "
        f"the label that the artefact's first line gives. {measured(report)}"
    )
