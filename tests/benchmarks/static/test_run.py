"""Peers chosen, trained, judged and timed; a report that is resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import table
from benchmarks.static import __main__ as command
from benchmarks.static import remote, run, worker
from benchmarks.static.peers import MOST, PEERS, Peer, named
from tests.benchmarks.static.conftest import write

QUICK = ("--windows", "3", "--seconds", "0.01")


@pytest.fixture(autouse=True)
def toy_only(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, peer.name, peer)


def options(folder: Path, out: Path, *more: str) -> list[str]:
    columns = ["--data", str(folder), "--text", "sentence", "--label", "mood"]
    return [*columns, "--json", str(out), "--peers", "counting", *QUICK, *more]


def test_a_peer_is_tuned_on_selection_then_judged_and_timed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--seeds", "2")) == 0
    report = json.loads(out.read_text())
    choice = report["choices"]["counting-1gram/gold"]
    assert choice["settings"] == {"looks": True}  # the earlier one of two that tie
    assert [one["accuracy"] for one in choice["tried"]][1:] == [1.0, 1.0] and choice["tried"][0]["accuracy"] < 1
    assert [row["seed"] for row in report["rows"]] == [0, 1]
    for row in report["rows"]:
        assert row["metrics"]["test"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert row["metrics"]["validation"]["value"] == 1.0
        assert set(row["rates"]) == {"1", "32", "all"} and row["texts_timed"] == 20
        for rate in row["rates"].values():
            assert len(rate["texts_per_second_windows"]) == 3
            assert rate["texts_per_second"] == np.median(rate["texts_per_second_windows"])
        assert row["size_bytes"] > 100 and row["peak_memory_bytes"] > 1e6 and row["train_peak_memory_bytes"] > 1e6
        assert row["train_rows"] + report["data"]["rows"]["selection"] <= 60 and set(row["versions"]) == {"numpy"}
    assert capsys.readouterr().out == table.rendered(out)


def test_the_table_tells_of_validation_beside_test(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that sees nothing answers "bad" always: right for 10 of 20 in test, here for 1 of 4 in validation."""
    write(folder / "validation.csv", [("poor", "bad"), ("fine", "good"), ("great", "good"), ("warm", "good")])
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--seeds", "2", "--budget", "1")) == 0
    printed = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    assert lines[0][3:7:2] == ["accuracy on test [95 % interval]", "accuracy on validation [95 % interval]"]
    assert len({len(line) for line in lines}) == 1 and len(lines) == 3
    told = dict(zip(range(len(lines[2])), lines[2], strict=True))
    assert told[3].startswith("0.500 [") and told[5].startswith("0.250 [")
    assert told[4] == told[6] == "±0.0000 (2)"
    assert "test and validation are told, agreement and speed on test" in printed
    assert "No peer was chosen by validation" in printed

    report = json.loads(out.read_text())
    assert report.pop("splits") == ["test", "validation"]
    out.write_text(json.dumps(report))  # as it was written before there were two
    before = table.rendered(out)
    assert "accuracy [95 % interval]" in before and "validation are" not in before and "; test is told" in before
    assert command.main(options(folder, out, "--seeds", "2", "--budget", "1", "--resume")) == 0
    assert capsys.readouterr().out == printed == table.rendered(out)


def test_a_task_of_one_reported_split_has_one_column(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "test.csv").unlink()
    assert command.main(options(folder, tmp_path / "report.json", "--seeds", "1", "--budget", "1")) == 0
    printed = capsys.readouterr().out
    assert "| accuracy [95 % interval] |" in printed and "; validation is told" in printed
    assert "chosen by" not in printed


def test_accuracy_and_interval_are_of_the_answers(folder: Path, tmp_path: Path, peer: Peer) -> None:
    """A model that sees nothing answers "bad" always: right for 10 of 20, and the binomial's spread around it."""
    blind = Peer(peer.name, peer.family, peer.grid[:1], peer.packages, folder=peer.folder)
    PEERS[peer.name] = blind
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--seeds", "1", "--budget", "1")) == 0
    found = json.loads(out.read_text())["rows"][0]["metrics"]["test"]
    assert found["value"] == 0.5
    deviation = (0.5 * 0.5 / 20) ** 0.5
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * deviation, rel=0.2)


def test_resuming_does_only_what_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--seeds", "1")) == 0
    first = json.loads(out.read_text())
    orders: list[str] = []
    obey = remote.obey

    def spy(peer: Peer, python: Path, order: dict[str, Any], heard: Any) -> Any:
        orders.append(order["do"])
        return obey(peer, python, order, heard)

    monkeypatch.setattr(run, "obey", spy)
    assert command.main(options(folder, out, "--seeds", "1")) == 2  # without --resume nothing is overwritten
    assert command.main(options(folder, out, "--seeds", "2", "--resume")) == 0
    assert orders == ["train", "measure"]
    again = json.loads(out.read_text())
    assert again["rows"][0] == first["rows"][0] and [row["seed"] for row in again["rows"]] == [0, 1]
    assert command.main(options(folder, out, "--seeds", "2", "--resume", "--seconds", "0.02")) == 2
    write(folder / "test.csv", [("fine", "good"), ("dull", "bad")])
    assert command.main(options(folder, out, "--seeds", "2", "--resume")) == 2
    assert json.loads(out.read_text()) == again


def test_an_interrupted_run_leaves_a_report_to_go_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, obey = tmp_path / "report.json", remote.obey

    def interrupted(peer: Peer, python: Path, order: dict[str, Any], heard: Any) -> Any:
        if order.get("seed") == 1:
            raise KeyboardInterrupt
        return obey(peer, python, order, heard)

    monkeypatch.setattr(run, "obey", interrupted)
    assert command.main(options(folder, out, "--seeds", "2")) == 130
    assert "--resume" in capsys.readouterr().err
    assert [row["seed"] for row in json.loads(out.read_text())["rows"]] == [0]
    monkeypatch.setattr(run, "obey", obey)
    assert command.main(options(folder, out, "--seeds", "2", "--resume")) == 0
    assert [row["seed"] for row in json.loads(out.read_text())["rows"]] == [0, 1]


def test_the_teachers_labels_are_a_form_of_their_own(folder: Path, tmp_path: Path) -> None:
    """All words but those of the gold texts are learnt from them alone."""
    write(folder / "test.csv", [("novel", "good"), ("stale", "bad"), ("novel novel", "good"), ("stale stale", "bad")])
    extra = write(tmp_path / "labelled.csv", [("novel fresh", "good"), ("stale old", "bad")], ("text", "label"))
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--seeds", "1", "--teacher-labels", str(extra))) == 0
    report = json.loads(out.read_text())
    found = {row["form"]: (row["metrics"]["test"]["value"], row["train_rows"]) for row in report["rows"]}
    gold = report["data"]["rows"]["train"]
    assert found == {"gold": (0.5, gold), "gold + teacher": (1.0, gold + 2)}


def test_what_a_peer_says_when_it_fails_is_one_error(
    folder: Path, tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PEERS[peer.name] = Peer(peer.name, peer.family, ({"fails": True},), (), folder=peer.folder)
    assert command.main(options(folder, tmp_path / "a.json")) == 2
    assert "counting-1gram' failed to choose: ValueError: no such setting" in capsys.readouterr().err
    peer.file.write_text("import os\nos.abort()")
    assert command.main(options(folder, tmp_path / "b.json")) == 2
    assert "ended by signal SIGABRT" in capsys.readouterr().err

    def refused(name: str, requirements: Path) -> Path:
        raise ValueError("it cannot be installed: no such wheel")

    monkeypatch.setattr(run, "prepare", refused)
    assert command.main(options(folder, tmp_path / "c.json")) == 2
    said = capsys.readouterr().err
    assert "'counting'" in said and "no such wheel" in said and "--peers" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--peers", "fastext"], "peers must be among tfidf, fasttext, model2vec"),
        (["--budget", "13"], "at most 12"),
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--seconds", "0"], "--seconds must be more than 0"),
    ],
)
def test_bad_options_are_one_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert command.main(options(folder, tmp_path / "report.json", *more)) == 2
    assert said in capsys.readouterr().err


def test_the_real_peers_have_one_budget_and_their_files(peer: Peer) -> None:
    real = [found for found in PEERS.values() if found is not peer]
    assert [found.name for found in real] == [
        "tfidf-2gram",
        "tfidf-4gram",
        *(f"fasttext-{order}gram-dim{dim}" for order in (2, 4) for dim in (10, 100)),
        "model2vec",
    ]
    for found in real:
        assert len(found.grid) == MOST == len({json.dumps(settings) for settings in found.grid})
        assert found.file.is_file()
        pins = [line for line in found.requirements.read_text().splitlines() if not line.startswith("#")]
        assert pins and all("==" in line for line in pins)
    assert len(named(["fasttext", "fasttext-2gram-dim10"])) == 4


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", ["tfidf-2gram", "fasttext-2gram-dim10"])
def test_a_real_peer_learns_the_toy(folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers.environment import prepare

    monkeypatch.setattr(run, "prepare", prepare)
    out = tmp_path / "report.json"
    assert command.main(options(folder, out, "--peers", name, "--seeds", "1")) == 0
    assert json.loads(out.read_text())["rows"][0]["metrics"]["test"]["value"] == 1.0


def test_the_worker_imports_nothing_of_ours() -> None:
    """It runs where only the peer is installed, so it must start without our packages and their folder."""
    done = subprocess.run(
        ["python3", "-I", "-S", str(remote.WORKER), "missing.py"], input="{}", capture_output=True, text=True
    )
    assert json.loads(done.stdout)["error"].startswith("FileNotFoundError")


def test_texts_come_in_an_order_of_the_seed(peer: Peer, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(50)]
    splits = {"train": {"texts": texts, "labels": ["good", "bad"] * 25}, "selection": {"texts": [], "labels": []}}
    data = tmp_path / "data.json"
    data.write_text(json.dumps(splits))
    first = []
    for number, seed in enumerate((1, 2, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = {"do": "train", "data": str(data), "settings": {"looks": True}, "seed": seed, "to": str(folder)}
        answer = remote.obey(peer, Path(sys.executable), {**order, "packages": []}, print)
        assert answer["rows"] == 50 and answer["size_bytes"] == (folder / "model.json").stat().st_size
        model = json.loads((folder / "model.json").read_text())
        assert model["seed"] == seed and len(model["words"]) == 51
        first.append(model["first"])
    assert first[0] == first[2] != first[1] and "text 0" not in first


@pytest.mark.parametrize(("batch", "calls"), [(1, 10), (4, 3), (10, 1)])
def test_a_window_counts_whole_passes_after_warming_up(batch: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves 10 ms a text and no other time, of which a fifth is this process's own."""
    moved = [0]

    def predict(texts: list[str]) -> None:
        moved.append(moved[-1] + len(texts))

    clock = SimpleNamespace(perf_counter=lambda: moved[-1] * 0.01, process_time=lambda: moved[-1] * 0.002)
    monkeypatch.setattr(worker, "time", clock)
    found = worker.window(predict, [f"{n}" for n in range(10)], batch=batch, seconds=0.25)
    assert found["texts"] == 30  # 0.1 s a pass: three of them
    assert found["wall"] == pytest.approx(0.3) and found["cpu"] == pytest.approx(0.06)
    assert len(moved) - 1 > 3 * calls  # some were not counted
