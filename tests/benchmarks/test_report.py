"""What is written: schema-1 JSON, tables with units, one HTML file that needs nothing else."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks import draw, html, plots, table
from benchmarks import report as reports

Report = dict[str, Any]


def test_json_comes_back_as_it_went(tmp_path: Path, report: Report) -> None:
    reports.write(tmp_path / "r.json", reports.as_json(report))
    assert reports.read(tmp_path / "r.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_value_that_json_cannot_hold_is_refused(report: Report) -> None:
    report["rows"][0]["texts_per_second"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        reports.as_json(report)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2, "rows": []}', '{"schema": 1}'])
def test_only_reports_of_this_schema_are_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=r"r\.json"):
        reports.read(tmp_path / "r.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.json").write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        reports.write(tmp_path / "r.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert (tmp_path / "r.json").read_text() == "old"


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        reports.check_target(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        reports.check_target(tmp_path / "none" / "r.json")


def test_a_command_writes_its_report_and_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r.json"
    assert reports.deliver(lambda: {"rows": [1]}, target, lambda report: f"| {report['rows']} |\n") == 0
    assert json.loads(target.read_text()) == {"rows": [1]} and capsys.readouterr() == ("| [1] |\n", "")
    assert reports.deliver(lambda: {"rows": []}, None, lambda report: "") == 0


def test_a_command_that_cannot_write_says_so_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Report] = []

    def make() -> Report:
        made.append({})
        raise ValueError("it cannot be measured")

    assert reports.deliver(make, tmp_path / "none" / "r.json", str) == 2
    assert made == [] and "is not a folder" in capsys.readouterr().err
    assert reports.deliver(make, tmp_path / "r.json", str) == 2
    assert capsys.readouterr() == ("", "error: it cannot be measured\n") and list(tmp_path.iterdir()) == []


def test_a_measure_names_its_day_processor_commit_and_versions() -> None:
    where = {"cpu": "CPU", "flags": ["avx2", "fma"], "commit": "0123456789ab", "versions": {"numpy": "2", "x": None}}
    report: Report = {"created": "2026-01-02T03:04:05+00:00", "machine": where}
    assert reports.measured(report) == "Measured 2026-01-02 on CPU (avx2, fma), commit 0123456789; numpy 2."
    where["commit"] = None
    assert "commit unknown; numpy 2." in reports.measured(report)


def test_markdown_has_one_line_a_target_and_units_in_its_header(report: Report) -> None:
    lines = reports.markdown(report).splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert {"texts/s, batch 1", "texts/s, batch 32", "size MB", "p50 / p99 ms, batch 1"} <= set(head)
    body = [line for line in lines[2:] if line.startswith("|")]
    assert len(body) == 5
    assert all(len(line.strip("|").split("|")) == len(head) for line in body)
    assert "| 1,400 | 14x |" in body[3] and "| 2,100 | 21x |" in body[3]
    assert "small & &lt;fast> (HTTP) | auto: bantam |" in body[4]
    assert "Test CPU" in lines[-1] and "torch 2.13.0" in lines[-1]


def test_a_target_measured_at_some_batches_only_keeps_its_columns_straight(report: Report) -> None:
    report["rows"] = [row for row in report["rows"] if row["batch"] == 1 or row["runtime"] == "torch"]
    lines = [line for line in reports.markdown(report).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_tables_are_filled_into_documents(tmp_path: Path, report: Report) -> None:
    (tmp_path / "r.json").write_text(json.dumps(report), encoding="utf-8")
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- table: r.json -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    assert table.main(["--into", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert reports.markdown(report).strip() in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n")
    assert table.filled(document) == text


def test_table_command_prints_each_report(tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert table.main([str(tmp_path / "r.json")] * 2) == 0
    assert capsys.readouterr().out.count("| target |") == 2
    assert table.main([str(tmp_path / "none.json")]) == 2
    assert "error: " in capsys.readouterr().err
    assert table.main([]) == 2


def test_console_shows_every_target(report: Report) -> None:
    console = Console(file=io.StringIO(), width=160)
    reports.show(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(word in shown for word in ("small & <fast>", "torch bf16", "21x", "note: one note"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.03123, "0.0312"), (1.583, "1.58"), (23.64, "23.6"), (1470.4, "1,470"), (99.96, "100")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert reports.number(value) == text


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_self_contained(report: Report) -> None:
    written = html.page(report)
    page = Page()
    page.feed(written)
    assert page.open == [] and page.fetched == []
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert set(re.findall(r"https?://[^\"' <)]*", written)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in written and "@import" not in written


def test_html_holds_every_row_and_follows_light_and_dark(report: Report) -> None:
    written = unescape(html.page(report))
    for row in report["rows"]:
        assert row["target"] in written
        assert f"{reports.number(row['texts_per_second'])}/s" in written
    assert "<fast>" not in html.page(report)
    assert "prefers-color-scheme: dark" in written
    assert "one note" in written


def test_plots_are_well_formed_and_have_a_mark_a_row(report: Report) -> None:
    for _, _, svg in plots.all_plots(report):
        ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    bars = ElementTree.fromstring(plots.throughput(report)).findall(f".//{space}title")
    assert len(bars) == len(report["rows"]) == 10
    points = ElementTree.fromstring(plots.accuracy_against_latency(report)).findall(f".//{space}title")
    assert len(points) == 5
    ElementTree.fromstring(draw.standalone(plots.sizes(report)))


def test_names_in_the_scatter_plot_do_not_cover_each_other(report: Report) -> None:
    root = ElementTree.fromstring(plots.accuracy_against_latency(report))
    names = [node for node in root.iter() if node.tag.endswith("text") and node.get("class") == "name"]
    places = [(float(node.get("x", 0)), float(node.get("y", 0))) for node in names]
    assert len(set(places)) == len(places) >= 3


def test_one_target_alone_can_be_plotted(report: Report) -> None:
    report["rows"] = report["rows"][:1]
    assert "<svg" in html.page(report)
