"""The table of unseen domains, of a study that was made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.domains import main, markdown

SCORES = {  # arm -> domain -> seed -> (test, known)
    "plain": {"books": {0: (0.80, 0.84), 1: (0.78, 0.84)}, "pans": {0: (0.90, 0.88), 1: (0.88, 0.88)}},
    "flat": {"books": {0: (0.82, 0.84), 1: (0.80, 0.84)}, "pans": {0: (0.90, 0.88), 1: (0.90, 0.88)}},
}


@pytest.fixture
def study() -> dict[str, Any]:
    runs = [
        {"arm": arm, "task": domain, "seed": seed, "digest": f"{arm}{domain}{seed}", "status": "done",
         "metrics": {"test": {"torch": {"value": test}}, "known": {"torch": {"value": known}}}}
        for arm, domains in SCORES.items()
        for domain, seeds in domains.items()
        for seed, (test, known) in seeds.items()
    ]  # fmt: skip
    told = {"baseline": "plain", "arms": {"plain": {}, "flat": {}}, "tasks": {"books": {}, "pans": {}}}
    return {"format": 1, "study": told, "runs": runs}


def test_means_worst_domains_gaps_and_paired_differences(study: dict[str, Any]) -> None:
    """flat - plain: 2, 2, 0, 2: mean 1.5, sd 1, reach 3.182 / 2."""
    text = markdown(study)
    assert "| plain | 84.00 ± 1.41 | 79.00 ± 1.41 | 2.00 ± 1.41 | – |" in text
    assert "| flat | 85.50 ± 0.71 | 81.00 ± 1.41 | 0.50 ± 0.71 | +1.50 [-0.09, +3.09] |" in text


def test_a_seed_counts_when_all_its_domains_are_there(study: dict[str, Any]) -> None:
    study["runs"] = [run for run in study["runs"] if (run["arm"], run["task"], run["seed"]) != ("flat", "pans", 1)]
    assert "| flat | 86.00 | 82.00 | 0.00 | +1.33 [" in markdown(study)


def test_flatness_is_held_against_the_gap(study: dict[str, Any], tmp_path: Path) -> None:
    """In order of the gap: a rise that grows with it gives 1."""
    probes = tmp_path / "probes.jsonl"
    gaps = {
        r["digest"]: r["metrics"]["known"]["torch"]["value"] - r["metrics"]["test"]["torch"]["value"]
        for r in study["runs"]
    }
    lines = [{"artefact": f"out/runs/{name}/student", "noise_rise": {"0.05": 1 + gap}} for name, gap in gaps.items()]
    probes.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert "8 runs: +1.00" in markdown(study, probes)


def test_a_study_without_unseen_domains_is_refused(study: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    del study["runs"][0]["metrics"]["known"]
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    assert main([str(tmp_path / "study.json")]) == 1 and "must name an unseen domain" in capsys.readouterr().err
    assert main([]) == 2
