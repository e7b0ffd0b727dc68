"""Committed reports as Markdown tables: `python -m benchmarks.table FILE.json [FILE.json ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.report import markdown, read

__all__ = ["main", "markdown"]


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m benchmarks.table FILE.json [FILE.json ...]", file=sys.stderr)
        return 2
    try:
        tables = [markdown(read(Path(argument))) for argument in arguments]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(tables), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
