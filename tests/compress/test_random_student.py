"""Students with random weights: their shape, their zeros, and that every runtime runs them."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig

from benchmarks.report import titled
from compress import random_student
from compress.random_student import Shape, make
from serve.artefact import Artefact, Encoder, Manifest, Model, Task, load, seal, write
from serve.engine.build import LIBRARY
from serve.runtime import Session

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{at}" for at in range(1195))]
ZEROS = 0.8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """What is asked of the given artefact: configuration, tokenizer, manifest. Its model is never opened."""
    target = tmp_path_factory.mktemp("source") / "trained"
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        num_labels=3,
        initializer_range=0.2,
    )
    pieces = Tokenizer(models.WordPiece({word: at for at, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    with write(target) as staging:
        config.save_pretrained(staging)
        pieces.save(str(staging / "tokenizer.json"))
        (staging / "onnx").mkdir()
        (staging / "onnx" / "model.onnx").write_bytes(b"never opened")
        manifest = Manifest(
            name="trained",
            created="2026-01-01T00:00:00+00:00",
            task=Task(
                kind="classification", inputs=1, labels=("a", "b", "c"), metric="accuracy", columns=("sentence",)
            ),
            encoder=Encoder(kind="wordpiece", max_length=20, inputs=INPUTS),
            models={"fp32": Model(path="onnx/model.onnx", precision="fp32", method="export")},
            served="fp32",
        )
        seal(staging, manifest)
    return load(target)


@pytest.fixture(scope="module")
def student(source: Artefact, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    shape = Shape(layers=2, width=64, heads=4, neurons=128, zeros=ZEROS)
    return make(source, tmp_path_factory.mktemp("made") / "random", shape)


def weights(artefact: Artefact) -> list[np.ndarray]:
    """The INT8 weights [O, I] of linear layers inside the encoder's blocks."""
    graph = onnx.load(artefact.path("int8")).graph
    found = (onnx.numpy_helper.to_array(one) for one in graph.initializer if "/encoder/layer." in one.name)
    return [value.T for value in found if value.dtype == np.int8 and value.ndim == 2]


def test_it_has_the_shape_asked_for_and_its_zeros_lie_in_blocks(student: Artefact) -> None:
    found = weights(student)
    square, up, down = (64, 64), (128, 64), (64, 128)
    assert sorted(value.shape for value in found) == sorted([square] * 4 * 2 + [up] * 2 + [down] * 2)
    for value in found:
        rows, columns = value.shape
        blocks = value.reshape(rows // 16, 16, columns // 4, 4)
        empty = (blocks == 0).all((1, 3))
        assert empty.sum() == int(ZEROS * empty.size)
        assert (blocks.transpose(0, 2, 1, 3)[~empty] == 0).mean() < 0.05  # but for those that round to zero


def test_what_is_not_asked_for_is_as_the_artefact_has_it(source: Artefact, tmp_path: Path) -> None:
    made = make(source, tmp_path / "plain", Shape())
    config, given = (json.loads((one.root / "config.json").read_text()) for one in (made, source))
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "id2label", "vocab_size")
    assert [config[field] for field in fields] == [given[field] for field in fields]
    assert made.manifest.task == source.manifest.task and made.manifest.encoder == source.manifest.encoder
    assert all((value != 0).mean() > 0.95 for value in weights(made)) and len(weights(made)) == 6


def test_it_says_that_it_is_for_speed_only(student: Artefact) -> None:
    manifest = student.manifest
    assert (manifest.metrics, manifest.models["int8"].float_kernels) == ({}, 0)
    assert manifest.models["int8"].integer_kernels == 2 * 6 + 2
    assert (
        "speed only" in manifest.name.replace("-", " ") and "mean nothing" in (student.root / "README.md").read_text()
    )
    assert titled("mine", manifest.provenance) == "mine (random weights, speed only)"
    assert titled("mine", {"machine": {}}) == "mine"


@pytest.mark.parametrize("runtime", ["openvino", "bantam"])
def test_every_runtime_gives_the_same_answers(student: Artefact, runtime: str) -> None:
    if not (LIBRARY.is_file() if runtime == "bantam" else find_spec("openvino")):
        pytest.skip(f"{runtime} is not installed")
    texts = ["word1 word2 word3", "word7", "word900 word5 word5 word8 word11 word12"]
    expected, found = (Session(student, runtime=name).logits(texts) for name in ("onnxruntime", runtime))
    assert np.ptp(expected) > 0
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_the_same_seed_gives_the_same_file_and_another_one_another(source: Artefact, tmp_path: Path) -> None:
    files = [make(source, tmp_path / name, Shape(), seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    first, again, other = (made.path("int8").read_bytes() for made in files)
    assert first == again != other
    assert not any(map(np.array_equal, weights(files[0]), weights(files[2])))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--width", "30", "--heads", "4"], "multiple of the heads"),
        (["--layers", "0"], "1 or more"),
        (["--zeros", "1"], "below 1"),
        (["--zeros", "0.5", "--pattern", "3x3"], "pattern must be one of"),
        (["--zeros", "0.5", "--width", "40"], "must divide the shape"),
    ],
)
def test_a_shape_that_cannot_be_is_one_error(
    more: list[str], complaint: str, source: Artefact, tmp_path: Path, capsys: Any
) -> None:
    assert random_student.main([str(source.root), "--out", str(tmp_path / "made"), *more]) == 2
    assert complaint in capsys.readouterr().err and not list(tmp_path.iterdir())
