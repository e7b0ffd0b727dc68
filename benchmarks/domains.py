"""What a study whose tasks leave out one domain each says of unseen domains:

    python -m benchmarks.domains out/domains/study.json [probes.jsonl]

Each task is a domain that was neither trained nor selected on (`task.unseen`): `test` is its score, `known` that of
test texts of the other domains. Told are, over seeds, the mean of `test` over domains, the worst domain, the gap
(known - test, mean over domains), and what an arm has over the baseline, paired over all cells of domain and seed.
With `probes.jsonl`, what `python -m compress.flatness` said of the artefacts of a study that keeps all: the rank
correlation of how much noise raises the loss with the gap, over all cells.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.study.results import Results, arms, done, read, tasks
from benchmarks.study.statistics import difference, mean
from benchmarks.study.table import table

MEASURE, RADIUS = "torch", "0.05"

Cell = tuple[str, int]  # domain and seed


def points(results: Results, arm: str, split: str) -> dict[Cell, float]:
    """100 x the metric in each cell that is finished."""
    found = {}
    for run in done(results, arm=arm):
        if split not in run["metrics"]:
            raise ValueError(
                f"{run['arm']}/{run['task']} reports no {split!r} split: its task must name an unseen domain"
            )
        found[run["task"], run["seed"]] = 100 * float(run["metrics"][split][MEASURE]["value"])
    return found


def by_seed(cells: dict[Cell, float], domains: Iterable[str]) -> dict[int, list[float]]:
    """The values of all domains, of the seeds that have them all."""
    wanted = list(domains)
    seeds = dict.fromkeys(seed for _, seed in cells)
    return {s: [cells[d, s] for d in wanted] for s in seeds if all((d, s) in cells for d in wanted)}


def row(results: Results, arm: str) -> list[str]:
    """Mean, worst domain, gap and difference of one arm; dashes where no seed is whole."""
    unseen, known = (points(results, arm, split) for split in ("test", "known"))
    whole = by_seed(unseen, tasks(results))
    if not whole:
        return [arm, "–", "–", "–", "–"]
    gaps = by_seed({cell: known[cell] - unseen[cell] for cell in unseen}, tasks(results))
    base = points(results, results["study"]["baseline"], "test")
    pairs = [unseen[cell] - base[cell] for cell in unseen if cell in base]
    return [
        arm,
        spread([sum(values) / len(values) for values in whole.values()]),
        spread([min(values) for values in whole.values()]),
        spread([sum(values) / len(values) for values in gaps.values()]),
        "–" if arm == results["study"]["baseline"] or not pairs else interval(pairs),
    ]


def spread(values: list[float]) -> str:
    found = mean(values)
    return f"{found.value:.2f}" + ("" if found.spread is None else f" ± {found.spread:.2f}")


def interval(pairs: list[float]) -> str:
    found = difference(pairs)
    reach = "" if found.low is None or found.high is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{reach}"


def correlation(results: Results, probes: Path) -> str:
    """Of the loss's rise under noise with the gap, over the runs that have both."""
    import numpy as np

    from serve.measures import measure

    lines = [json.loads(line) for line in probes.read_text(encoding="utf-8").splitlines() if line.strip()]
    rises = {Path(one["artefact"]).resolve().parent.name: one["noise_rise"][RADIUS] for one in lines}
    both = []
    for run in done(results):
        if run["digest"] in rises:
            test, known = (100 * run["metrics"][split][MEASURE]["value"] for split in ("test", "known"))
            both.append((rises[run["digest"]], known - test))
    if len(both) < 3:
        raise ValueError(f"{probes} tells of {len(both)} runs of this study; a correlation needs three or more")
    rise, gap = (np.array(column) for column in zip(*both, strict=True))
    told = measure("spearman", rise, gap)
    return f"Rank correlation of the loss's rise (radius {RADIUS}) with the gap, {len(both)} runs: {told:+.2f}\n"


def markdown(results: Results, probes: Path | None = None) -> str:
    head = ["arm", "mean of unseen domains", "worst domain", "gap to known domains",
            f"minus {results['study']['baseline']}, over domains and seeds"]  # fmt: skip
    told = table(head, [row(results, arm) for arm in arms(results)])
    return told if probes is None else f"{told}\n{correlation(results, probes)}"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m benchmarks.domains STUDY.json [PROBES.jsonl]", file=sys.stderr)
        return 2
    try:
        print(markdown(read(Path(arguments[0])), *map(Path, arguments[1:])), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
