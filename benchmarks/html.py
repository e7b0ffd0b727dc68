"""A report as one HTML file that needs nothing else: inline SVG, inline style, no scripts, no fonts to fetch."""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.draw import STYLE
from benchmarks.plots import all_plots
from benchmarks.report import Report, Row, batches, cells, conditions, header, lines, number, share

PAGE_STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 0 0 2px; }
p { margin: 0 0 14px; } .soft { color: var(--soft); } .small { font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 20px; }
section svg { width: 100%; height: auto; display: block; margin-top: 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 22px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25; font-weight: 600; }
.wide { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; white-space: normal; vertical-align: bottom; min-width: 74px; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 10px 0 0; font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(report: Report) -> str:
    """The whole document."""
    about = report.get("data", {})
    plots = "".join(
        f'<section><h2>{escape(title)}</h2><p class="soft small">{escape(hint)}</p>{svg}</section>'
        for title, hint, svg in all_plots(report)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Bantam bench: {escape(str(about.get("name", "")))}</title>
<style>{STYLE}{PAGE_STYLE}</style></head><body><main>
<h1>Teacher and students, measured</h1>
<p class="soft small">{escape(conditions(report))}</p>
{_tiles(report)}
{plots}
{_table(report)}
{_details(report)}
</main></body></html>
"""


def _tiles(report: Report) -> str:
    """What the quickest student gains and loses against the reference."""
    every = batches(report)
    grouped = [line for line in lines(report) if every[0] in line]
    reference = grouped[0]
    students = [line for line in grouped if line[every[0]]["target"] != reference[every[0]]["target"]]
    in_process = [line for line in students if line[every[0]].get("transport") != "http"]
    if not in_process:
        return ""
    best = max(in_process, key=lambda line: float(line[every[0]]["speedup"]))
    row, first = best[every[0]], reference[every[0]]
    metric = report.get("data", {}).get("metric", "accuracy")
    tiles = [(f"{number(best[batch]['speedup'])}x", f"throughput at batch {batch}") for batch in every if batch in best]
    tiles += [
        (f"{number(first['size_bytes'] / row['size_bytes'])}x", "smaller on disk"),
        (f"{row['accuracy']['value']:.3f}", f"{metric}; teacher {first['accuracy']['value']:.3f}"),
        (f"{row['agreement']['value']:.1%}" if _is_share(report) else f"{row['agreement']['value']:.3f}",
         "agreement with the teacher"),
    ]  # fmt: skip
    boxes = "".join(f'<div class="tile"><b>{escape(value)}</b><span class="soft small">{escape(what)}</span></div>'
                    for value, what in tiles)  # fmt: skip
    says = f"{row['target']} ({row['runtime']} {row['precision']}) against {_called(first)}"
    return f'<div class="tiles">{boxes}</div><p class="soft small" style="margin-top:8px">{escape(says)}</p>'


def _is_share(report: Report) -> bool:
    return str(report.get("data", {}).get("kind", "classification")) == "classification"


def _called(row: Row) -> str:
    return f"the {row['target']} ({row['runtime']} {row['precision']})"


def _table(report: Report) -> str:
    every = batches(report)
    head = "".join(f"<th>{escape(name)}</th>" for name in header(report))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(line, every)) + "</tr>" for line in lines(report)
    )
    apart = _tokenising(report)
    return (
        f'<section><h2>All numbers</h2><p class="soft small">Latencies are percentiles of raw calls; '
        f'rates are medians of windows. {escape(apart)}</p><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _tokenising(report: Report) -> str:
    times = [row["tokenise_seconds_per_text"] for row in report["rows"] if row.get("tokenise_seconds_per_text")]
    if not times:
        return ""
    return f"Tokenising alone took {number(min(times) * 1e6)} to {number(max(times) * 1e6)} µs a text."


def _details(report: Report) -> str:
    facts: dict[str, Any] = {**report["machine"], **{f"setting: {k}": v for k, v in report.get("settings", {}).items()}}
    facts["evaluation data"] = report.get("data")
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.get("notes", []))
    more = f"<ul class='small'>{notes}</ul>" if notes else ""
    rows = "".join(_spread(row) for row in report["rows"])
    return (
        f"<section><h2>Machine and settings</h2>{more}<dl>{entries}</dl></section>"
        f'<section><h2>Spread</h2><p class="soft small">Lowest and highest window of each row.</p>'
        f"<dl>{rows}</dl></section>"
    )


def _spread(row: Row) -> str:
    name = f"{row['target']} {row['runtime']} {row['precision']}, batch {row['batch']}"
    if row.get("clients", 1) > 1:
        name += f", {row['clients']} clients"
    low, high = row["spread"]["low"], row["spread"]["high"]
    says = f"{number(low)} to {number(high)} texts/s, {row['samples']:,} calls, agreement {share(row['agreement'])}"
    return f"<dt>{escape(name)}</dt><dd>{escape(says)}</dd>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {found}" for key, found in value.items() if found is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return number(value)
    return "unknown" if value is None else str(value)
