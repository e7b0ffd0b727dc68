"""Evaluation rows: texts in arrival order and their labels, read with the artefact's own label names.

Files are parquet, csv, tsv or jsonl; a folder is looked through for its test, then its validation split.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.artefact import Artefact, Task
from serve.encode import Text

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
SPLITS = ("test", "validation", "dev", "valid")

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """`labels` are class indices [N] int64, or targets [N] float32 for regression."""

    name: str
    texts: list[Text]
    labels: NDArray[Any]
    total: int  # rows in the file, before `limit`
    empty: int  # rows left out because they hold no text, which the service refuses

    def __len__(self) -> int:
        return len(self.texts)


def find(artefacts: Iterable[Artefact]) -> Path:
    """The reported split that compressing wrote beside an artefact, as `<artefact>.run/test.parquet`."""
    places = [artefact.root.with_name(artefact.root.name + ".run") / "test.parquet" for artefact in artefacts]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise ValueError(f"no evaluation data: pass --data FILE (parquet, csv, tsv or jsonl); looked for {looked}")


def load(path: Path, task: Task, *, label: str, limit: int | None = None) -> Rows:
    """At most `limit` rows of `path`, from its start, for a task."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 row, got {limit}")
    file, rows = _rows(path, task, label)
    head = rows[:limit]
    texts = [_text(row, task.columns, file, number) for number, row in enumerate(head, start=1)]
    labels = _labels(head, label, task, file)
    full = [at for at, text in enumerate(texts) if any(part.strip() for part in _parts(text))]
    if not full:
        raise ValueError(f"{file} has no row with a text")
    return Rows(file.name, [texts[at] for at in full], labels[full], len(rows), len(head) - len(full))


def load_texts(path: Path, task: Task, *, limit: int) -> tuple[str, list[Text]]:
    """The name of the file, and at most `limit` of its texts for a task: evenly spaced, in arrival order.

    Labels are not looked at, so that one file serves models of several tasks.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 text, got {limit}")
    file, rows = _rows(path, task)
    texts = [_text(row, task.columns, file, number) for number, row in enumerate(rows, start=1)]
    full = [text for text in texts if any(part.strip() for part in _parts(text))]
    if not full:
        raise ValueError(f"{file} has no row with a text")
    count = min(limit, len(full))
    return file.name, [full[at * len(full) // count] for at in range(count)]


def _rows(path: Path, task: Task, *others: str) -> tuple[Path, list[Row]]:
    """The file and all its rows, which have the task's columns and the others."""
    file = _file(Path(path))
    rows = records(file)
    if not rows:
        raise ValueError(f"{file} has no rows")
    if not task.columns:
        raise ValueError("the artefact's manifest names no text columns (task.columns), so data cannot be read for it")
    for column in (*task.columns, *others):
        if column not in rows[0]:
            raise ValueError(f"{file} has no column {column!r}; it has {', '.join(map(repr, rows[0]))}")
    return file, rows


def _file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        for split in SPLITS:
            for file in files:
                if file.stem == split or file.stem.startswith((split + "-", split + "_", split + ".")):
                    return file
        raise ValueError(f"{path} has no file test.* or validation.* ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; pass a file or folder of evaluation data")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be one of {', '.join(SUFFIXES)}")
    return path


def records(file: Path) -> list[Row]:
    """All rows of a file, as it has them. Raises ValueError for a file that is not what its name says."""
    try:
        if file.suffix == ".parquet":
            return _parquet(file)
        if file.suffix == ".jsonl":
            return _jsonl(file)
        return _csv(file, "\t" if file.suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from None


def _parquet(file: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("reading parquet needs pyarrow: pip install 'bantam[bench]'") from None
    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file} is not a parquet file: {error}") from None
    names = _class_names(table.schema)
    rows: list[Row] = table.to_pylist()
    for column, values in names.items():
        for row in rows:
            if isinstance(row[column], int) and 0 <= row[column] < len(values):
                row[column] = values[row[column]]
    return rows


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its integers, as the `datasets` library stores them beside a parquet schema."""
    stored = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(stored).get("info", {}).get("features", {}) if stored else {}
    return {name: kind["names"] for name, kind in features.items() if isinstance(kind, dict) and kind.get("names")}


def _jsonl(file: Path) -> list[Row]:
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number} must be a JSON object, got {type(row).__name__}")
            rows.append(row)
    return rows


def _csv(file: Path, delimiter: str) -> list[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        return [dict(row) for row in reader]


def _text(row: Row, columns: tuple[str, ...], file: Path, number: int) -> Text:
    parts = [row.get(column) for column in columns]
    for column, part in zip(columns, parts, strict=True):
        if not isinstance(part, str):
            raise ValueError(f"{file}, row {number}: {column!r} must be a text, got {part!r}")
    return str(parts[0]) if len(parts) == 1 else (str(parts[0]), str(parts[1]))


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _labels(rows: list[Row], column: str, task: Task, file: Path) -> NDArray[Any]:
    if task.kind == "regression":
        return np.array([_number(row[column], file, number) for number, row in enumerate(rows, 1)], dtype=np.float32)
    places = {name: place for place, name in enumerate(task.labels)}
    labels = []
    for number, row in enumerate(rows, start=1):
        place = _class(row[column], places)
        if place is None:
            known = ", ".join(map(repr, task.labels))
            raise ValueError(f"{file}, row {number}: label {row[column]!r} is not one the model knows ({known})")
        labels.append(place)
    return np.array(labels, dtype=np.int64)


def _class(value: Any, places: dict[str, int]) -> int | None:
    """A name goes before an index, so that classes called "1" to "5" are read by name."""
    if str(value) in places or isinstance(value, bool) or value is None:
        return places.get(str(value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not number.is_integer():
        return None
    index = int(number)
    return places.get(str(index), index if 0 <= index < len(places) else None)


def _number(value: Any, file: Path, number: int) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{file}, row {number}: the label must be a number, got {value!r}")
    return found
