"""What a person types and gets: codes, one-line errors, and JSON as the last line of standard output."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bantam.cli import app
from tests.compress.conftest import MAX_LENGTH, toy, toy_settings  # noqa: F401  (fixtures)

TABLES = {
    "one_class": "text,label\na fine film,good\na warm film,good\nrich scene,good\n" * 5,
    "no_rows": "text,label\n",
    "no_label": "text,rating\na fine film,good\na dull film,bad\n",
    "null_text": "text,label\na fine film,good\n,bad\na dull film,bad\n",
}


@pytest.fixture(scope="module")
def student(toy_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("cli") / "student"
    # It must have learnt: where every text is a toss-up, rounding to INT8 changes labels on some processors.
    quick = ["stages.0.epochs=1", "stages.0.evaluations=1", "stages.0.lr=0.003", "export.int8=[static]"]
    result = bantam("compress", "demo", "--out", str(out), "--json", *sets([*toy_settings, *quick]))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["artefact"] == str(out)
    return out


def bantam(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=text)


def sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def assert_one_error(result: Result, message: str) -> None:
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.datset=x.csv", "did you mean 'dataset'"),
        ("task.label=lable", "lable"),
        ("task.text=[txt]", "txt"),
        ("task.dataset=nowhere.csv", "nowhere.csv"),
        ("teacher.model=nowhere", "nowhere"),
        ("student.layers=9", "keeps 1 to 4 layers"),
        ("stages.0.techniques.0.use=distil/logit", "did you mean 'distil/logits'"),
        ("stages.0.techniques.0.temprature=1", "did you mean 'temperature'"),
        ("stages.0.techniques=[{use: distil/tinybert, layers: [[3, 4]]}]", "maps layers 1-2 to 1-4, got (3, 4)"),
        ("task.max_length=4096", f"positions for {MAX_LENGTH}"),
        ("task.metric=acuracy", "accuracy"),
    ],
)
def test_a_wrong_recipe_is_one_error(setting: str, message: str, toy_settings: list[str], tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    result = bantam("compress", "demo", "--out", str(out), *sets([*toy_settings, "teacher.epochs=1000", setting]))
    assert_one_error(result, message)
    assert "teacher" not in result.stderr.replace(message, "").split("error:")[0]  # nothing was trained
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "message"), [("one_class", "class"), ("no_rows", "empty"), ("no_label", "label"), ("null_text", "text")]
)
def test_wrong_data_is_one_error(table: str, message: str, toy_settings: list[str], tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "reviews.csv"
    file.write_text(TABLES[table], encoding="utf-8")
    result = bantam("compress", "demo", "--out", str(tmp_path / "out"), *sets([*toy_settings, f"task.dataset={file}"]))
    assert_one_error(result, message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reviews.csv"]


def test_inspect_ends_with_the_manifest(student: Path) -> None:
    result = bantam("inspect", str(student), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["task"]["labels"] == ["bad", "good"]
    assert bantam("inspect", str(student)).exit_code == 0


def test_predict_reads_and_writes(student: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "texts.txt", tmp_path / "scores.jsonl"
    source.write_text("a fine film\na dull film\n" + "so " * 50 + "\n", encoding="utf-8")
    result = bantam("predict", str(student), "--input", str(source), "--output", str(target), "--json")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["truncated"] for row in rows] == [False, False, True]
    assert {row["label"] for row in rows} <= {"bad", "good"}
    assert isinstance(json.loads(result.stdout.splitlines()[-1]), dict)


def damaged(student: Path, folder: Path, how: str) -> Path:
    copy = shutil.copytree(student, folder / how)
    manifest, model = copy / "manifest.json", copy / "onnx" / "model_quantized.onnx"
    if how == "truncated":
        model.write_bytes(model.read_bytes()[:-10])
    elif how == "changed":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif how == "missing":
        model.unlink()
    elif how == "newer":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    else:
        manifest.write_text("{")
    return copy


@pytest.mark.parametrize("command", ["inspect", "predict", "serve", "bench", "build"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "model_quantized.onnx is damaged"),
        ("changed", "model_quantized.onnx is damaged"),
        ("missing", "model_quantized.onnx is missing"),
        ("newer", "newer"),
        ("no_json", "is not JSON"),
    ],
)
def test_a_damaged_artefact_is_one_error(command: str, how: str, message: str, student: Path, tmp_path: Path) -> None:
    assert_one_error(bantam(command, str(damaged(student, tmp_path, how)), text="a text\n"), message)


def test_a_port_in_use_is_one_error(student: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_error(bantam("serve", str(student), "--port", str(port)), f"port {port} of 127.0.0.1 is in use")


def test_cuda_without_a_gpu_is_one_error(student: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert_one_error(bantam("bench", str(student), "--device", "cuda"), "cuda")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in [name for name in sys.modules if name.startswith("compress.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    result = bantam("compress", "demo", "--out", str(tmp_path / "out"))
    assert_one_error(result, "bantam compress needs accelerate: pip install 'bantam[compress]'")
