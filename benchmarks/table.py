"""Committed reports as Markdown tables.

`python -m benchmarks.table FILE.json ...` prints them. `python -m benchmarks.table --into DOCUMENT.md ...` writes
them into documents, between a line `<!-- table: path/of/report.json -->` and the next `<!-- end -->`; paths start
at the folder of the document.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.report import markdown, read

__all__ = ["filled", "main", "markdown"]

BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document: Path) -> str:
    """The text of `document` with each of its tables made anew from the report that it names."""

    def table(block: re.Match[str]) -> str:
        return f"{block[1]}\n{markdown(read(document.parent / block[2])).strip()}\n\n{block[3]}"

    return BLOCK.sub(table, document.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    if not arguments or arguments == ["--into"]:
        print("usage: python -m benchmarks.table [--into] FILE ...", file=sys.stderr)
        return 2
    try:
        if arguments[0] == "--into":
            for document in map(Path, arguments[1:]):
                document.write_text(filled(document), encoding="utf-8")
        else:
            print("\n".join(markdown(read(Path(report))) for report in arguments), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
