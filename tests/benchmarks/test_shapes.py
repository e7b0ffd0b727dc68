"""Models alone at fixed lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import shapes, table
from serve.artefact import load
from serve.ngram.words import characters
from tests.serve.ngram import models


def test_a_report_holds_every_target_and_shape(
    student: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shapes.json"
    options = ["--batches", "1", "4", "--lengths", "8", "16", "--rounds", "2", "--json", str(out)]
    assert shapes.main([f"dense={teacher}", str(student), "--runtimes", "onnxruntime", *options]) == 0
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["dense", student.name]
    for row in report["rows"]:
        assert set(row["calls"]) == {"1x8", "1x16", "4x8", "4x16"}
        assert all(len(call["seconds"]) == 2 and min(call["seconds"]) > 0 for call in row["calls"].values())
        assert all(call["group"] == 1 for call in row["calls"].values())  # the dynamic file shares one range
    printed = capsys.readouterr().out
    assert printed == table.rendered(out) and "1.00x [1.00, 1.00]" in printed


def test_a_table_tells_the_score_that_the_artefact_holds(student: Path) -> None:
    artefact = load(student)
    assert shapes.score(artefact, "int4") is None
    told = {"value": 0.75, "low": 0.5, "high": 0.9}
    metrics = {"validation": {"fp32": {"value": 0.1, "low": 0.0, "high": 0.2}}, "test": {"fp32": told, "rows": 8}}
    manifest = artefact.manifest.model_copy(update={"metrics": metrics})
    found = shapes.score(replace(artefact, manifest=manifest), "fp32")
    assert found == {"metric": manifest.task.metric, "split": "test", **told}
    (target,) = shapes.targets([("x", student)], ["onnxruntime"], "fp32", threads=1)
    report = shapes.measure([target], [1], [4], 1)
    report["rows"][0]["score"] = found
    assert "accuracy, test [95 % interval]" in shapes.markdown(report)
    assert "| 0.750 [0.500, 0.900] |" in shapes.markdown(report)


def test_groups_are_tried_where_mates_do_not_matter(student: Path, tmp_path: Path) -> None:
    found = shapes.targets([("student", student)], ["onnxruntime"], "fp32", threads=1)
    report = shapes.measure(found, [4], [8], 1)
    assert report["rows"][0]["calls"]["4x8"]["group"] in (1, 2, 4)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--runtimes", "tensorrt"], "runtimes must be among"),
        (["--model", "int4"], "has no model 'int4'"),
        (["--lengths", "0"], "1 or more"),
    ],
)
def test_bad_input_is_one_line(more: list[str], complaint: str, student: Path, capsys: pytest.CaptureFixture) -> None:
    assert shapes.main([str(student), *more]) == 2
    assert complaint in capsys.readouterr().err


def test_a_student_of_n_grams_is_refused_in_one_line(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = models.artefact(tmp_path / "words", models.model(characters()))
    with pytest.raises(ValueError, match="must read word pieces.*n-grams.*python -m benchmarks.arrival"):
        shapes.targets([("words", made.root)], ["onnxruntime"], None, threads=1)
    assert shapes.main([str(student), str(made.root), "--rounds", "1"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {made.root} must read word pieces") and said.err.count("\n") == 1
    assert said.out == ""
