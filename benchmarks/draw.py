"""Pieces of SVG text, written by hand so that a plot follows the page's light or dark colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH = 920
CHARACTER = 6.4  # pixels, about, of the 12 px font

Scale = Callable[[float], float]  # value -> pixels

STYLE = """
:root { --paper: #fcfcfb; --card: #ffffff; --ink: #1b1b1a; --soft: #5f5e5a; --line: #dedcd6; --grid: #eceae5;
  --torch: #b0552d; --bantam: #c2271f; --onnxruntime: #2a6fc9; --openvino: #14866d; --http: #7a52b8; --other: #6b6a66; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161615; --card: #1e1e1c; --ink: #ecebe6; --soft: #a9a79f; --line: #3a3936; --grid: #2a2927;
    --torch: #ea8f63; --bantam: #ff7a70; --onnxruntime: #6ba6f2; --openvino: #3cc2a0; --http: #b493ec;
    --other: #a9a79f; } }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--line); }
svg .name { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
svg .num { font-variant-numeric: tabular-nums; }
svg .torch { --c: var(--torch); } svg .bantam { --c: var(--bantam); }
svg .onnxruntime { --c: var(--onnxruntime); } svg .openvino { --c: var(--openvino); }
svg .http { --c: var(--http); } svg .other { --c: var(--other); }
svg .mark { fill: var(--c); stroke: var(--card); stroke-width: 1.5; } svg .bar { fill: var(--c); }
svg .pale { opacity: .5; } svg .span { stroke: var(--c); stroke-width: 1.5; opacity: .55; }
"""


def standalone(svg: str) -> str:
    """A plot as a file of its own, for a README: it carries its colours with it."""
    head, rest = svg.split(">", 1)
    background = '<rect width="100%" height="100%" rx="8" style="fill: var(--card)"/>'
    return f"{head}><style>{STYLE}</style>{background}{rest}\n"


def picture(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {WIDTH + 16} {height + 8:.0f}" width="{WIDTH + 16}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    inner = linear(math.log(min(values)), math.log(max(values)), start, end)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between low and high."""
    rough = ((high - low) or 1.0) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(step * count, 10) for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(values: Sequence[float]) -> list[float]:
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [factor * 10.0**power for power in range(lowest, highest + 1) for factor in (1, 2, 5)]
