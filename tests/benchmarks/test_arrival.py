"""Real texts in arrival order: what is timed, and how it is told. Clocks and engines here are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arrival, arrival_table, shapes, table
from benchmarks.data import load_texts
from serve.artefact import load
from serve.encode import Encoded, Text
from serve.ngram.words import characters
from serve.runtime import Session
from tests.serve.ngram import models

WORDS = (1, 5, 2, 2, 7, 1, 1, 3)  # of each text; with [CLS] and [SEP] it is two word pieces longer
TEXTS: list[Text] = [" ".join(["film"] * count) for count in WORDS]
PIECES = 38
# Hand-made: a padded group costs 2 s and as many again as it has word pieces, padding included.
PADDED = {"1": 8 * 2 + PIECES, "4": 2 * 2 + 4 * 7 + 4 * 9, "sorted": 4 * 2 + 2 * (3 + 4 + 5 + 9)}
UNPADDED = PIECES / 2


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Padded:
    """A runtime that pads. Every second label differs from those of `Unpadded`."""

    def __init__(self, clock: Clock, name: str, log: list[str]) -> None:
        self.clock, self.name, self.log, self.shapes = clock, name, log, list[tuple[int, ...]]()

    def __call__(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        ids = feeds["input_ids"]
        self.clock.now += 2 + ids.size
        self.shapes.append(ids.shape)
        self.log.append(self.name)
        return np.eye(2, dtype=np.float32)[feeds["attention_mask"].sum(1) % 2]


class Unpadded(Padded):
    def ragged(self, ids: list[np.ndarray], types: Any) -> np.ndarray:
        self.clock.now += sum(map(len, ids)) / 2
        self.log.append(self.name)
        return np.eye(2, dtype=np.float32)[[0 if len(row) > 4 else len(row) % 2 for row in ids]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(student: Path, clock: Clock, model: str = "fp32", batches: tuple[int, ...] = (1, 4)) -> list[arrival.Target]:
    """One model on a runtime that pads and on one that does not; to tokenise a text costs a second."""
    artefact, log = load(student), list[str]()
    runs = {"onnxruntime": Padded(clock, "onnxruntime", log), "bantam": Unpadded(clock, "bantam", log)}
    models = [shapes.Target("x", runtime, artefact, model, run, 23) for runtime, run in runs.items()]
    found = arrival.targets(models, TEXTS, batches)
    for target in found:
        encode = target.pieces.encode

        def slow(texts: list[Text], encode: Any = encode) -> Encoded:
            clock.now += len(texts)
            return encode(texts)

        target.pieces.encode = slow  # type: ignore[method-assign]
    return found


def test_every_way_takes_what_its_groups_and_its_padding_cost(student: Path, clock: Clock) -> None:
    padded, ours = arrival.measure(made(student, clock), 3, clock)
    assert padded["group"] == 2 and ours["group"] is None
    for way, seconds in PADDED.items():
        assert padded["seconds"]["pieces"][way] == [seconds] * 3
        assert padded["seconds"]["text"][way] == [seconds + 8] * 3
        assert ours["seconds"]["pieces"][way] == pytest.approx([UNPADDED] * 3)
        assert ours["seconds"]["text"][way] == pytest.approx([UNPADDED + 8] * 3)
    # Of 3, 7, 4, 4, 9, 3, 3, 5 word pieces those with 7, 9 and 5 get the other label.
    assert (padded["same_labels"], ours["same_labels"]) == (1.0, 5 / 8)


def test_a_file_whose_answers_depend_on_batch_mates_runs_one_by_one(student: Path, clock: Clock) -> None:
    padded, ours = arrival.measure(made(student, clock, "int8"), 1, clock)
    assert padded["group"] == 1 and ours["group"] is None
    assert padded["seconds"]["pieces"] == {way: [PADDED["1"]] for way in ("1", "4", "sorted")}


def test_targets_take_turns_and_meet_no_new_shape_while_the_clock_runs(
    student: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(student, clock, batches=(4,))
    run: Any = found[0].model.run
    warm: dict[str, Any] = {}
    turns = arrival.turns

    def watched(cells: Any, rounds: int) -> Any:
        warm.update(shapes=set(run.shapes), calls=len(run.log))
        return turns(cells, rounds)

    monkeypatch.setattr(arrival, "turns", watched)
    arrival.measure(found, 2, clock)
    assert set(run.shapes) == warm["shapes"]
    calls_of_4 = ["onnxruntime"] * 2 + ["bantam"] * 2
    one_round = (calls_of_4 + ["onnxruntime"] * 4 + ["bantam"]) * 2  # both sources
    assert run.log[warm["calls"] :] == one_round + one_round[2:] + one_round[:2]


def report(**more: Any) -> dict[str, Any]:
    """Two artefacts, two rounds, the second three times as slow for all."""

    def row(name: str, runtime: str, group: int | None, seconds: tuple[float, float, float]) -> dict[str, Any]:
        ways = dict(zip(("1", "32", "sorted"), ([one, 3 * one] for one in seconds), strict=True))
        text = {way: [one + 1 for one in found] for way, found in ways.items()}
        return {
            "name": name,
            "runtime": runtime,
            "precision": "int8",
            "method": "static",
            "sparsity": 0.8 if name == "sparse" else 0.0,
            "same_labels": 1.0,
            "group": group,
            "seconds": {"pieces": ways, "text": text},
        }

    return {
        "schema": 1,
        "kind": "arrival",
        "created": "2026-01-01T00:00:00+00:00",
        "machine": {"cpu": "Test CPU", "flags": ["avx2"], "commit": None, "versions": {"numpy": "2.4"}},
        "data": {"name": "test.csv", "texts": 120, "pieces_mean": 12.5, "pieces_max": 40},
        "rounds": 2,
        "rows": [
            row("dense", "onnxruntime", 4, (6.0, 9.0, 3.0)),
            row("dense", "bantam", None, (2.0, 1.5, 1.0)),
            row("sparse", "onnxruntime", 8, (6.0, 9.0, 4.0)),
            row("sparse", "bantam", None, (1.0, 0.5, 0.5)),
        ],
        **more,
    }


def test_the_table_tells_rates_ratios_of_a_round_and_each_artefact_against_its_own_rivals() -> None:
    lines = [line for line in arrival_table.markdown(report()).splitlines() if line.startswith("|")]
    assert len(lines) == 6 + 6 + 6
    dense, ours = lines[2], lines[3]
    # 120 texts in the median of 6 s and 18 s, of 9 s and 27 s, of 3 s and 9 s.
    assert dense.split(" | ")[4:] == [
        "10, 1.00x [1.00, 1.00]",
        "6.67, 1.00x [1.00, 1.00]",
        "20 (4), 1.00x [1.00, 1.00] |",
    ]
    assert ours.split(" | ")[4:] == ["30, 3.00x [3.00, 3.00]", "40, 6.00x [6.00, 6.00]", "60, 3.00x [3.00, 3.00] |"]
    duels = [line.strip("| ").split(" | ") for line in lines[12:]]
    assert duels[0] == [
        "target",
        "from",
        "calls of 1, of onnxruntime's of 1",
        "calls of 32, of onnxruntime's best group",
    ]
    assert duels[2] == ["dense", "word pieces", "3.00x [3.00, 3.00]", "2.00x [2.00, 2.00]"]
    assert duels[4] == ["sparse", "word pieces", "6.00x [6.00, 6.00]", "8.00x [8.00, 8.00]"]
    # From text every pass takes a second more: (6 + 1) / (1 + 1), (18 + 1) / (3 + 1).
    assert duels[5][:3] == ["sparse", "text", "4.12x [3.50, 4.75]"]


def test_without_our_engine_there_is_no_table_of_duels() -> None:
    others = [row for row in report()["rows"] if row["runtime"] != "bantam"]
    assert "Times as fast" not in arrival_table.markdown(report(rows=others))


def test_the_command_writes_what_the_document_shows(
    student: Path, teacher: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "arrival.json"
    options = ["--data", str(data), "--runtimes", "onnxruntime", "--batches", "1", "8", "--texts", "20"]
    assert arrival.main([f"dense={teacher}", str(student), *options, "--rounds", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["data"]["texts"] == 20 and found["data"]["name"] == "test.csv"
    assert [row["name"] for row in found["rows"]] == ["dense", student.name]
    for row in found["rows"]:
        taken = [seconds for ways in row["seconds"].values() for way in ways.values() for seconds in way]
        assert len(taken) == 2 * 3 * 2 and min(taken) > 0
    assert capsys.readouterr().out == table.rendered(out)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--rounds", "0"], "1 or more"),
        (["--texts", "0"], "at least 1 text"),
        (["--texts", "8"], "too few for calls of 32"),
        (["--data", "nowhere.csv"], "does not exist"),
        (["--json", "nowhere/report.json"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], complaint: str, student: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arrival.main([str(student), "--data", str(data), "--runtimes", "onnxruntime", *more]) == 2
    assert complaint in capsys.readouterr().err


def test_artefacts_must_have_names_of_their_own(student: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = [str(student), str(student), "--data", str(data), "--runtimes", "onnxruntime"]
    assert arrival.main(same) == 2
    assert "a name of its own" in capsys.readouterr().err


def test_texts_are_evenly_spaced_in_arrival_order_whatever_their_labels(student: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("sentence,label\n" + "".join(f"{at},unheard of\n" if at != 4 else " ,0\n" for at in range(13)))
    task = load(student).manifest.task
    assert load_texts(path, task, limit=4) == ("texts.csv", ["0", "3", "7", "10"])  # of 12, since row 4 is empty
    assert len(load_texts(path, task, limit=99)[1]) == 12


def test_a_student_of_n_grams_is_timed_from_text_as_the_service_answers(
    student: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a model of word pieces: no line and no ratio of word pieces for it. Oracle for labels: its session."""
    artefact = models.artefact(tmp_path / "words", models.model(characters()), labels=("bad", "good"))
    texts = load_texts(data, artefact.manifest.task, limit=20)[1]
    runtimes = ["onnxruntime", "openvino", "bantam"]
    found = arrival.targets(shapes.targets([("words", artefact.root)], runtimes, None, 1, ngrams=True), texts, [8])
    assert [target.model.runtime for target in found] == ["onnxruntime", "bantam"]
    assert "words on openvino" in capsys.readouterr().err  # it has no numbers of 64 bits, as keys are
    labels = Session(artefact, runtime="bantam").logits(texts).argmax(axis=1).tolist()
    assert len(set(labels)) == 2
    for target in found:
        assert target.answers(target.calls["text"]["sorted"][0], 4).tolist() == labels

    out = tmp_path / "arrival.json"
    options = ["--data", str(data), "--runtimes", "onnxruntime", "bantam", "--batches", "1", "8", "--texts", "20"]
    ours = f"words={artefact.root}"
    assert arrival.main([ours, str(student), *options, "--rounds", "2", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    told = {(row["name"], row["runtime"]): row for row in report["rows"]}
    assert set(told) >= {("words", "onnxruntime"), ("words", "bantam"), (student.name, "onnxruntime")}
    for (name, runtime), row in told.items():
        assert list(row["seconds"]) == (["text"] if name == "words" else ["pieces", "text"])
        assert all(len(seconds) == 2 for ways in row["seconds"].values() for seconds in ways.values())
        assert (row["group"] is None) == (runtime == "bantam")
    assert told[("words", "bantam")]["same_labels"] == 1.0
    assert report["data"]["counted"] == "word pieces"
    pieces, text, duels = capsys.readouterr().out.split("**")[2::2]
    assert "| words |" not in pieces and f"| {student.name} | onnxruntime |" in pieces
    assert text.count("| words |") == 2 and duels.count("| words | text |") == 1

    assert arrival.main([ours, *options, "--rounds", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed == table.rendered(out) and "From word pieces" not in printed and " words on average" in printed
