"""Generated requests, right and wrong ones, held against the service's own OpenAPI document by schemathesis.

It runs in an environment of its own in the cache. https://schemathesis.readthedocs.io
"""

from __future__ import annotations

import base64
import json
import math
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.http import HOST, BadAnswer
from benchmarks.peers import environment
from benchmarks.reliability.judge import Found, found, row
from benchmarks.reliability.service import Place, Service, cores

REQUIREMENTS = Path(__file__).with_name("schemathesis.txt")
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
ROUNDS = 12  # runs with another seed each, at most, until there are enough cases
SHOWN = 50  # failures that the report keeps
# What is refused though the document allows it is refused for what no schema can say: a text that is too long (413,
# 422), a question that this model does not answer (424), a deadline (503), and 400 in protocols that say 400 to all of
# these; tests/serve/openapi holds schema and code together. What breaks the document gets any of ours.
SETTINGS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "413", "422", "424", "429", "503"]
negative_data_rejection.expected-statuses = ["400", "404", "405", "408", "413", "415", "422", "424", "431", "503"]
"""
# Nobody refuses headers that he does not know.
HARMLESS = "in header - object with unexpected properties"
TIMEOUT = "x-request-timeout-ms"
SHORT = 1000  # milliseconds; to a request with a shorter deadline a 503 is the right answer on a busy machine


@dataclass
class Tally:
    cases: int = 0
    expired: int = 0  # 503 to requests that asked for a SHORT deadline
    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # by what was violated
    errors: list[str] = field(default_factory=list)  # of the run itself
    shown: list[dict[str, str]] = field(default_factory=list)

    def read(self, lines: Iterable[str]) -> None:
        """Events of a run, a JSON object a line."""
        for line in lines:
            kind, event = next(iter(json.loads(line).items()))
            if kind == "ScenarioFinished":
                self._scenario(event["recorder"])
            elif kind.endswith("Error"):
                self.errors.append(json.dumps(event)[:1000])

    def _scenario(self, recorder: dict[str, Any]) -> None:
        interactions = recorder.get("interactions", {})
        self.cases += len(interactions)
        for name, interaction in interactions.items():
            answer = interaction.get("response")
            status = str(answer["status_code"]) if answer else "no answer"
            self.statuses[status] += 1
            if status == "503" and _short(interaction["request"]):
                self.expired += 1
                continue
            checks = recorder.get("checks", {}).get(name, [])
            broken = [one["failure_info"]["failure"] for one in checks if one["status"] == "failure"]
            if not broken and status >= "500":  # "no answer" is one, too
                self._fail(recorder["label"], f"answered {status}", "", interaction)
            for one in broken:
                if HARMLESS not in one["message"]:
                    self._fail(recorder["label"], one["title"], one["message"], interaction)

    def _fail(self, label: str, title: str, message: str, interaction: dict[str, Any]) -> None:
        self.failures[title] += 1
        # Of each operation's failures of a kind a few are enough.
        alike = sum(one["operation"] == label and one["title"] == title for one in self.shown)
        if alike < 3 and len(self.shown) < SHOWN:
            told = {"operation": label, "title": title, "message": message[:500], "curl": curl(interaction["request"])}
            self.shown.append(told)
            print(f"  {label}: {title}: {message[:200]}\n    {told['curl'][:1000]}", file=sys.stderr)


def check(place: Place) -> Found:
    programs = environment.prepare("schemathesis", REQUIREMENTS)
    tally = Tally()
    with place.start(cores(), {}) as service:
        operations = _operations(service)
        left, rounds = place.cases, 0
        while left > 0 and rounds < ROUNDS and not tally.errors:
            before = tally.cases
            _run(programs, service.port, math.ceil(left / operations), rounds, place.scratch, tally)
            print(f"  {tally.cases:,} cases of {operations} operations", file=sys.stderr)
            if tally.cases == before:
                break
            left, rounds = place.cases - tally.cases, rounds + 1
        ended = service.ended()
    return judged(tally, place.cases, operations, ended, environment.versions(programs)["schemathesis"])


def judged(tally: Tally, cases: int, operations: int, ended: int | None, version: str) -> Found:
    failures = sum(count for status, count in tally.statuses.items() if status >= "500") - tally.expired
    rows = [
        row("operations", operations, least=1),
        row("cases", tally.cases, least=cases),
        row("answers of 5xx, or none", failures, most=0),
        row("503 beside these, to deadlines under a second", tally.expired),
        row("violations of the document", sum(tally.failures.values()), most=0),
        row("errors of the run itself", len(tally.errors), most=0),
        row("the service ended by itself", int(ended is not None), most=0),
    ]
    counts = {"statuses": dict(sorted(tally.statuses.items())), "violations": dict(tally.failures.most_common())}
    return found(rows, schemathesis=version, **counts, shown=tally.shown, errors=tally.errors[:10])


def curl(request: dict[str, Any]) -> str:
    """A command that sends it again."""
    parts = ["curl", "-i", "-X", request["method"]]
    for name, values in request.get("headers", {}).items():
        parts += [word for value in values for word in ("-H", f"{name}: {value}")]
    encoded = (request.get("body") or {}).get("$base64", "")
    if encoded:
        body = base64.b64decode(encoded)
        try:
            parts += ["--data-binary", body.decode("ascii")]
        except UnicodeDecodeError:
            parts = ["printf", "%s", encoded, "|", "base64", "-d", "|", *parts, "--data-binary", "@-"]
    return " ".join(part if part == "|" else shlex.quote(part) for part in [*parts, request["uri"]])


def _operations(service: Service) -> int:
    try:
        paths = json.loads(service.get("/openapi.json"))["paths"]
    except (BadAnswer, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"/openapi.json must be an OpenAPI document, got {error}") from None
    count = sum(method in METHODS for operations in paths.values() for method in operations)
    if not count:
        raise ValueError("/openapi.json has no operation to ask for")
    return count


def _run(programs: Path, port: int, examples: int, seed: int, scratch: Path, tally: Tally) -> None:
    """One run into the tally. What it found makes its exit code 1; another is an error of its own."""
    report = scratch / f"schema-{seed}.ndjson"
    (scratch / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    command = [str(programs / "st"), "run", f"http://{HOST}:{port}/openapi.json", "--max-examples", str(examples)]
    command += ["--phases", "examples,coverage,fuzzing" if not seed else "fuzzing", "--seed", str(seed), "--no-shrink"]
    command += ["--continue-on-failure", "--generation-database", "none", "--suppress-health-check", "all"]
    command += ["--request-timeout", "30", "--no-color", "--report", "ndjson", "--report-ndjson-path", str(report)]
    done = subprocess.run(
        command,
        cwd=scratch,
        env=environment.variables(programs),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if report.is_file():
        with report.open(encoding="utf-8") as lines:
            tally.read(lines)
        report.unlink()
    if done.returncode not in (0, 1):
        tally.errors.append(f"schemathesis ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")


def _short(request: dict[str, Any]) -> bool:
    given = [
        value for name, values in request.get("headers", {}).items() if name.lower() == TIMEOUT for value in values
    ]
    return bool(given) and given[0].isdigit() and int(given[0]) < SHORT
