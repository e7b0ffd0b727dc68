"""What a study does with its runs: once each, several at once, on after a stop, on after a failure."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.study import children, folder, run
from compress.study.children import GIB, Child, Limits, following, start
from compress.study.plan import Study, jobs
from compress.study.run import held, run_study
from compress.study.watch import Watch

Write = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("fake")


def values(content: dict[str, Any]) -> dict[str, float]:
    return {
        f"{one['arm']}/{one['task']}/{one['seed']}": one["metrics"]["test"]["torch"]["value"]
        for one in content["runs"]
        if one["status"] == "done"
    }


def statuses(content: dict[str, Any]) -> list[str]:
    return [one["status"] for one in content["runs"]]


def attempts(out: Path) -> int:
    return sum(len(json.loads(path.read_text())["attempts"]) for path in out.glob("runs/*/run.json"))


def test_every_run_is_told(write_study: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = run_study(write_study(), out)
    assert values(content) == {
        "dense/cola/0": 0.5, "sparse/cola/0": 0.25, "dense/sst2/0": 0.5, "sparse/sst2/0": 0.25,
        "dense/cola/1": 0.51, "sparse/cola/1": 0.26,
    }  # fmt: skip
    assert json.loads((out / "study.json").read_text(encoding="utf-8")) == content
    one = content["runs"][0]
    assert one["seconds"] > 0 and one["peak_bytes"] > 1e6 and one["bytes"]["files"] == {"fp32": 100}
    assert one["cost"] == [{"stage": "stage 1", "updates": 3}] and one["methods"] == {"fp32": "export"}
    kept = {path.name for path in (out / "runs" / one["digest"]).iterdir()}
    assert kept == {"recipe.yaml", "run.json", "log.txt", "manifest.json", "tried"}  # the artefact is gone


def test_artefacts_are_kept_where_that_is_asked_for(write_study: Write, tmp_path: Path) -> None:
    run_study(write_study(("seeds: [0, 1]\n", "seeds: [0]\nartefacts: keep-all\n")), tmp_path / "out")
    assert len([*(tmp_path / "out").glob("runs/*/student/onnx/model.onnx")]) == 4


def test_two_arms_that_do_the_same_are_run_once(write_study: Write, tmp_path: Path) -> None:
    content = run_study(write_study(("sparse: {stages.0.lr: 0.25}", "same: {stages.0.lr: 0.5}")), tmp_path / "out")
    assert len({one["digest"] for one in content["runs"]}) == 3 and attempts(tmp_path / "out") == 3
    assert len(values(content)) == 6


def test_a_finished_study_runs_nothing_again(write_study: Write, tmp_path: Path) -> None:
    path, out = write_study(), tmp_path / "out"
    run_study(path, out)
    with pytest.raises(ValueError, match="continue it with --resume"):
        run_study(path, out)
    assert len(values(run_study(path, out, resume=True))) == 6 and attempts(out) == 6


def test_a_study_may_grow(write_study: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run_study(write_study(), out)
    grown = write_study(
        ("seeds: [0, 1]\n", "seeds: [0, 1, 2]\n"), ("  sparse:", "  half: {stages.0.lr: 0.3}\n  sparse:")
    )
    content = run_study(grown, out, resume=True)
    assert len(values(content)) == 12 and attempts(out) == 12
    assert "6 runs are new in the study" in capfd.readouterr().err


def test_what_another_study_has_finished_is_not_run_again(write_study: Write, tmp_path: Path) -> None:
    before = run_study(write_study(("seeds: [0, 1]\n", "seeds: [0]\n")), tmp_path / "before")
    known, out = tmp_path / "results.json", tmp_path / "out"
    known.write_text(json.dumps(before), encoding="utf-8")
    changed = write_study(("0.25", "0.125"))
    content = run_study(changed, out, known=known)
    assert values(content) == {
        "dense/cola/0": 0.5, "sparse/cola/0": 0.125, "dense/sst2/0": 0.5, "sparse/sst2/0": 0.125,
        "dense/cola/1": 0.51, "sparse/cola/1": 0.135,
    }  # fmt: skip
    assert attempts(out) == 4 and content["runs"][0] == before["runs"][0]
    assert run_study(changed, out, resume=True)["runs"] == content["runs"] and attempts(out) == 4


@pytest.mark.parametrize("content", ["{}", '{"format": 2, "runs": []}', "{"])
def test_what_is_known_must_be_a_study(content: str, write_study: Write, tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"known.json (must be a study.json of format 1|is damaged)"):
        run_study(write_study(), tmp_path / "out", known=tmp_path / "known.json")
    assert attempts(tmp_path / "out") == 0


def test_a_changed_recipe_is_told_and_runs_anew_only_on_demand(write_study: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(write_study(), out)
    changed = write_study(("0.25", "0.125"))
    with pytest.raises(ValueError, match=r"3 runs .* sparse/cola/0: stages.0.lr was 0.25, is 0.125; .* --force"):
        run_study(changed, out, resume=True)
    assert attempts(out) == 6
    assert values(run_study(changed, out, force=True))["sparse/cola/1"] == 0.135
    assert attempts(out) == 9
    assert values(run_study(write_study(), out, force=True))["sparse/cola/1"] == 0.26  # it lies there still
    assert attempts(out) == 9


def test_other_measures_need_no_new_runs(write_study: Write, tmp_path: Path) -> None:
    run_study(write_study(), tmp_path / "out")
    run_study(write_study(("baseline: dense", "baseline: sparse\nmeasures: [teacher]")), tmp_path / "out", resume=True)
    assert attempts(tmp_path / "out") == 6


def test_one_failure_stops_no_other_run(write_study: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="3 of 6 runs failed, the first is sparse/cola/0: it cannot be done .*log.txt"):
        run_study(write_study(("0.25", "0.25, stages.0.batch_size: 1")), out)
    content = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert statuses(content) == ["done", "failed"] * 3


def test_what_failed_is_tried_again(write_study: Write, tmp_path: Path) -> None:
    path, out = write_study(("0.25", "0.25, stages.0.batch_size: 2")), tmp_path / "out"
    with pytest.raises(ValueError, match="3 of 6 runs failed"):
        run_study(path, out)
    content = run_study(path, out, resume=True)
    assert statuses(content) == ["done"] * 6 and attempts(out) == 9
    assert [one["attempts"] for one in content["runs"]] == [1, 2] * 3


def test_a_run_that_another_hand_ends_has_failed(write_study: Write, tmp_path: Path) -> None:
    """Were it taken for stopped, the study would end as if all were well."""
    path, out = write_study(("0.25", "0.25, stages.0.batch_size: 3")), tmp_path / "out"
    for job in jobs(Study.read(path), path.parent)[3:]:
        (out / "runs" / job.digest).mkdir(parents=True)
        (out / "runs" / job.digest / "tried").touch()

    def end() -> None:
        for _ in range(3000):
            if found := [*out.glob("runs/*/waiting")]:
                os.kill(int(found[0].read_text()), signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(ValueError, match="1 of 6 runs failed, .*sparse/cola/0: ended by signal 9, perhaps because mem"):
        run_study(path, out)
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_goes_on(number: int, write_study: Write, tmp_path: Path) -> None:
    path, out = write_study(("0.25", "0.25, stages.0.batch_size: 3")), tmp_path / "out"

    def stop() -> None:
        for _ in range(3000):
            if [*out.glob("runs/*/waiting")]:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match="1 of 6 runs are finished; --resume continues there"):
        run_study(path, out)
    thread.join()
    content = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert statuses(content) == ["done", "stopped", *["pending"] * 4]
    for waiting in out.glob("runs/*/recipe.yaml"):
        waiting.with_name("tried").touch()  # the others need not wait
    assert statuses(run_study(path, out, resume=True)) == ["done"] * 6


def test_runs_share_the_cores(write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(run, "cores", lambda: 8)
    seen: list[int] = []
    monkeypatch.setattr(Watch, "beat", lambda self, running: seen.append(len(running)))
    content = run_study(write_study(), tmp_path / "out", at_once=3)
    assert statuses(content) == ["done"] * 6 and max(seen) == 3
    assert {path.read_text() for path in (tmp_path / "out").glob("runs/*/tried")} == {"2"}


def test_a_run_waits_for_memory(write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 GiB can never be left free, so runs go one by one."""
    seen: list[int] = []
    monkeypatch.setattr(Watch, "beat", lambda self, running: seen.append(len(running)))
    run_study(write_study(), tmp_path / "out", at_once=3, spare=1000)
    assert max(seen) == 1


def test_room_counts_what_running_ones_will_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 10 * GIB

    monkeypatch.setattr(children.psutil, "virtual_memory", lambda: Free)
    monkeypatch.setattr(Child, "resident", lambda self: GIB)
    one = [Child.__new__(Child)]
    assert Limits(9, 1, 2 * GIB).has_room(one, 4 * GIB)  # 10 - 3 still to grow - 4 for itself = 3 left
    assert not Limits(9, 1, 4 * GIB).has_room(one, 4 * GIB)
    assert Limits(9, 1, 40 * GIB).has_room([], 4 * GIB)


def test_runs_of_another_teacher_go_first(write_study: Write) -> None:
    path = write_study()
    planned = jobs(Study.read(path), path.parent)
    running = [Child.__new__(Child)]
    running[0].job = planned[0]
    assert following(planned[1:], running, frozenset()).name == "dense/sst2/0"
    assert following(planned[1:], running, planned[0].shares).name == "sparse/cola/0"  # its teacher is there already
    assert following(planned[1:2], running, frozenset()).name == "sparse/cola/0"  # better than nothing


def test_a_folder_has_one_study_at_a_time(write_study: Write, tmp_path: Path) -> None:
    """A run that outlived its study holds the folder too."""
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    try:
        with pytest.raises(ValueError, match="a study is running in"):
            run_study(write_study(), tmp_path / "out")
    finally:
        orphan.communicate(b"\n")
    assert len(run_study(write_study(), tmp_path / "out")["runs"]) == 6


def test_a_run_holds_the_folder_of_its_study(write_study: Write, tmp_path: Path) -> None:
    path, out = write_study(("0.25", "0.25, stages.0.batch_size: 3")), tmp_path / "out"
    job = jobs(Study.read(path), path.parent)[1]
    with held(out) as lock:
        folder.begin(out, job)
        child = start(job, folder.place(out, job.digest), threads=1, lock=lock)
    with pytest.raises(ValueError, match="a study is running in"), held(out):
        pass
    children.abandon([child])
    assert child.ended()
    with held(out):
        pass


def test_a_folder_of_something_else_is_refused(write_study: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else than a study"):
        run_study(write_study(), tmp_path / "out")


def test_a_rehearsal_that_finds_faults_lets_nothing_train(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(run, "rehearse", lambda found: asked.extend(found) or ["sparse/cola: no", "sparse/sst2: no"])
    with pytest.raises(ValueError, match=r"nothing was trained, since sparse/cola: no \(and 1 more: sparse/sst2\)"):
        run_study(write_study(), tmp_path / "out")
    assert sorted(job.name for job in asked) == ["dense/cola/0", "dense/sst2/0", "sparse/cola/0", "sparse/sst2/0"]
    assert attempts(tmp_path / "out") == 0


def test_data_that_changed_between_runs_is_told(write_study: Write, tmp_path: Path) -> None:
    path, out = write_study(), tmp_path / "out"
    run_study(path, out)
    runs = json.loads((out / "study.json").read_text(encoding="utf-8"))["runs"]
    manifest = out / "runs" / next(one["digest"] for one in runs if one["arm"] == "sparse") / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["provenance"]["data"] = "other"
    manifest.write_text(json.dumps(content), encoding="utf-8")
    notes = run_study(path, out, resume=True)["notes"]
    assert len(notes) == 1 and notes[0].startswith("sparse/cola/0 had other data than dense/cola/0")
