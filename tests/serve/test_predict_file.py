"""Files of texts in, a file of answers out."""

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import predict_file as module
from serve.artefact import ArtefactError
from serve.errors import BantamError, InputError
from serve.predict_file import predict_file

ROOT = Path(__file__).parents[2]
TEXTS = ["a great film", 'bad, "very" bad', "the movie was\tdull", "fine — 雨", "good film " * 30]


def write(path: Path, texts: list[str], column: str = "sentence") -> Path:
    """By hand or with another library, so that the reader has an outside opinion."""
    if path.suffix == ".txt":
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({column: text, "id": 7}) + "\n" for text in texts), encoding="utf-8")
    else:
        import pandas

        frame = pandas.DataFrame({"id": range(len(texts)), column: texts})
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check(path: Path, tiny: Any, texts: list[str]) -> None:
    logits = tiny.torch_logits(texts).astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = lines(path)
    assert len(got) == len(texts)
    for answer, row, text in zip(got, scores, texts, strict=True):
        assert answer["label"] == ["NEG", "POS"][int(row.argmax())]
        assert answer["score"] == pytest.approx(row.max(), abs=2e-4)
        assert answer["scores"] == pytest.approx({"NEG": row[0], "POS": row[1]}, abs=2e-4)
        assert answer["truncated"] == (text == TEXTS[-1])


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("column", ["sentence", "text"])
def test_every_format_gives_the_model_s_answers(tiny: Any, tmp_path: Path, ending: str, column: str) -> None:
    source = write(tmp_path / f"in{ending}", TEXTS, column)
    summary = predict_file(tiny.artefact, str(source), str(tmp_path / "out.jsonl"), 256, False)
    check(tmp_path / "out.jsonl", tiny, TEXTS)
    assert (summary["rows"], summary["truncated"]) == (5, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, "out.jsonl"]


def test_the_task_s_column_comes_before_text(tiny: Any, tmp_path: Path) -> None:
    rows = [{"text": "bad bad", "sentence": text} for text in TEXTS]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    predict_file(tiny.artefact, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), 256, False)
    check(tmp_path / "out", tiny, TEXTS)


def test_pairs_and_regression(pairs: Any, regression: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("left,right\ngood,fine\nbad,dull\n")
    predict_file(pairs.artefact, str(tmp_path / "in.csv"), str(tmp_path / "out"), 256, False)
    best = pairs.torch_logits([("good", "fine"), ("bad", "dull")]).argmax(1)
    assert [row["label"] for row in lines(tmp_path / "out")] == [["no", "maybe", "yes"][at] for at in best]
    (tmp_path / "in.txt").write_text("good\n")
    predict_file(regression.artefact, str(tmp_path / "in.txt"), str(tmp_path / "out"), 256, False)
    (answer,) = lines(tmp_path / "out")
    assert set(answer) == {"score", "truncated"}
    assert answer["score"] == pytest.approx(float(regression.torch_logits(["good"])[0, 0]), abs=2e-4)
    with pytest.raises(InputError, match="takes pairs"):
        predict_file(pairs.artefact, str(tmp_path / "in.txt"), str(tmp_path / "no"), 256, False)


@pytest.mark.parametrize("start", ["text", "jsonl"])
def test_standard_input_and_output(
    tiny: Any, start: str, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    given = TEXTS if start == "text" else [json.dumps({"text": text}) for text in TEXTS]
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO("\n".join(given).encode())))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert predict_file(tiny.artefact, "-", "-", 256, False)["rows"] == 5
    answers = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [answer["truncated"] for answer in answers] == [False] * 4 + [True]


def test_files_larger_than_a_chunk_stay_in_order(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    predict = module.Session.predict

    def watched(self: Any, texts: list[str]) -> Any:
        seen.append(len(texts))
        return predict(self, texts)

    monkeypatch.setattr(module.Session, "predict", watched)
    texts = [" ".join(["good", "bad", "the"][at % 3 : at % 3 + 1] * (at % 7 + 1)) for at in range(20)]
    predict_file(tiny.artefact, str(write(tmp_path / "in.txt", texts)), str(tmp_path / "out"), 3, False)
    check(tmp_path / "out", tiny, texts)
    assert seen == [3] * 6 + [2]


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("in.txt", b"good\n\nbad\n", "in.txt: `inputs` cannot be empty, but row 2 is"),
        ("in.txt", b"good\n\xff\n", "line 2 is not UTF-8"),
        ("in.txt", b"", "holds no texts"),
        ("in.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("in.jsonl", b'["a"]\n', "line 1 must be an object"),
        ("in.jsonl", b'{"text": "a"}\n{"text": null}\n', "row 2 has no text in 'text', got NoneType"),
        ("in.jsonl", b'{"text": "a"}\n{"txet": "b"}\n', "'sentence' not found; .*'txet'"),
        ("in.csv", b"id,sentense,label\n1,a,b\n", "column 'sentence' not found; nearest there: 'sentense'"),
        ("in.csv", b"id,x\n1,2\n", "column 'sentence' not found; there are: 'id', 'x'"),
        ("in.csv", b'sentence\n"a\n', "in.csv: line"),
        ("in.csv", b"sentence\na\n\xff\n", "not UTF-8"),
        ("in.parquet", b"PAR1 no", "is not a parquet file"),
        ("in.doc", b"good\n", "cannot tell its format from its ending; name one of txt, jsonl"),
    ],
)
def test_bad_files_are_told_why_and_leave_nothing(
    tiny: Any, tmp_path: Path, name: str, content: bytes, pattern: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=pattern) as caught:
        predict_file(tiny.artefact, str(tmp_path / name), str(tmp_path / "out"), 256, False)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_wrong_places_are_errors(tiny: Any, tmp_path: Path) -> None:
    source = str(write(tmp_path / "in.txt", TEXTS))
    for target, pattern in ((source, "is the input too"), (str(tmp_path), "is a folder")):
        with pytest.raises(InputError, match=pattern):
            predict_file(tiny.artefact, source, target, 256, False)
    with pytest.raises(BantamError, match="was not written: No such file"):
        predict_file(tiny.artefact, source, str(tmp_path / "no" / "out"), 256, False)
    with pytest.raises(InputError, match="cannot read .*gone"):
        predict_file(tiny.artefact, str(tmp_path / "gone.txt"), str(tmp_path / "out"), 256, False)
    with pytest.raises(InputError, match="format must be one of"):
        predict_file(tiny.artefact, source, str(tmp_path / "out"), 256, False, form="xml")
    with pytest.raises(ArtefactError, match="not a folder"):
        predict_file(tmp_path / "nothing", source, str(tmp_path / "out"), 256, False)


def test_a_full_disk_leaves_nothing(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    source = write(tmp_path / "in.txt", TEXTS)
    with pytest.raises(BantamError, match="out was not written: No space left"):
        predict_file(tiny.artefact, str(source), str(tmp_path / "out"), 256, False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_parquet_without_pyarrow_names_the_extra(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.parquet", TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'bantam\[compress\]'"):
        predict_file(tiny.artefact, str(source), str(tmp_path / "out"), 256, False)


def test_progress_goes_to_standard_error(tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    predict_file(tiny.artefact, str(write(tmp_path / "in.txt", TEXTS)), str(tmp_path / "out"))
    assert capfd.readouterr().out == ""


def test_a_closed_pipe_is_one_clear_error(tiny: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.txt", ["a great film"] * 5000)
    code = "import sys; from serve.predict_file import predict_file; predict_file(*sys.argv[1:], progress=False)"
    command = [sys.executable, "-c", code, str(tiny.artefact.root), str(source), "-"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        words = process.stderr.read().decode().splitlines()
    assert words[-1] == "serve.errors.BantamError: standard output was closed before all answers were written"
