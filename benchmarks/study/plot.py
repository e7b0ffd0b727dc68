"""What each arm has over the baseline, as SVG: a row for each arm and task, zero is the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks import draw
from benchmarks.draw import CHARACTER, WIDTH
from benchmarks.study.results import Results, against, arms, gain, tasks
from benchmarks.study.statistics import Difference

ROW, HEAD = 22.0, 30.0  # pixels of an arm and of a task's name


def differences(results: Results, measure: str) -> str:
    """Mean (dot), 95 % interval (line) and the seeds' own differences (pale dots); "" where nothing is compared.

    An interval wider than the picture ends at its edge; its numbers stand at the right.
    """
    told = {(task, arm): gain(results, arm, task, measure) for task in tasks(results) for arm in arms(results)}
    rows = {key: found for key, found in told.items() if found is not None}
    if not rows:
        return ""
    names = [arm for _, arm in rows]
    left, right = max(map(len, names)) * CHARACTER + 24, WIDTH - 170.0
    low, high = reach([pair for found in rows.values() for pair in found.pairs])
    across = draw.linear(low, high, left, right)
    baseline = f"{results['study']['baseline']}, {against(results, measure)}"
    parts = [draw.text(0, 12, f"{measure} minus {baseline}: points, 95 % interval over seeds", "soft")]
    y = 24.0
    marks: list[str] = []
    for task in tasks(results):
        mine = [arm for at, arm in rows if at == task]
        if mine:
            y += HEAD
            marks.append(draw.text(0, y - 10, task))
        for arm in mine:
            marks.append(draw.text(left - 12, y + ROW / 2 + 4, arm, "soft", "end"))
            marks.append(_row(rows[task, arm], f"{task}, {arm}", y + ROW / 2, across, low, high, right))
            y += ROW
    for tick in draw.ticks(low, high):
        parts.append(draw.line(across(tick), 30, across(tick), y, "axis" if tick == 0 else "grid"))
        parts.append(draw.text(across(tick), y + 16, f"{tick:+g}" if tick else "0", "soft num", "middle"))
    return draw.picture(y + 24, f"{measure} against {baseline}", parts + marks)


def reach(pairs: Sequence[float]) -> tuple[float, float]:
    """The axis: zero and every seed, with room at both ends."""
    low, high = min(0.0, *pairs), max(0.0, *pairs)
    room = 0.25 * (high - low) or 1.0
    return low - room, high + room


def _row(found: Difference, name: str, y: float, across: draw.Scale, low: float, high: float, right: float) -> str:
    words = f"{found.value:+.2f}"
    span = ""
    if found.low is not None and found.high is not None:
        words += f" [{found.low:+.2f}, {found.high:+.2f}]"
        start, end = across(max(found.low, low)), across(min(found.high, high))
        span = f'<line class="span" x1="{start:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}"/>'
    seeds = "".join(f'<circle class="bar pale" cx="{across(pair):.1f}" cy="{y:.1f}" r="2.5"/>' for pair in found.pairs)
    mark = f'<circle class="mark" cx="{across(found.value):.1f}" cy="{y:.1f}" r="5"/>'
    told = f"<title>{escape(f'{name}: {words}')}</title>"
    return f'<g class="onnxruntime">{told}{span}{seeds}{mark}</g>' + draw.text(right + 14, y + 4, words, "num")
