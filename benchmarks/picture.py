"""A committed report as a picture for a document: `python -m benchmarks.picture REPORT.json > FILE.svg`."""

import sys
from pathlib import Path

from benchmarks.draw import standalone
from benchmarks.plots import throughput
from benchmarks.report import read


def picture(report: Path) -> str:
    """Texts a second of every target, as an SVG that follows light and dark."""
    return standalone(throughput(read(report)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.picture REPORT.json > FILE.svg")
    sys.stdout.write(picture(Path(sys.argv[1])))
