"""Committed reports as Markdown tables: of `bantam bench`, of `bantam study`, and of the commands in REPORTS.

`python -m benchmarks.table FILE.json ...` prints them. `python -m benchmarks.table --into DOCUMENT.md ...` writes
them into documents, between a line `<!-- table: path/of/report.json -->` and the next `<!-- end -->`; paths start
at the folder of the document.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import arrival_table, engine, front, shapes, storage
from benchmarks import report as bench
from benchmarks.peers import report as peers
from benchmarks.reliability import report as reliability
from benchmarks.static import report as static
from benchmarks.study import results as study
from benchmarks.study.table import markdown as study_markdown

__all__ = ["filled", "main", "rendered"]

# Modules with KIND, SCHEMA and markdown.
REPORTS: tuple[Any, ...] = (arrival_table, engine, front, peers, reliability, shapes, static, storage)
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document: Path) -> str:
    """The text of `document` with each of its tables made anew from the report that it names."""

    def table(block: re.Match[str]) -> str:
        return f"{block[1]}\n{rendered(document.parent / block[2]).strip()}\n\n{block[3]}"

    return BLOCK.sub(table, document.read_text(encoding="utf-8"))


def rendered(path: Path) -> str:
    """The tables of a report, whichever of the commands wrote it."""
    for module in REPORTS:
        if bench.is_kind(path, module.KIND):
            return str(module.markdown(bench.read_kind(path, module.KIND, module.SCHEMA)))
    if study.is_study(path):
        return study_markdown(study.read(path))
    return bench.markdown(bench.read(path))


def main(arguments: list[str]) -> int:
    if not arguments or arguments == ["--into"]:
        print("usage: python -m benchmarks.table [--into] FILE ...", file=sys.stderr)
        return 2
    try:
        if arguments[0] == "--into":
            for document in map(Path, arguments[1:]):
                document.write_text(filled(document), encoding="utf-8")
        else:
            print("\n".join(rendered(Path(report)) for report in arguments), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
