"""`bantam study` as a person types it: real runs at toy size, stopped in their midst, finished, told."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.study.plan import Study, jobs
from compress.study.rehearsal import rehearse
from tests.compress.conftest import MAX_LENGTH, toy, toy_settings  # noqa: F401  (fixtures)

BASE = f"""
task: {{dataset: "${{TOY}}/reviews.csv", max_length: {MAX_LENGTH}}}
teacher: {{model: "${{TOY}}/encoder", epochs: 4, lr: 0.003, batch_size: 16, evaluations: 1}}
student: {{use: truncated, layers: [1, 3]}}
stages:
  - {{techniques: [distil/logits], epochs: 2, lr: 3.0e-3, batch_size: 16, evaluations: 1, checkpoint: 1}}
export: {{calibration: 32, int8: [static]}}
"""
STUDY = """
base: base.yaml
baseline: taught
against: torch
seeds: [0, 1]
tasks:
  all: {}
  few: {task.limit: 64}
arms:
  taught: {}
  alone: {stages.0.techniques: [supervised], stages.0.epochs: 4}
"""


@pytest.fixture
def study(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.setenv("TOY", str(toy))
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base.yaml").write_text(BASE, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path / "study.yaml"


def command(study: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bantam", "study", str(study), "--out", str(study.parent / "out"), *options]


def test_what_no_arm_can_do_is_said_before_any_training(study: Path) -> None:
    study.write_text(STUDY + "  deep: {student.layers: [1, 9]}\n", encoding="utf-8")
    done = subprocess.run(command(study), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert "error: nothing was trained, since deep/all: " in done.stderr and "(and 1 more: deep/few)" in done.stderr
    assert not (study.parent / "cache").exists() and not [*study.parent.glob("out/runs/*/log.txt")]


@pytest.mark.slow
def test_two_arms_two_tasks_two_seeds_with_a_stop_between(study: Path) -> None:
    out = study.parent / "out"
    process = subprocess.Popen(command(study, "--jobs", "2"), stderr=subprocess.PIPE, text=True)
    for _ in range(12000):
        if len([*out.glob("runs/*/manifest.json")]) >= 2 and [*out.glob("runs/*/student.run/stage-0/checkpoint.pt")]:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "of 8 runs are finished; --resume continues there" in errors, errors
    assert "failed" not in errors and "stopped; " in errors

    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/manifest.json")}
    done = subprocess.run(command(study, "--resume", "--json"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 2 <= len(before) < 8 and {path: path.stat().st_mtime_ns for path in before} == before  # kept as they were
    content = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert [run["status"] for run in content["runs"]] == ["done"] * 8
    assert sum(run["attempts"] for run in content["runs"]) > 8

    by_name = {f"{run['arm']}/{run['task']}/{run['seed']}": run for run in content["runs"]}
    (teacher, taught), (_, alone) = by_name["taught/few/0"]["cost"], by_name["alone/few/0"]["cost"]
    assert teacher["cached"] and teacher["updates"] == 4 * 4
    assert (taught["updates"], taught["student"], taught["backward"], taught["teacher"]) == (8, 128, 128, 64)
    assert (alone["updates"], alone["student"], alone["backward"], alone["teacher"]) == (16, 256, 256, 0)
    assert by_name["taught/all/0"]["teacher"] == by_name["alone/all/0"]["teacher"] != by_name["alone/all/1"]["teacher"]

    text = (out / "table.md").read_text(encoding="utf-8")
    assert "| arm | all, accuracy, test, 2 seeds | few, accuracy, test, 2 seeds |" in text and "1.60x" in text
    assert (out / "torch.svg").exists() and (out / "int8.svg").exists()
    told = json.loads(done.stdout.splitlines()[-1])["arms"]["alone"]["all"]["torch"]
    assert told["seeds"] == 2 and told["difference"]["low"] < told["difference"]["value"] < told["difference"]["high"]


@pytest.mark.slow
def test_runs_outlive_a_study_that_is_killed_and_are_taken_over(study: Path) -> None:
    """The folder stays taken while they live; then their work is found as they left it."""
    study.write_text(STUDY.replace("[0, 1]", "[0]").replace("  few: {task.limit: 64}\n", ""), encoding="utf-8")
    process = subprocess.Popen(command(study), stderr=subprocess.PIPE, text=True)
    log = []
    while not log:
        time.sleep(0.05)
        log = [*study.parent.glob("out/runs/*/log.txt")]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    refused = subprocess.run(command(study, "--resume"), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "a study is running in" in refused.stderr
    done = refused
    for _ in range(100):
        if "a study is running in" not in done.stderr:
            break
        time.sleep(1)
        done = subprocess.run(command(study, "--resume"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "finished; nothing to do" in log[0].read_text(encoding="utf-8")


def test_a_rehearsal_that_breaks_off_says_why(
    study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (study.parent / "torch.py").write_text("raise ModuleNotFoundError('no torch here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(study.parent))
    with pytest.raises(ValueError, match="the rehearsal of the study broke off: ModuleNotFoundError: no torch here"):
        rehearse(jobs(Study.read(study), study.parent)[:1])
    assert "Traceback" in capfd.readouterr().err
