"""Zeros of pruning through quantisation, export and packing: the same to the last bit, in every pattern."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.export import int8
from compress.export.onnx import to_onnx
from compress.patterns import BLOCKS, PATTERNS
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run
from compress.train import train
from compress.weights import linears
from serve.artefact import Encoder, Manifest, Model, Task, load, seal, write
from serve.packing import ratios
from serve.packing.container import pieces
from serve.packing.container import write as write_container
from serve.packing.onnx_file import constants
from serve.packing.pack import pack
from serve.runtime import Session
from tests.compress.export.conftest import BERT_INPUTS, MAX_LENGTH, bert
from tests.compress.toy import examples

SPARSITY = {"2:4": 0.5}  # others: 0.75


def trained(pattern: str, folder: Path) -> tuple[nn.Module, dict[str, Tensor], Path, Path]:
    """A student pruned and quantised in training, its masks by layer, its fp32 file and its INT8 file."""
    pruning = Choice(use="prune/magnitude", pattern=pattern, final=SPARSITY.get(pattern, 0.75), every=0.1)
    run = Run(bert(2), techniques((Choice(use="supervised"), pruning, Choice(use="quantise/qat", decay=0.9))), steps=12)
    masks: dict[str, Tensor] = {}

    def look(model: nn.Module) -> float:
        for name, layer in linears(model):
            masks[name] = layer.parametrizations.weight[0].keep.clone()
        return 0.0

    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32", keep="last")
    train(run, examples(), recipe, folder=folder, evaluate=look, title="")
    fp32, target = folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx"
    to_onnx(run.model, fp32, inputs=BERT_INPUTS)
    int8.qat(int8.Source(run.model, fp32, [], run.kind, run.facts["quantisation"]), target)
    return run.model, masks, fp32, target


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_masked_weight_is_an_integer_zero_in_the_file_and_comes_back_packed(pattern: str, tmp_path: Path) -> None:
    model, masks, _, target = trained(pattern, tmp_path)
    stored = {
        re.sub(r"^/model/|/[^/]*_weight_int8$", "", t.name).replace("/", "."): onnx.numpy_helper.to_array(t).T
        for t in onnx.load(target).graph.initializer
        if t.name.endswith("_weight_int8") and "/layer." in t.name  # MatMul's [I, O], so turned
    }
    assert stored.keys() == masks.keys() and len(masks) == 12
    for name, weight in stored.items():
        keep = masks[name].numpy()
        assert keep.mean() == pytest.approx(1 - SPARSITY.get(pattern, 0.75), abs=0.02)
        assert weight.dtype == np.int8 and not weight[~keep].any(), name
        assert not model.get_submodule(name).weight[~masks[name]].any(), name
        rounded = np.abs(model.get_submodule(name).weight.detach().numpy())  # q s, so anything but 0 is a step at least
        assert np.array_equal(weight != 0, rounded > 0), name
    container = tmp_path / "c.safetensors"
    write_container(target, container)
    assert b"".join(pieces(container)) == target.read_bytes()
    inside = ratios.encoder(target)
    if pattern != "2:4":
        rows, columns = BLOCKS[pattern]
        assert inside["blocks"] == {f"{columns}x{rows}": 12}  # as stored: inputs x outputs
    assert inside["bytes"]["stored"] < inside["bytes"]["int8"]


def test_our_own_reader_finds_what_the_onnx_package_finds(tmp_path: Path) -> None:
    _, _, fp32, target = trained("4x1", tmp_path)
    for path in (fp32, target):
        content = path.read_bytes()
        found = {one.name: content[one.start : one.start + one.size] for one in constants(path)}
        tensors = {t.name: t.raw_data for t in onnx.load(path).graph.initializer}
        assert len(found) >= 14
        assert all(tensors[name] == value for name, value in found.items())
        large = {name for name, value in tensors.items() if len(value) >= 1024}
        assert found.keys() == large


def test_a_packed_student_answers_as_the_student(
    staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    _, _, fp32, target = trained("16x4", tmp_path / "run")
    with write(tmp_path / "student") as folder:
        (folder / "onnx").mkdir()
        for path in (fp32, target):
            (folder / "onnx" / path.name).write_bytes(path.read_bytes())
        (folder / "tokenizer.json").write_bytes((staging / "tokenizer.json").read_bytes())
        seal(folder, described())
    packed = pack(tmp_path / "student", tmp_path / "packed")
    assert list(packed.models) == ["int8"] and packed.storage["int8"]["encoder"]["sparsity"] >= 0.75
    texts = ["w5 w6 w7", "w60 w9", ""]
    expected = Session(load(tmp_path / "student")).logits(texts)
    again = load(tmp_path / "packed")
    assert np.array_equal(Session(again).logits(texts), expected)
    assert again.path("int8").read_bytes() == target.read_bytes()
    assert again.manifest.served == "int8" and "fp32" not in again.manifest.models


def described() -> Manifest:
    return Manifest(
        name="student",
        created="2026-01-01T00:00:00Z",
        task=Task(kind="classification", inputs=1, labels=("bad", "good"), metric="accuracy"),
        encoder=Encoder(kind="wordpiece", max_length=MAX_LENGTH, inputs=BERT_INPUTS),
        models={
            "fp32": Model(path="onnx/model.onnx", precision="fp32", method="export"),
            "int8": Model(path="onnx/model_quantized.onnx", precision="int8", method="qat"),
        },
        served="int8",
    )
