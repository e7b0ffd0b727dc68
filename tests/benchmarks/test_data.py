"""Evaluation rows out of each kind of file, and one clear error for what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from benchmarks import data
from serve.artefact import Artefact, Task, load

TASK = Task(kind="classification", inputs=1, labels=("bad", "good"), metric="accuracy", columns=("text",))
PAIRS = Task(kind="regression", inputs=2, labels=("score",), metric="spearman", columns=("first", "second"))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    names = list(rows[0])
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    if separator:
        lines = [separator.join(names), *(separator.join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", data.SUFFIXES)
@pytest.mark.parametrize("labels", [("good", "bad"), (1, 0), (1.0, 0.0)])
def test_every_format_gives_texts_in_order_and_class_indices(
    tmp_path: Path, suffix: str, labels: tuple[object]
) -> None:
    file = write(tmp_path / f"any{suffix}", [{"text": "x y", "label": labels[0]}, {"text": "z", "label": labels[1]}])
    found = data.load(file, TASK, label="label")
    assert found.texts == ["x y", "z"]
    assert found.labels.tolist() == [1, 0] and found.labels.dtype == np.int64
    assert (found.total, found.empty, found.name) == (2, 0, f"any{suffix}")


def test_class_names_go_before_indices(tmp_path: Path) -> None:
    stars = Task(kind="classification", inputs=1, labels=("1", "2", "3"), metric="accuracy", columns=("text",))
    file = write(tmp_path / "a.jsonl", [{"text": "x", "label": 1}, {"text": "y", "label": 3}])
    assert data.load(file, stars, label="label").labels.tolist() == [0, 2]


def test_pairs_and_float_labels(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", [{"first": "x", "second": "y", "label": 2.5}])
    found = data.load(file, PAIRS, label="label")
    assert found.texts == [("x", "y")]
    assert found.labels.tolist() == [2.5] and found.labels.dtype == np.float32


def test_limit_takes_the_first_rows_and_rows_without_text_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"text": text, "label": 0} for text in ("a", " ", "b", "c")])
    found = data.load(file, TASK, label="label", limit=3)
    assert (found.texts, len(found), found.total, found.empty) == (["a", "b"], 2, 4, 1)


def test_a_folder_gives_its_test_split_before_its_validation_split(tmp_path: Path) -> None:
    write(tmp_path / "validation.csv", [{"text": "v", "label": 0}])
    assert data.load(tmp_path, TASK, label="label").name == "validation.csv"
    write(tmp_path / "test-00000-of-00001.parquet", [{"text": "t", "label": 0}])
    assert data.load(tmp_path, TASK, label="label").texts == ["t"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "ugly"}], "row 1: label 'ugly' is not one the model knows"),
        ([{"text": "a", "label": 2}], "row 1: label 2 is not"),
        ([{"text": "a", "label": -1}], "row 1: label -1 is not"),
        ([{"text": "a", "label": None}], "row 1: label None is not"),
        ([{"text": 3, "label": 0}], "'text' must be a text, got 3"),
        ([{"body": "a", "label": 0}], "no column 'text'; it has 'body', 'label'"),
        ([{"text": "a", "mark": 0}], "no column 'label'"),
        ([{"text": " ", "label": 0}], "no row with a text"),
    ],
)
def test_unusable_rows_are_one_clear_error(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(write(tmp_path / "a.jsonl", rows), TASK, label="label")


def test_unusable_files_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"\n')
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    (tmp_path / "b.csv").write_text("text,label\n")
    messages = {"a.jsonl": "line 1 is not JSON", "a.parquet": "not a parquet", "a.csv": "not UTF-8", "b.csv": "no rows",
                "none.csv": "does not exist", "a.xlsx": "does not exist"}  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            data.load(tmp_path / name, TASK, label="label")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no file test"):
        data.load(tmp_path / "empty", TASK, label="label")


def test_float_labels_must_be_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", [{"first": "x", "second": "y", "label": "high"}])
    with pytest.raises(ValueError, match="row 1: the label must be a number, got 'high'"):
        data.load(file, PAIRS, label="label")


def test_without_data_the_split_beside_the_artefact_is_taken(student: Path) -> None:
    artefact = load(student)
    with pytest.raises(ValueError, match="--data"):
        data.find([artefact])
    beside = student.with_name("small.run")
    beside.mkdir()
    try:
        write(beside / "test.parquet", [{"sentence": "a film", "label": "good"}])
        assert data.find([Artefact(artefact.root, artefact.manifest)]) == beside / "test.parquet"
    finally:
        (beside / "test.parquet").unlink()
        beside.rmdir()
