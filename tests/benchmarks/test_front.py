"""Accuracy against speed: who is on the front, what is paired with what. All numbers are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import front, table

ORT, OURS = "onnxruntime", "bantam"


@pytest.fixture
def speed() -> dict[str, Any]:
    """64 texts, three rounds: dense 0.2 s, sparse 0.05 s, shrunk 0.1 s with us; the peer does dense in 0.4 s sorted."""

    def row(name: str, runtime: str, one: float, many: float, sorted_: float) -> dict[str, Any]:
        seconds = {"pieces": {"1": [one] * 3, "32": [many] * 3, "sorted": [sorted_] * 3}}
        return {"name": name, "runtime": runtime, "sparsity": 0.8 * (name == "sparse"), "seconds": seconds}

    rows = [row("dense", ORT, 0.9, 0.8, 0.4), row("dense", OURS, 0.3, 0.2, 0.2)]
    rows += [
        row("sparse", ORT, 0.9, 0.8, 0.1),
        row("sparse", OURS, 0.1, 0.05, 0.05),
        row("shrunk", OURS, 0.2, 0.1, 0.1),
    ]
    machine = {"cpu": "Made Up", "flags": ["avx2"], "commit": "c0ffee", "versions": {}}
    data = {"name": "test.parquet", "texts": 64}
    return {"schema": 1, "kind": "arrival", "created": "2026-01-01", "machine": machine, "data": data, "rounds": 3,
            "rows": rows}  # fmt: skip


def study(tmp_path: Path, values: dict[str, list[tuple[float, float, float]]]) -> Path:
    """arm -> for each seed: its INT8 file, the teacher's INT8 file, the teacher."""
    runs = [
        {"arm": arm, "task": "trec", "seed": seed, "status": "done", "metric": "accuracy",
         "metrics": {"test": {"int8": {"value": mine}, "teacher_int8": {"value": twin}, "teacher": {"value": whole}}}}
        for arm, seeds in values.items()
        for seed, (mine, twin, whole) in enumerate(seeds)
    ]  # fmt: skip
    told = {"arms": {arm: {} for arm in values}, "tasks": {"trec": {}}, "baseline": next(iter(values)), "seeds": [0, 1]}
    path = tmp_path / "study.json"
    path.write_text(json.dumps({"format": 1, "study": told, "runs": runs}), encoding="utf-8")
    return path


def test_a_point_that_is_beaten_in_one_and_not_better_in_the_other_is_off_the_front() -> None:
    points = {
        "slow": (1.0, 0.0),
        "fast": (4.0, -1.0),
        "between": (2.0, -2.0),
        "as fast, worse": (4.0, -3.0),
        "good": (1.0, 1.0),
    }
    assert front.front(points) == {"fast", "good"}
    assert front.front({"a": (1.0, 0.0), "b": (1.0, 0.0)}) == {"a", "b"}  # level: neither beats the other


def test_arms_are_joined_with_their_speed_and_paired_with_their_own_dense_twin(
    tmp_path: Path, speed: dict[str, Any]
) -> None:
    """-1 and -2 points to the INT8 twin (not -2, -3 to the teacher); 64 / 0.05 texts/s, 0.4 / 0.05 of the peer."""
    values = {"sparse": [(0.95, 0.96, 0.97), (0.93, 0.95, 0.96)], "untimed": [(0.9, 0.9, 0.9)]}
    made = front.gather([("s", study(tmp_path, values))], speed)
    assert [row["arm"] for row in made["rows"]] == ["dense", "sparse"]
    sparse = made["rows"][1]
    assert sparse["texts_per_second"] == pytest.approx(1280) and sparse["times_best_peer"] == pytest.approx([8.0] * 3)
    assert (
        sparse["tasks"]["trec"]["value"] == pytest.approx(-1.5) and sparse["tasks"]["trec"]["against"] == "teacher_int8"
    )
    text = front.markdown(made)
    assert text.index("| sparse | 80% | 1,280 | 8.00x") < text.index("| dense | 0% | 320 | 2.00x")
    assert "-1.50 [-7.85, +4.85] (2) *" in text and "| 0 * |" in text  # t(0.975, 1) = 12.706, sd 0.71, / sqrt(2)


def test_a_shrunk_arm_that_a_faster_one_matches_has_no_star(tmp_path: Path, speed: dict[str, Any]) -> None:
    values = {"sparse": [(0.95, 0.96, 0.97)], "shrunk": [(0.94, 0.96, 0.97)]}
    made = front.gather([("s", study(tmp_path, values))], speed)
    assert {row["arm"]: row["front"]["trec"] for row in made["rows"]} == {
        "dense": True,
        "sparse": True,
        "shrunk": False,
    }


def test_reports_go_to_a_file_and_into_documents(tmp_path: Path, speed: dict[str, Any], capsys: Any) -> None:
    (tmp_path / "speed.json").write_text(json.dumps(speed), encoding="utf-8")
    path = study(tmp_path, {"sparse": [(0.95, 0.96, 0.97)]})
    assert front.main([str(path), "--speed", str(tmp_path / "speed.json"), "--json", str(tmp_path / "front.json")]) == 0
    assert table.rendered(tmp_path / "front.json") == capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"), [("arm", "no arm of these"), ("ours", "no row of our"), ("peer", "no other")]
)
def test_what_cannot_be_joined_is_said(
    change: str, message: str, tmp_path: Path, speed: dict[str, Any], capsys: Any
) -> None:
    if change != "arm":
        speed["rows"] = [row for row in speed["rows"] if (row["runtime"] == OURS) == (change == "peer")]
    (tmp_path / "speed.json").write_text(json.dumps(speed), encoding="utf-8")
    path = study(tmp_path, {"other" if change == "arm" else "sparse": [(0.95, 0.96, 0.97)]})
    assert front.main([str(path), "--speed", str(tmp_path / "speed.json")]) == 2
    assert message in capsys.readouterr().err
