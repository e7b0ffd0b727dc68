from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from transformers import BertForSequenceClassification

from compress.data.load import Examples
from compress.export import choose, gate, parity
from compress.export.choose import Exported, export_models
from compress.export.gate import Judge, candidate
from compress.export.int8 import CANDIDATES, Made, Source, dynamic, static
from compress.export.onnx import to_onnx
from serve.artefact import Encoder
from serve.encode import WordPieces

from .conftest import BERT_INPUTS, bert

Texts = Callable[..., list[str]]


@dataclass(frozen=True)
class Options:
    int8: tuple[str, ...] = ("dynamic", "static")
    calibration: int = 32
    max_drop: float = 0.05
    opset: int = 17


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.trial, "SECONDS", 0.01)
    monkeypatch.setattr(choose.trial, "ROUNDS", 1)


@pytest.fixture
def judge(
    student: BertForSequenceClassification, staging: Path, encoder: Encoder, pieces: WordPieces, texts: Texts
) -> Judge:
    """With the fp32 file in place; labels are what the student says, so that its accuracy is 1."""
    to_onnx(student, staging / choose.FP32, inputs=BERT_INPUTS)
    chosen = texts(96)
    reference = parity.torch_logits(student, pieces, chosen)
    return Judge(staging, encoder, "classification", "accuracy", chosen, reference.argmax(-1), reference, 0.05)


@pytest.fixture
def source(student: BertForSequenceClassification, judge: Judge, pieces: WordPieces, texts: Texts) -> Source:
    encoded = pieces.encode(texts(32, seed=1))
    feeds = [pieces.batch(encoded, [row]) for row in range(32)]
    return Source(student, judge.staging / choose.FP32, feeds, "classification")


def run(
    model: Any, staging: Path, encoder: Encoder, pieces: WordPieces, texts: Texts, options: Options, **changes: Any
) -> tuple[Exported, list[str]]:
    said: list[str] = []
    examples = texts(96)
    given: dict[str, Any] = {
        "kind": "classification",
        "calibration": texts(32, seed=1),
        "selection": Examples(examples, parity.torch_logits(model, pieces, examples).argmax(-1)),
        "metric": "accuracy",
    }
    given |= changes
    return export_models(
        model, staging, encoder=encoder, pieces=pieces, options=options, log=said.append, **given
    ), said


def test_static_and_dynamic_pass_and_one_is_kept(
    student: BertForSequenceClassification, staging: Path, encoder: Encoder, pieces: WordPieces, texts: Texts
) -> None:
    exported, said = run(student, staging, encoder, pieces, texts, Options())
    beside = {"int8-static"} if exported.models["int8"].method == "dynamic" else set()
    assert exported.served == "int8" and set(exported.models) == {"fp32", "int8"} | beside
    assert {path.name for path in (staging / "onnx").iterdir()} == {
        Path(model.path).name for model in exported.models.values()
    }
    by_name = {one["name"]: one for one in exported.candidates}
    assert list(by_name) == ["fp32", "dynamic", "static"]
    assert [one["refused"] for one in exported.candidates] == [None] * 3
    assert sum(one["chosen"] for one in exported.candidates) == 1
    # 2 layers of 6 products, pooler and classifier
    assert (by_name["fp32"]["integer_kernels"], by_name["fp32"]["float_kernels"]) == (0, 14)
    for name in ("dynamic", "static"):
        assert (by_name[name]["integer_kernels"], by_name[name]["float_kernels"]) == (14, 0)
        assert by_name[name]["metric"] > 0.95
        assert all(rate > 0 for rate in by_name[name]["texts_per_second"].values())
    assert by_name["dynamic"]["batch"] == 1
    assert by_name["static"]["size_bytes"] < 0.6 * by_name["fp32"]["size_bytes"]
    served = (staging / "onnx" / "model_quantized.onnx").stat().st_size
    assert served in {by_name[name]["size_bytes"] for name in ("dynamic", "static")}
    assert any("integer" in line for line in said)


def test_dynamic_int8_depends_on_company_and_static_does_not(judge: Judge, source: Source) -> None:
    why = {}
    for name, make in (("dynamic", dynamic), ("static", static)):
        path = judge.staging / "onnx" / f"{name}.onnx"
        make(source, path)
        tried = candidate(name, judge.staging, path, precision="int8", method=name, batch=8)
        assert tried.refused is None
        why[name] = parity.batch_invariance(judge.session(tried.model).logits, judge.texts, judge.kind)
        alone = tried.model.model_copy(update={"batch": 1})
        assert parity.batch_invariance(judge.session(alone).logits, judge.texts, judge.kind) is None
    assert "batch invariance" in str(why["dynamic"]) and why["static"] is None


def test_a_file_that_company_moves_is_served_one_by_one(judge: Judge, source: Source) -> None:
    path = judge.staging / "onnx" / "dynamic.onnx"
    dynamic(source, path)
    tried = candidate("dynamic", judge.staging, path, precision="int8", method="dynamic")
    groups, choose.trial.GROUPS = choose.trial.GROUPS, (8,)
    try:
        session = judge.weigh(tried, parity.INT8, 1.0)
    finally:
        choose.trial.GROUPS = groups
    assert session is not None and session.batch == tried.model.batch == 1
    assert "batch invariance" in tried.facts["one_by_one"]


def perturbed(source: Source, target: Path) -> Made:
    """A static file whose stored integers are partly wrong."""
    made = static(source, target)
    model = onnx.load(target)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor).copy()
            wrong = random.random(values.shape) < 0.5
            values[wrong] = random.integers(-127, 128, int(wrong.sum()))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, target)
    return made


def left_float(source: Source, target: Path) -> Made:
    target.write_bytes(source.fp32.read_bytes())
    return Made("static", None, {})


@pytest.mark.parametrize(("broken", "reason"), [(perturbed, "parity"), (left_float, "kernels: 14 of 14")])
def test_a_broken_candidate_is_refused_and_fp32_is_served_loudly(
    broken: Callable[[Source, Path], Made],
    reason: str,
    student: BertForSequenceClassification,
    staging: Path,
    encoder: Encoder,
    pieces: WordPieces,
    texts: Texts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CANDIDATES, "static", broken)
    exported, said = run(student, staging, encoder, pieces, texts, Options(int8=("static",)))
    assert exported.served == "fp32" and set(exported.models) == {"fp32"}
    assert reason in exported.candidates[1]["refused"] and exported.candidates[0]["chosen"]
    assert any("WARNING" in line and "fp32" in line for line in said)
    assert any("REFUSED" in line and reason in line for line in said)
    assert [path.name for path in (staging / "onnx").iterdir()] == ["model.onnx"]


def test_a_drop_of_the_metric_is_refused(judge: Judge) -> None:
    assert judge._dropped(0.90, 0.94) is None
    assert "worse than fp32" in str(judge._dropped(0.90, 0.96))
    assert judge._dropped(0.842, 0.842 + judge.max_drop) is None  # just at the limit, where floating point is above it
    assert "worse than fp32" in str(judge._dropped(float("nan"), 0.96))
    assert judge._dropped(0.5, float("nan")) is None


def test_accuracy_comes_before_speed_and_speed_decides_among_equals(judge: Judge) -> None:
    model = candidate("fp32", judge.staging, judge.staging / choose.FP32, precision="fp32", method="export").model

    def tried(name: str, metric: float, speed: float) -> gate.Candidate:
        return gate.Candidate(name, model, 1, metric=metric, speed={"1": speed, "32": speed})

    slow, fast, wrong = tried("slow", 0.900, 10), tried("fast", 0.8985, 20), tried("wrong", 0.80, 99)
    assert choose.choose([slow, fast, wrong], judge).name == "fast"
    assert choose.choose([slow, wrong], judge).name == "slow"


def test_regression_on_pairs_is_exported(staging: Path, encoder: Encoder, pieces: WordPieces, texts: Texts) -> None:
    model = bert(labels=1)
    pairs = list(zip(texts(64, seed=2), texts(64, seed=3), strict=True))
    values = parity.torch_logits(model, pieces, pairs)[:, 0]
    exported, _ = run(
        model,
        staging,
        encoder,
        pieces,
        texts,
        Options(int8=("static",)),
        kind="regression",
        metric="spearman",
        calibration=pairs[:32],
        selection=Examples(pairs, values),
    )
    assert exported.served == "int8"
    assert exported.candidates[1]["metric"] > 0.98


def test_texts_longer_than_the_positions_are_refused(
    student: BertForSequenceClassification, staging: Path, texts: Texts
) -> None:
    long = Encoder(kind="wordpiece", max_length=40, inputs=BERT_INPUTS)
    pieces = WordPieces(staging / "tokenizer.json", max_length=40, pad_id=0, inputs=BERT_INPUTS)
    with pytest.raises(ValueError, match="task.max_length is 40"):
        run(student, staging, long, pieces, texts, Options())


def test_an_unknown_way_to_int8_is_refused(
    student: BertForSequenceClassification, staging: Path, encoder: Encoder, pieces: WordPieces, texts: Texts
) -> None:
    with pytest.raises(ValueError, match="statik"):
        run(student, staging, encoder, pieces, texts, Options(int8=("statik",)))


def test_an_export_that_says_something_else_is_an_error(
    student: BertForSequenceClassification,
    staging: Path,
    encoder: Encoder,
    pieces: WordPieces,
    texts: Texts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def another(model: Any, path: Path, *, inputs: tuple[str, ...], opset: int) -> Path:
        other = bert()
        other.classifier.weight.data.neg_()
        return to_onnx(other, path, inputs=inputs, opset=opset)

    monkeypatch.setattr(choose, "to_onnx", another)
    with pytest.raises(ValueError, match="does not say what the trained model says"):
        run(student, staging, encoder, pieces, texts, Options())
