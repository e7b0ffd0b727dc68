"""Our own artefacts in the peers' table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.data import records
from benchmarks.static import __main__ as command
from benchmarks.static.students import FORM
from serve.ngram.words import characters
from serve.runtime import Session
from tests.serve.ngram import models

TABLE = characters()


def options(folder: Path, out: Path, *students: str) -> list[str]:
    columns = ["--data", str(folder), "--text", "sentence", "--label", "mood"]
    quick = ["--windows", "3", "--seconds", "0.01"]
    return [*columns, "--json", str(out), "--peers", *quick, "--students", *students]


def test_an_artefact_is_judged_and_timed_as_a_peer_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of one name are two seeds. Oracle: the share of right answers in process."""
    made = [
        models.artefact(tmp_path / str(seed), models.model(TABLE, seed=seed), labels=("bad", "good")) for seed in (1, 2)
    ]
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, *(f"ours={one.root}" for one in made))) == 0
    report = json.loads(out.read_text())
    assert [(row["peer"], row["form"], row["seed"]) for row in report["rows"]] == [("ours", FORM, 0), ("ours", FORM, 1)]
    for row, artefact in zip(report["rows"], made, strict=True):
        session = Session(artefact, runtime="bantam")
        assert set(row["metrics"]) == {"test", "validation"} == set(report["splits"])
        for split, told in row["metrics"].items():
            rows = records(folder / f"{split}.csv")
            answers = [session.labels[at] for at in session.logits([one["sentence"] for one in rows]).argmax(1)]
            right = sum(answer == one["mood"] for answer, one in zip(answers, rows, strict=True))
            assert told["value"] == pytest.approx(right / len(rows))
        assert row["size_bytes"] == artefact.served_size("int8") and set(row["rates"]) == {"1", "32", "all"}
    assert capsys.readouterr().out == table.rendered(out)
    before = out.read_text()
    assert command.main([*options(folder, out, f"ours={made[0].root}"), "--resume"]) == 0
    assert out.read_text() == before


def test_an_artefact_of_other_labels_is_one_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = models.artefact(tmp_path / "other", models.model(TABLE), labels=("yes", "no"))
    assert command.main(options(folder, tmp_path / "report.json", f"ours={made.root}")) == 2
    assert "ours must put single texts into the classes bad, good" in capsys.readouterr().err
