"""Checks as tables: what was measured, what it must be, and whether it is."""

from __future__ import annotations

from typing import Any

from benchmarks.reliability.judge import Row, shown, wanted
from benchmarks.report import measured

SCHEMA = 1
KIND = "reliability"
TITLES = {
    "start": "Start and memory",
    "sigterm": "SIGTERM under load",
    "sigkill": "SIGKILL of one of two workers under load",
    "overload": "Twice as many requests as it can answer",
    "bytes": "Requests wrong by bytes",
    "schema": "Requests generated from the OpenAPI document",
    "soak": "Very many requests",
}

Report = dict[str, Any]


def markdown(report: Report) -> str:
    """One table a check, in the order of TITLES; then with what they were measured."""
    parts = [_table(name, report["checks"][name]) for name in TITLES if name in report["checks"]]
    return "\n".join([*parts, _conditions(report)]) + "\n"


def _table(name: str, check: dict[str, Any]) -> str:
    if "error" in check:
        return f"### {TITLES[name]}\n\nFailed: {check['error']}\n"
    lines = [f"| {' | '.join(_cells(row))} |" for row in check["rows"]]
    head = ["| measured | | must be | |", "| --- | ---: | --- | --- |"]
    return "\n".join([f"### {TITLES[name]}", "", *head, *lines, "", *_facts(check), ""])


def _cells(row: Row) -> list[str]:
    limit = "" if row["ok"] is None else wanted(row).removeprefix("must be ")
    word = {None: "", True: "yes", False: "**no**"}[row["ok"]]
    return [row["what"], shown(row["value"], row["unit"]), limit, word]


def _facts(check: dict[str, Any]) -> list[str]:
    """What a reader wants beside the rows."""
    details = check["details"]
    found = []
    for title, key in (("Statuses", "statuses"), ("Violations", "violations")):
        counts = details.get(key)
        if not counts:
            continue
        groups = counts.items() if isinstance(next(iter(counts.values())), dict) else [("", counts)]
        for group, entries in groups:
            listed = ", ".join(f"{name}: {count:,}" for name, count in entries.items())
            found.append(f"{title}{' at ' + group if group else ''}: {listed or 'none'}.")
    if "server_us" in details:
        found.append(f"CPU a request: server {details['server_us']:,.0f} µs, sender {details['client_us']:,.0f} µs.")
    found.append(f"Took {check['seconds']:,.0f} s.")
    return found


def _conditions(report: Report) -> str:
    model, settings = report["artefact"], report["settings"]
    told = ", ".join(f"{name}={value}" for name, value in settings["service"].items()) or "none"
    return (
        f"{model['name']}, {model['precision']} ({model['method']}), {settings['texts']} texts a request of "
        f"{settings['data']}; {report['machine']['usable_cores']} cores, which server and sender share; on "
        f"{settings['server']}, settings "
        f"of the service other than its own: {told}. {measured(report)}"
    )
