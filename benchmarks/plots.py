"""Plots of a report as SVG text, written by hand so that they follow the page's light or dark colours.

Colour is the runtime, the marker's shape the precision; every mark has a tooltip with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.report import Report, Row, batches, lines, number, share

WIDTH = 920
CHARACTER = 6.4  # pixels, about, of the 12 px font
RUNTIMES = ("torch", "onnxruntime", "openvino", "http")

STYLE = """
:root { --paper: #fcfcfb; --card: #ffffff; --ink: #1b1b1a; --soft: #5f5e5a; --line: #dedcd6; --grid: #eceae5;
  --torch: #b0552d; --onnxruntime: #2a6fc9; --openvino: #14866d; --http: #7a52b8; --other: #6b6a66; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161615; --card: #1e1e1c; --ink: #ecebe6; --soft: #a9a79f; --line: #3a3936; --grid: #2a2927;
    --torch: #ea8f63; --onnxruntime: #6ba6f2; --openvino: #3cc2a0; --http: #b493ec; --other: #a9a79f; } }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--line); }
svg .name { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .num { font-variant-numeric: tabular-nums; }
svg .torch { --c: var(--torch); } svg .onnxruntime { --c: var(--onnxruntime); } svg .openvino { --c: var(--openvino); }
svg .http { --c: var(--http); } svg .other { --c: var(--other); }
svg .mark { fill: var(--c); stroke: var(--card); stroke-width: 1.5; } svg .bar { fill: var(--c); }
svg .pale { opacity: .5; } svg .span { stroke: var(--c); stroke-width: 1.5; opacity: .55; }
"""


def standalone(svg: str) -> str:
    """A plot as a file of its own, for a README: it carries its colours with it."""
    head, rest = svg.split(">", 1)
    background = '<rect width="100%" height="100%" rx="8" style="fill: var(--card)"/>'
    return f"{head}><style>{STYLE}</style>{background}{rest}\n"


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
    across = _log_scale([row["latency_ms"]["p50"] for row in rows], left + 10, right - 90)
    lows, highs = [row["accuracy"]["low"] for row in rows], [row["accuracy"]["high"] for row in rows]
    up = _linear(min(lows), max(highs), bottom - 10, top + 4)
    parts = [_legend(rows, 0, 14)]
    for tick in _ticks(min(lows), max(highs)):
        parts.append(_line(left, up(tick), right, up(tick), "grid"))
        parts.append(_text(left - 8, up(tick) + 4, f"{tick:.10g}", "soft num", "end"))
    for tick in _log_ticks([row["latency_ms"]["p50"] for row in rows]):
        if left <= across(tick) <= right:
            parts.append(_line(across(tick), bottom, across(tick), bottom + 5, "axis"))
            parts.append(_text(across(tick), bottom + 20, f"{tick:g}", "soft num", "middle"))
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(
        _text((left + right) / 2, bottom + 40, f"median latency of a call, ms, batch {first} (log)", "soft", "middle")
    )
    parts.append(_text(left - 50, top - 14, report.get("data", {}).get("metric", "accuracy"), "soft"))
    places = [(across(row["latency_ms"]["p50"]), up(row["accuracy"]["value"])) for row in rows]
    for row, (x, y) in zip(rows, places, strict=True):
        parts.append(_point(row, x, y, up))
    parts += _labels(rows, places, Box(left, top - 6, WIDTH, bottom))
    return _svg(bottom + 50, "Accuracy against latency", parts)


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
                parts.append(_text(x + dx, y + dy, name, "name", anchor))
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
    across = _linear(0, most, left, right)
    thick = 13.0
    parts = [_legend([row for line in grouped for row in line.values()], 0, 14, shapes=False)]
    parts.append(_text(WIDTH, 18, "upper bar: batch " + ", lower: batch ".join(every), "soft", "end"))
    y = 40.0
    for name, line in zip(names, grouped, strict=True):
        height = thick * len(line)
        parts.append(_text(left - 10, y + height / 2 + 4, name, "", "end"))
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
    parts.append(_line(left, 34, left, y - 6, "axis"))
    return _svg(y + 2, "Throughput", parts)


def sizes(report: Report) -> str:
    """Bytes on disk to serve each model, whole, and the process's peak memory below."""
    seen: dict[tuple[str, str, int], Row] = {}
    for row in report["rows"]:
        if row.get("transport") != "http":
            seen.setdefault((row["target"], row["precision"], row["size_bytes"]), row)
    rows = list(seen.values())
    names = [_name(row) for row in rows]
    left, right = _name_width(names), WIDTH - 150.0
    across = _linear(0, max(row["size_bytes"] for row in rows), left, right)
    parts: list[str] = []
    y = 10.0
    for name, row in zip(names, rows, strict=True):
        end = f"{number(row['size_bytes'] / 1e6)} MB"
        parts.append(_text(left - 10, y + 13, name, "", "end"))
        parts.append(_bar(row, left, y, across(row["size_bytes"]), 18, end, f"{name}: {end} on disk"))
        y += 26
    parts.append(_line(left, 4, left, y - 2, "axis"))
    return _svg(y + 4, "Size on disk", parts)


def _bar(row: Row, x: float, y: float, end: float, thick: float, label: str, told: str, extra: str = "") -> str:
    box = (
        f'<rect class="bar{extra}" x="{x:.1f}" y="{y:.1f}" width="{max(end - x, 1):.1f}" height="{thick:.1f}" rx="2"/>'
    )
    words = _text(end + 7, y + thick / 2 + 4, label, "num")
    return f'<g class="{_hue(row)}"><title>{escape(told)}</title>{box}{words}</g>'


# --- pieces


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {WIDTH + 16} {height + 8:.0f}" width="{WIDTH + 16}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _legend(rows: Sequence[Row], x: float, y: float, *, shapes: bool = True) -> str:
    """The runtimes by colour, then the precisions by shape, those that occur."""
    parts = []
    for hue in (*RUNTIMES, "other"):
        if any(_hue(row) == hue for row in rows):
            word = "over HTTP" if hue == "http" else hue
            parts.append(
                f'<g class="{hue}"><rect class="bar" x="{x:.1f}" y="{y - 6}" width="11" height="11" rx="2"/></g>'
            )
            parts.append(_text(x + 16, y + 4, word, "soft"))
            x += 38 + len(word) * CHARACTER
    for precision in ("fp32", "bf16", "int8") if shapes else ():
        if any(row["precision"] == precision for row in rows):
            parts.append(
                f'<g class="other">{_marker(precision, x + 6, y)}</g>' + _text(x + 18, y + 4, precision, "soft")
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


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _log_scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    inner = _linear(math.log(min(values)), math.log(max(values)), start, end)
    return lambda value: inner(math.log(value))


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between low and high."""
    rough = ((high - low) or 1.0) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(step * count, 10) for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [factor * 10.0**power for power in range(lowest, highest + 1) for factor in (1, 2, 5)]


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
