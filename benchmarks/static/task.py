"""A task's splits as every peer gets them: the same texts to train on, to choose settings with, and to be judged by.

What settings are chosen with is carved from train, so that validation and test are for the report alone. A training
text that also stands in a report or in the selection split leaves train.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.data import SUFFIXES, records

TRAIN = "train"
REPORTS = ("validation", "test")
SHARE, ROWS = 0.1, 2000  # of train that select: so much of it, at most so many rows
CARVED_BY = 0  # seed of the draw, the same for every seed of a peer
EXTRA = ("text", "label")  # columns of a file of the teacher's labels


@dataclass(frozen=True)
class Split:
    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def without(self, texts: Iterable[str]) -> Split:
        seen = set(texts)
        return self.take([row for row, text in enumerate(self.texts) if text not in seen])

    def take(self, rows: Sequence[int]) -> Split:
        return Split([self.texts[row] for row in rows], [self.labels[row] for row in rows])

    def __add__(self, other: Split) -> Split:
        return Split(self.texts + other.texts, self.labels + other.labels)


@dataclass(frozen=True)
class Task:
    name: str
    columns: tuple[str, str]  # of the text and of the label
    labels: tuple[str, ...]
    train: Split
    selection: Split
    reports: dict[str, Split]
    extra: Split | None = None  # texts with the teacher's labels
    notes: list[str] = field(default_factory=list)

    @property
    def judged(self) -> str:
        """The split that speeds are measured on and tables tell of first: test where there is one."""
        return list(self.reports)[-1]

    def about(self) -> dict[str, Any]:
        splits = {TRAIN: self.train, "selection": self.selection, **self.reports}
        if self.extra is not None:
            splits["teacher's labels"] = self.extra
        texts = self.reports[self.judged].texts
        return {
            "name": self.name,
            "columns": list(self.columns),
            "labels": list(self.labels),
            "rows": {name: len(split) for name, split in splits.items()},
            "words_mean": sum(len(text.split()) for text in texts) / len(texts),
            "split": self.judged,
            "fingerprint": _fingerprint(splits),
            "notes": self.notes,
        }


def load(folder: Path, *, text: str, label: str, extra: Path | None = None) -> Task:
    """The task in a folder of train, validation and test files, of which one of the last two may be missing.

    extra: a file with columns "text" and "label", the teacher's. Raises ValueError for what cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name one with train.parquet and test.parquet (or csv, tsv, jsonl)")
    found = {name: _split(file, text, label) for name in (TRAIN, *REPORTS) if (file := _file(folder, name))}
    reports = {name: found[name] for name in REPORTS if name in found}
    if TRAIN not in found or not reports:
        got = ", ".join(found) or "neither"
        raise ValueError(f"{folder} must have a train split and a validation or test split; it has {got}")
    whole = found[TRAIN]
    known = tuple(sorted(set(whole.labels)))
    if len(known) < 2:
        raise ValueError(f"{folder}: the train split must have two labels or more, got {list(known)}")
    judged = [text for split in reports.values() for text in split.texts]
    train = whole.without(judged)
    selection, train = _carved(train)
    notes = [f"{len(whole) - len(train) - len(selection):,} training rows left out whose text stands in another split"]
    more = None
    if extra is not None:
        more = _split(extra, *EXTRA)
        left = more.without([*judged, *selection.texts])
        notes.append(f"{len(more) - len(left):,} of the teacher's rows left out whose text stands in another split")
        more = left
    for name, split in {**reports, **({"the teacher's labels": more} if more else {})}.items():
        if unknown := sorted(set(split.labels) - set(known)):
            raise ValueError(f"{name}: labels must be among {', '.join(known)}, as in train; got {', '.join(unknown)}")
    return Task(folder.resolve().name, (text, label), known, train, selection, reports, more, notes)


def _file(folder: Path, name: str) -> Path | None:
    return next((file for suffix in SUFFIXES if (file := folder / f"{name}{suffix}").is_file()), None)


def _split(file: Path, text: str, label: str) -> Split:
    """The rows that hold a text."""
    if not file.is_file() or file.suffix not in SUFFIXES:
        raise ValueError(f"{file} must be a file of the kind {', '.join(SUFFIXES)}")
    rows = records(file)
    for column in (text, label):
        if not rows or column not in rows[0]:
            got = ", ".join(map(repr, rows[0])) if rows else "no rows"
            raise ValueError(f"{file} must have rows with a column {column!r}; it has {got}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(text), str) or row.get(label) is None:
            got = f"{row.get(text)!r} and {row.get(label)!r}"
            raise ValueError(f"{file}, row {number}: {text!r} must be a text and {label!r} a label, got {got}")
    full = [row for row in rows if row[text].strip()]
    return Split([row[text] for row in full], [str(row[label]) for row in full])


def _carved(train: Split) -> tuple[Split, Split]:
    """The selection split, and train without its texts."""
    size = min(int(len(train) * SHARE), ROWS)
    if size < 1:
        raise ValueError(f"the train split must leave 10 rows or more that stand in no other split, got {len(train)}")
    rows = random.Random(CARVED_BY).sample(range(len(train)), size)
    selection = train.take(sorted(rows))
    chosen = set(rows)
    rest = train.take([row for row in range(len(train)) if row not in chosen])
    return selection, rest.without(selection.texts)


def _fingerprint(splits: dict[str, Split]) -> str:
    content = json.dumps([[name, split.texts, split.labels] for name, split in splits.items()])
    return hashlib.sha256(content.encode()).hexdigest()
