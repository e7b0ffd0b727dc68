"""Plots of a report as SVG text.

Colour is the runtime, the marker's shape the precision; every mark has a tooltip with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks import draw
from benchmarks.draw import CHARACTER, WIDTH
from benchmarks.report import Report, Row, batches, lines, number, share

RUNTIMES = ("torch", "bantam", "onnxruntime", "openvino", "http")

# --- accuracy against latency


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        apart = self.right < other.left or other.right < self.left or self.bottom < other.top or other.bottom < self.top
        return not apart


def accuracy_against_latency(report: Report) -> str:
    """Every target as a point with its 95 % interval: to the left is faster, up is better."""
    first = batches(report)[0]
    rows = [line[first] for line in lines(report) if first in line and line[first].get("clients", 1) == 1]
    left, right, top, bottom = 62.0, WIDTH - 24.0, 58.0, 400.0
    across = draw.log_scale([row["latency_ms"]["p50"] for row in rows], left + 10, right - 90)
    lows, highs = [row["accuracy"]["low"] for row in rows], [row["accuracy"]["high"] for row in rows]
    up = draw.linear(min(lows), max(highs), bottom - 10, top + 4)
    parts = [_legend(rows, 0, 14)]
    for tick in draw.ticks(min(lows), max(highs)):
        parts.append(draw.line(left, up(tick), right, up(tick), "grid"))
        parts.append(draw.text(left - 8, up(tick) + 4, f"{tick:.10g}", "soft num", "end"))
    for tick in draw.log_ticks([row["latency_ms"]["p50"] for row in rows]):
        if left <= across(tick) <= right:
            parts.append(draw.line(across(tick), bottom, across(tick), bottom + 5, "axis"))
            parts.append(draw.text(across(tick), bottom + 20, f"{tick:g}", "soft num", "middle"))
    parts.append(draw.line(left, bottom, right, bottom, "axis"))
    axis = f"median latency of a call, ms, batch {first} (log)"
    parts.append(draw.text((left + right) / 2, bottom + 40, axis, "soft", "middle"))
    parts.append(draw.text(left - 50, top - 14, report.get("data", {}).get("metric", "accuracy"), "soft"))
    places = [(across(row["latency_ms"]["p50"]), up(row["accuracy"]["value"])) for row in rows]
    for row, (x, y) in zip(rows, places, strict=True):
        parts.append(_point(row, x, y, up))
    parts += _labels(rows, places, Box(left, top - 6, WIDTH, bottom))
    return draw.picture(bottom + 50, "Accuracy against latency", parts)


def _point(row: Row, x: float, y: float, up: Callable[[float], float]) -> str:
    low, high = up(row["accuracy"]["low"]), up(row["accuracy"]["high"])
    span = f'<line class="span" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>'
    told = f"{_name(row)}: {number(row['latency_ms']['p50'])} ms, {share(row['accuracy'])}"
    return f'<g class="{_hue(row)}"><title>{escape(told)}</title>{span}{_marker(row["precision"], x, y)}</g>'


def _marker(precision: str, x: float, y: float) -> str:
    if precision == "bf16":
        return f'<rect class="mark" x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11" rx="2"/>'
    if precision == "int8":
        points = f"{x:.1f},{y - 7.5:.1f} {x + 7.5:.1f},{y:.1f} {x:.1f},{y + 7.5:.1f} {x - 7.5:.1f},{y:.1f}"
        return f'<polygon class="mark" points="{points}"/>'
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'


def _labels(rows: Sequence[Row], places: Sequence[tuple[float, float]], frame: Box) -> list[str]:
    """Each name where it covers no mark and no other name; left to its tooltip where there is no such place."""
    taken = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    parts = []
    for row, (x, y) in zip(rows, places, strict=True):
        name = row["target"]
        wide = len(name) * CHARACTER
        for dx, dy, anchor in ((11, 4, "start"), (-11, 4, "end"), (0, -13, "middle"), (0, 21, "middle"),
                               (11, -10, "start"), (11, 18, "start"), (-11, -10, "end"), (-11, 18, "end")):  # fmt: skip
            start = x + dx - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            box = Box(start, y + dy - 10, start + wide, y + dy + 3)
            inside = box.left >= frame.left and box.right <= frame.right and box.top >= frame.top
            if inside and box.bottom <= frame.bottom and not any(box.meets(other) for other in taken):
                taken.append(box)
                parts.append(draw.text(x + dx, y + dy, name, "name", anchor))
                break
    return parts


# --- bars


def throughput(report: Report) -> str:
    """Texts a second of every target at each batch size, with the speed-up over the torch teacher."""
    every = batches(report)
    grouped = lines(report)
    names = [_name(next(iter(line.values()))) for line in grouped]
    left, right = _name_width(names), WIDTH - 150.0
    most = max(row["texts_per_second"] for line in grouped for row in line.values())
    across = draw.linear(0, most, left, right)
    thick = 13.0
    parts = [_legend([row for line in grouped for row in line.values()], 0, 14, shapes=False)]
    parts.append(draw.text(WIDTH, 18, "upper bar: batch " + ", lower: batch ".join(every), "soft", "end"))
    y = 40.0
    for name, line in zip(names, grouped, strict=True):
        height = thick * len(line)
        parts.append(draw.text(left - 10, y + height / 2 + 4, name, "", "end"))
        for place, (batch, row) in enumerate(line.items()):
            end = f"{number(row['texts_per_second'])}/s"
            if row.get("speedup") is not None:
                end += f"  ({number(row['speedup'])}x)"
            told = f"{name}, batch {batch}: {end}"
            extra = "" if place == 0 else " pale"
            parts.append(
                _bar(row, left, y + place * thick, across(row["texts_per_second"]), thick - 2, end, told, extra)
            )
        y += height + 11
    parts.append(draw.line(left, 34, left, y - 6, "axis"))
    return draw.picture(y + 2, "Throughput", parts)


def sizes(report: Report) -> str:
    """Bytes on disk to serve each model, whole, and the process's peak memory below."""
    seen: dict[tuple[str, str, int], Row] = {}
    for row in report["rows"]:
        if row.get("transport") != "http":
            seen.setdefault((row["target"], row["precision"], row["size_bytes"]), row)
    rows = list(seen.values())
    names = [_name(row) for row in rows]
    left, right = _name_width(names), WIDTH - 150.0
    across = draw.linear(0, max(row["size_bytes"] for row in rows), left, right)
    parts: list[str] = []
    y = 10.0
    for name, row in zip(names, rows, strict=True):
        end = f"{number(row['size_bytes'] / 1e6)} MB"
        parts.append(draw.text(left - 10, y + 13, name, "", "end"))
        parts.append(_bar(row, left, y, across(row["size_bytes"]), 18, end, f"{name}: {end} on disk"))
        y += 26
    parts.append(draw.line(left, 4, left, y - 2, "axis"))
    return draw.picture(y + 4, "Size on disk", parts)


def _bar(row: Row, x: float, y: float, end: float, thick: float, label: str, told: str, extra: str = "") -> str:
    box = (
        f'<rect class="bar{extra}" x="{x:.1f}" y="{y:.1f}" width="{max(end - x, 1):.1f}" height="{thick:.1f}" rx="2"/>'
    )
    words = draw.text(end + 7, y + thick / 2 + 4, label, "num")
    return f'<g class="{_hue(row)}"><title>{escape(told)}</title>{box}{words}</g>'


# --- pieces


def _legend(rows: Sequence[Row], x: float, y: float, *, shapes: bool = True) -> str:
    """The runtimes by colour, then the precisions by shape, those that occur."""
    parts = []
    for hue in (*RUNTIMES, "other"):
        if any(_hue(row) == hue for row in rows):
            word = "over HTTP" if hue == "http" else hue
            parts.append(
                f'<g class="{hue}"><rect class="bar" x="{x:.1f}" y="{y - 6}" width="11" height="11" rx="2"/></g>'
            )
            parts.append(draw.text(x + 16, y + 4, word, "soft"))
            x += 38 + len(word) * CHARACTER
    for precision in ("fp32", "bf16", "int8") if shapes else ():
        if any(row["precision"] == precision for row in rows):
            parts.append(
                f'<g class="other">{_marker(precision, x + 6, y)}</g>' + draw.text(x + 18, y + 4, precision, "soft")
            )
            x += 38 + len(precision) * CHARACTER
    return "".join(parts)


def _hue(row: Row) -> str:
    kind = "http" if row.get("transport") == "http" else row["runtime"]
    return kind if kind in RUNTIMES else "other"


def _name(row: Row) -> str:
    clients = f", {row['clients']} clients" if row.get("clients", 1) > 1 else ""
    return f"{row['target']}{clients} · {row['runtime']} {row['precision']}"


def _name_width(names: Sequence[str]) -> float:
    return min(max(len(name) for name in names) * CHARACTER + 18, WIDTH * 0.45)


def all_plots(report: Report) -> list[tuple[str, str, str]]:
    """(title, what to look for, svg) of each."""
    metric = report.get("data", {}).get("metric", "accuracy")
    made: list[tuple[str, str, Callable[[Any], str]]] = [
        (
            f"{metric.capitalize()} against latency",
            "Left is faster, up is better; bars are 95 % bootstrap intervals over the evaluation rows.",
            accuracy_against_latency,
        ),
        ("Throughput", "Text to label, tokenisation included; in brackets the ratio to the reference.", throughput),
        ("Size on disk", "All that serving needs: weights with embeddings, tokeniser, manifest.", sizes),
    ]
    return [(title, hint, plot(report)) for title, hint, plot in made]
