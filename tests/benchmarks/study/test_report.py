"""Tables and plots of a study that was made up, so that every number in them can be worked out by hand."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import table
from benchmarks.study import plot, results
from benchmarks.study.report import summary, write_all
from benchmarks.study.table import markdown

VALUES = {  # arm -> task -> seed -> (torch, int8)
    "dense": {"cola": {0: (0.50, 0.49), 1: (0.54, 0.53), 2: (0.52, 0.50)}, "sst2": {0: (0.91, 0.90)}},
    "sparse": {"cola": {0: (0.49, 0.48), 1: (0.55, 0.52), 2: (0.50, 0.49)}, "sst2": {0: (0.90, 0.895)}},
}


def run(arm: str, task: str, seed: int, torch: float, int8: float) -> dict[str, Any]:
    rows = {"rows": 9, "torch": {"value": torch}, "int8": {"value": int8}}
    phase = {"updates": 10, "student": 320, "backward": 320, "teacher": 160, "seconds": 60.0}
    return {
        "arm": arm, "task": task, "seed": seed, "digest": f"{arm}{task}{seed}", "status": "done",
        "metric": "matthews", "metrics": {"validation": {"rows": 9, "torch": {"value": 0.1}}, "test": rows},
        "served": "int8", "methods": {"fp32": "export", "int8": "static"}, "sparsity": {"unstructured": 0.85},
        "bytes": {"served": {"int8": 24_000_000}}, "seconds": 120.0, "peak_bytes": 2**30, "commit": "c0ffee" * 6,
        "cost": [phase | {"cached": True}, phase, *([phase] if arm == "sparse" else [])],
        "machine": {"cpu": "Made Up", "usable_cores": 2, "versions": {"torch": "2"}},
    }  # fmt: skip


@pytest.fixture
def study() -> dict[str, Any]:
    runs = [
        run(arm, task, seed, *found)
        for arm, tasks in VALUES.items()
        for task, seeds in tasks.items()
        for seed, found in seeds.items()
    ]
    described = {
        "name": "s", "baseline": "dense", "against": None, "split": None, "measures": ["torch", "int8"],
        "seeds": [0, 1, 2], "arms": {"dense": {}, "sparse": {}},
        "tasks": {"cola": {"seeds": None}, "sst2": {"seeds": [0]}},
    }  # fmt: skip
    return {"format": 1, "study": described, "runs": runs}


def test_means_spreads_and_differences_are_told(study: dict[str, Any]) -> None:
    """cola, torch: differences -1, +1, -2 points: mean -0.67, sd 1.53, reach 4.303 * 1.53 / sqrt(3) = 3.79."""
    text = markdown(study)
    assert "| arm | cola, matthews, test, 3 seeds | sst2, matthews, test, 1 seed |" in text
    assert "| dense | 52.00 ± 2.00 | 91.00 |" in text
    assert "| sparse | -0.67 [-4.46, +3.13] | -1.00 |" in text
    assert "| sparse | cola | static | 85.0 % | 24.0 | 20 | 1,280 | 320 | 2.00x | 2.0 | 2.0 | 1.00 |" in text
    assert "not finished" not in text and "Made Up (2 cores)" in text


def test_all_can_be_compared_with_one_measure_of_the_baseline(study: dict[str, Any]) -> None:
    study["study"]["against"] = "torch"
    text = markdown(study)
    assert "**int8 minus dense, torch**" in text
    assert "| dense | -1.33 [-2.77, +0.10] | -1.00 |" in text  # -1, -1, -2
    assert results.gain(study, "dense", "cola", "torch") is None


def test_validation_is_told_where_it_is_asked_for(study: dict[str, Any]) -> None:
    study["study"]["split"] = "validation"
    assert "| dense | 10.00 ± 0.00 | 10.00 |" in markdown(study)
    assert results.measures(study) == ["torch"]


def test_perplexity_is_that_of_the_last_pretraining_and_no_percentage(study: dict[str, Any]) -> None:
    study["study"]["measures"] = ["torch", "perplexity"]
    assert results.measures(study) == ["torch"]  # nothing was pre-trained
    for run in study["runs"]:
        fell = 40.0 + run["seed"] - 5 * (run["arm"] == "sparse")
        run["cost"] = [{"perplexity": 90.0, "cached": True}, {"perplexity": fell, "cached": True}, *run["cost"]]
    text = markdown(study)
    assert "| dense | 41.00 ± 1.00 | 40.00 |" in text and "| sparse | -5.00 [-5.00, -5.00] | -5.00 |" in text


def test_only_seeds_that_both_arms_have_are_paired(study: dict[str, Any]) -> None:
    lost = next(run for run in study["runs"] if (run["arm"], run["task"], run["seed"]) == ("dense", "cola", 2))
    lost |= {"status": "failed", "error": "no memory"}
    found = results.gain(study, "sparse", "cola", "torch")
    assert found is not None and found.pairs == pytest.approx((-1.0, 1.0))
    text = markdown(study)
    assert "| dense | 52.00 ± 2.83 (2 of 3) | 91.00 |" in text
    assert "1 of 8 runs are not finished: dense/cola/2 failed: no memory." in text


def test_a_study_that_has_finished_nothing_has_tables_too(study: dict[str, Any], tmp_path: Path) -> None:
    for one in study["runs"]:
        one["status"] = "pending"
    write_all(study, tmp_path)
    assert "8 of 8 runs are not finished" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_runs_of_two_commits_are_said_to_be(study: dict[str, Any]) -> None:
    study["runs"][0]["commit"] = "decade" * 6 + "+"
    assert "commit c0ffeec0ff, decadedeca+. Runs of more than one commit stand side by side." in markdown(study)


def test_the_plot_has_a_mark_for_each_arm_and_seed(study: dict[str, Any]) -> None:
    root = ElementTree.fromstring(plot.differences(study, "torch"))
    space = "{http://www.w3.org/2000/svg}"
    told = [title.text for title in root.findall(f".//{space}title")]
    assert told == ["cola, sparse: -0.67 [-4.46, +3.13]", "sst2, sparse: -1.00"]
    circles = root.findall(f".//{space}circle")
    assert sum(circle.get("class") == "bar pale" for circle in circles) == 4
    assert len(root.findall(f".//{space}line[@class='span']")) == 1  # one seed has no interval


def test_files_and_summary(study: dict[str, Any], tmp_path: Path) -> None:
    write_all(study, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "torch.svg", "int8.svg"}
    assert ElementTree.parse(tmp_path / "int8.svg")
    cell = summary(study)["sparse"]["cola"]["torch"]
    assert cell["mean"] == pytest.approx(51.33, abs=0.01) and cell["difference"]["low"] == pytest.approx(
        -4.46, abs=0.01
    )


def test_a_committed_study_fills_tables_of_documents(study: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(study), encoding="utf-8")
    document = tmp_path / "page.md"
    document.write_text("<!-- table: s.json -->\nold\n<!-- end -->\n", encoding="utf-8")
    assert table.main(["--into", str(document)]) == 0
    assert markdown(study).strip() in document.read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ('{"format": 2, "study": {}}', '"format": 1')])
def test_what_is_no_study_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        results.read(tmp_path / "s.json")
