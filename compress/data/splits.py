"""Which rows train, which select and which are reported.

    found                       selection                         reports
    train, validation, test     validation                        test
    train, test                 a tenth of train                  test
    train, validation           a tenth of train                  validation
    train                       a tenth of what trains            test: a fifth of train

With `task.selection` set, that share of train selects and every other labelled split is reported. What is carved is
stratified by label (scores: by decile) and drawn by seed; unasked, at most 5,000 rows select. A row whose text also
stands in a report leaves selection and train, one that stands in selection leaves train.

Where candidates are ranked for a question (the first text of a pair), splits hold whole questions: those that can be
ranked (a right and a wrong candidate) are carved in their share, and a row leaves whose question stands elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compress.data.labels import Labels
    from compress.data.load import Examples, Text

SELECTION_SHARE = 0.1
SELECTION_ROWS = 5_000
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Parts:
    train: "Examples"
    selection: "Examples | None"
    reports: "dict[str, Examples]"


def arrange(
    found: Parts, kind: str, *, selection: float | None, seed: int, ranked: bool = False
) -> tuple[Parts, list[str]]:
    """Complete splits from those found (`selection` being the validation split), and notes on what was done.

    `ranked`: splits hold whole questions.
    """
    notes: list[str] = []
    name = question if ranked else key
    rng = np.random.default_rng(seed)
    train, validation, reports = found.train, found.selection, dict(found.reports)
    if validation is not None and (selection is not None or not reports):
        reports, validation = {"validation": validation} | reports, None
    if not reports:
        rows = _carved(train, kind, _size(len(train), TEST_SHARE), rng, ranked)
        notes.append(
            f"no labelled test or validation split: {len(rows):,} of {len(train):,} training rows are the test"
        )
        reports, train = {"test": train.take(rows)}, train.take(_others(rows, len(train)))
    reported = {name(text) for part in reports.values() for text in part.texts}
    train = _without(train, reported, name, "training", "a report", notes)
    if validation is None:
        size = _size(len(train), selection or SELECTION_SHARE)
        rows = _carved(train, kind, size if selection else min(size, SELECTION_ROWS), rng, ranked)
        notes.append(f"{len(rows):,} of {len(train):,} training rows are kept for selection")
        validation, train = train.take(rows), train.take(_others(rows, len(train)))
    else:
        validation = _without(validation, reported, name, "validation", "a report", notes)
    train = _without(train, {name(text) for text in validation.texts}, name, "training", "the selection split", notes)
    if kind == "classification" and len(np.unique(train.labels)) < 2:
        raise ValueError(
            f"training needs at least two different labels; {len(train):,} rows of one class are left after "
            "the selection and report splits are taken out: add rows, or give validation and test splits"
        )
    return Parts(train, validation, reports), notes


def apart(parts: Parts, notes: list[str], *, ranked: bool) -> Parts:
    """The same without rows whose text also stands in a report, or of train in selection; `notes` get the counts."""
    assert parts.selection is not None
    name = question if ranked else key
    reported = {name(text) for part in parts.reports.values() for text in part.texts}
    selection = _without(parts.selection, reported, name, "validation", "a report", notes)
    train = _without(parts.train, reported, name, "training", "a report", notes)
    chosen = {name(text) for text in selection.texts}
    train = _without(train, chosen, name, "training", "the selection split", notes)
    return replace(parts, train=train, selection=selection)


def limited(parts: Parts, labels: "Labels", limit: int, *, seed: int) -> Parts:
    """The same with at most `limit` training rows; every class keeps at least one."""
    classes = len(np.unique(parts.train.labels)) if labels.kind == "classification" else 1
    if limit < classes:
        raise ValueError(f"task.limit must keep a row of each of the {classes} classes; got {limit}: raise it")
    rng = np.random.default_rng([seed, 1])
    rows = carved(parts.train.labels, labels.kind, limit, rng, first=True)
    return replace(parts, train=parts.train.take(rows))


def _carved(part: "Examples", kind: str, size: int, rng: np.random.Generator, ranked: bool) -> np.ndarray:
    if not ranked:
        return carved(part.labels, kind, size, rng)
    return carved_questions([question(text) for text in part.texts], part.labels, size, rng)


def carved_questions(asked: "list[Text]", labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """About `size` row numbers, ascending: all rows of so many of the questions `asked` [N] as `size` rows are of N.

    Questions that have labels of both kinds come in their share to within one.
    """
    _, of = np.unique(asked, return_inverse=True)
    right, all_ = np.bincount(of, labels == 1), np.bincount(of)
    if len(all_) < 2:
        raise ValueError(f"too few questions to carve a split from: got {len(all_)}; add some, or give the split")
    count = min(max(round(len(all_) * size / len(of)), 1), len(all_) - 1)
    ranks = ((right > 0) & (right < all_)).astype(np.int64)
    return np.flatnonzero(np.isin(of, carved(ranks, "classification", count, rng)))


def carved(labels: np.ndarray, kind: str, size: int, rng: np.random.Generator, *, first: bool = False) -> np.ndarray:
    """`size` row numbers, ascending, each label in its share to within a row; `first` takes one of each label first.

    Each row gets a random rank in its stratum; rows are taken by (rank + 1/2) / stratum size, smallest first, so
    every stratum is used up at the same pace.
    """
    strata = _deciles(labels) if kind == "regression" else labels
    shuffled = rng.permutation(len(strata))
    position = np.empty(len(strata))
    for value in np.unique(strata):
        members = shuffled[strata[shuffled] == value]
        position[members] = (np.arange(len(members)) + (0.0 if first else 0.5)) / len(members)
    order = shuffled[np.argsort(position[shuffled], kind="stable")]
    return np.sort(order[:size])


def key(text: "Text") -> "Text":
    """A text as leaks are found by: lowercase, white space folded."""
    if isinstance(text, str):
        return " ".join(text.lower().split())
    return " ".join(text[0].lower().split()), " ".join(text[1].lower().split())


def question(text: "Text") -> "Text":
    """The question that a pair asks, as `key` has it."""
    return key(text[0])


def _without(
    part: "Examples", keys: "set[Text]", name: "Callable[[Text], Text]", what: str, where: str, notes: list[str]
) -> "Examples":
    keep = np.array([name(text) not in keys for text in part.texts], dtype=bool)
    if keep.all():
        return part
    if not keep.any():
        raise ValueError(f"every {what} row also stands in {where}: give splits that do not share their texts")
    thing = "question" if name is question else "text"
    notes.append(f"{np.count_nonzero(~keep):,} {what} rows dropped whose {thing} also stands in {where}")
    return part.take(np.flatnonzero(keep))


def _size(rows: int, share: float) -> int:
    size = round(rows * share)
    if not 0 < size < rows:
        raise ValueError(f"too few rows to carve a split of {share:.0%} from: got {rows}; add rows, or give the split")
    return size


def _others(rows: np.ndarray, total: int) -> np.ndarray:
    return np.setdiff1d(np.arange(total), rows, assume_unique=True)


def _deciles(scores: np.ndarray) -> np.ndarray:
    edges = np.quantile(scores, np.linspace(0.1, 0.9, 9))
    return np.asarray(np.digitize(scores, edges))
