"""The command: its report, its table, going on where it stopped, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks.reliability import __main__ as command
from benchmarks.reliability.catalogue import CHECKS
from benchmarks.reliability.judge import failed, found, row, shown
from benchmarks.reliability.report import TITLES
from benchmarks.reliability.service import Place


def test_limits_are_kept_by_what_lies_within_them() -> None:
    for value, limits, ok in [
        (1.0, {"most": 1.0}, True),
        (1.1, {"most": 1.0}, False),
        (0.9, {"least": 0.9}, True),
        (0.8, {"least": 0.9}, False),
        (0, {"least": 0, "most": 0}, True),
        (None, {"most": 1.0}, False),
        (float("nan"), {"most": 1.0}, False),
        (float("inf"), {"most": 1.0}, False),
        (5, {}, None),
        (None, {}, None),
    ]:
        assert row("x", value, "s", **limits)["ok"] is ok, (value, limits)
    both = found([row("a", 2.0, "s", most=1.0), row("b", 0.5, "%", least=0.9), row("c", 7)], more=1)
    assert not both["passed"] and both["details"] == {"more": 1}
    assert failed(both) == ["a: 2 s, must be at most 1 s", "b: 50.0 %, must be at least 90.0 %"]
    assert shown(1234.5, "ms") == "1,234 ms" and shown(0.01234, "s") == "0.0123 s" and shown(12, "") == "12"


def test_checks_and_titles_are_the_same() -> None:
    assert list(CHECKS) == list(TITLES) and len(CHECKS) == 7


def test_a_run_keeps_what_it_has_goes_on_and_says_what_failed(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = list[str]()

    def good(place: Place) -> Any:
        calls.append("start")
        assert place.seconds == 0.5 and place.requests == 7 and b'"inputs": "' in place.messages[0]
        return found([row("seconds", 1.5, "s", most=2.0)], statuses={"200": 3})

    def stopped(place: Place) -> Any:
        calls.append("soak")
        raise KeyboardInterrupt if calls.count("soak") == 1 else ValueError("it does not start")

    monkeypatch.setitem(CHECKS, "start", good)
    monkeypatch.setitem(CHECKS, "soak", stopped)
    target = tmp_path / "x.json"
    order = [str(student), "--json", str(target), "--only", "soak", "start", "--seconds", "0.5", "--requests", "7"]
    assert command.main(order) == 130
    kept = json.loads(target.read_text())
    assert list(kept["checks"]) == ["start"] and kept["machine"]["cpu"] and kept["artefact"]["name"] == "small"
    assert command.main([*order, "--resume"]) == 1
    assert calls == ["start", "soak", "soak"]
    report = json.loads(target.read_text())
    assert report["checks"]["start"] == kept["checks"]["start"]
    assert report["checks"]["soak"]["error"] == "it does not start" and not report["checks"]["soak"]["passed"]
    text = table.rendered(target)
    assert "| seconds | 1.5 s | at most 2 s | yes |" in text and "Failed: it does not start" in text
    assert "Statuses: 200: 3." in text and "### Very many requests" in text
    assert command.main([*order, "--resume"]) == 1 and calls[-1] == "soak"  # what broke off is done again
    assert command.main([*order, "--resume", "--requests", "8"]) == 2
    assert "measured with another settings" in capsys.readouterr().err


def test_wrong_input_is_one_error(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    for more, words in [
        (["--only", "luck"], "checks must be among start,"),
        (["--seconds", "0"], "--seconds must be above 0, got 0"),
        (["--requests", "-1"], "--requests must be above 0"),
        (["--texts", "600"], "requests of 600 texts need as many texts, got 512"),
        (["--set", "DEADLINE"], "--set takes NAME=VALUE"),
        (["--data", str(tmp_path / "none.csv")], "none.csv"),
        (["--json", str(tmp_path / "no" / "x.json")], "is not a folder"),
        (["--json", str(other), "--resume"], "is no report of this command"),
    ]:
        assert command.main([str(student), "--json", str(tmp_path / "x.json"), *more]) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and error.startswith("error: ") and "\n" not in error
    assert command.main([str(tmp_path / "nothing"), "--json", str(tmp_path / "x.json")]) == 2
    assert not (tmp_path / "x.json").exists()
