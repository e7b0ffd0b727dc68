"""What is told of sparse artefacts: sizes, ratios, and OpenVINO with its option for them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import compare, plan, storage, table
from serve.artefact import MANIFEST, load, seal
from serve.manifest import Manifest
from serve.packing.pack import pack
from serve.runtime import Session

RUNTIMES = ("torch", "onnxruntime", "openvino", "openvino-sparse")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pruned(student: Path, tmp_path: Path) -> Path:
    """The student with nine tenths of its INT8 weights zero, as a package would tell."""
    root = shutil.copytree(student, tmp_path / "pruned")
    path = root / "onnx" / "model_quantized.onnx"
    model = onnx.load(path)
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.int8 and value.ndim == 2:
            kept = np.where(random.random(value.shape) < 0.9, np.int8(0), value)
            name = f"/model/bert/encoder/layer.0/{tensor.name}"  # as our own exporter writes it
            rename(model, tensor.name, name)
            tensor.CopyFrom(onnx.numpy_helper.from_array(kept, name))
    onnx.save(model, path)
    content = json.loads((root / MANIFEST).read_text())
    seal(root, Manifest.model_validate({**content, "name": "pruned", "sparsity": {"unstructured": 0.9}}))
    return root


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == old:
                node.input[at] = new


def test_packed_or_not_an_artefact_is_told_the_same(pruned: Path, student: Path, tmp_path: Path) -> None:
    pack(pruned, tmp_path / "packed")
    report = storage.measure([("pruned", pruned), ("pruned", tmp_path / "packed"), ("dense", student)])
    first, again, dense = report["rows"]
    assert first == again
    assert first["encoder"]["ratios"]["nominal"] == pytest.approx(40, rel=0.05)
    assert first["encoder"]["sparsity"] == pytest.approx(0.9, abs=0.01)
    assert dense["encoder"] == {}  # onnxruntime's names tell nothing of blocks
    files = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}
    for name, file in files.items():
        assert first["files"][name]["bytes"] == (pruned / "onnx" / file).stat().st_size
    packed = [path for path in (tmp_path / "packed").rglob("*") if path.is_file()]
    assert first["packed_artefact_bytes"] == sum(path.stat().st_size for path in packed)


def test_the_table_is_filled_from_the_report(pruned: Path, student: Path, tmp_path: Path) -> None:
    target = tmp_path / "storage.json"
    assert storage.main([str(pruned), str(student), "--json", str(target)]) == 0
    document = tmp_path / "document.md"
    document.write_text("before\n\n<!-- table: storage.json -->\n<!-- end -->\n")
    document.write_text(table.filled(document))
    text = document.read_text()
    assert table.filled(document) == text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "90." in lines[2] and "x |" in lines[2] and "| – |" in lines[3]


def test_what_cannot_be_measured_is_one_error(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert storage.main([str(tmp_path)]) == 2
    assert "is not a Bantam artefact" in capsys.readouterr().err
    root = shutil.copytree(student, tmp_path / "float")
    content = json.loads((root / MANIFEST).read_text())
    (root / "onnx" / "model_quantized.onnx").unlink()
    seal(root, Manifest.model_validate({**content, "models": {"fp32": content["models"]["fp32"]}, "served": "fp32"}))
    assert storage.main([str(root)]) == 2
    assert "has no INT8 file" in capsys.readouterr().err


def test_openvino_runs_sparse_students_once_more_with_its_option(teacher: Path, student: Path, pruned: Path) -> None:
    how = {"device": "cpu", "threads": 1, "runtimes": RUNTIMES, "http": False}
    planned = plan.plan([student, pruned], teacher=teacher, **how)
    found = [(spec.target, spec.model) for spec in planned.specs if spec.runtime == "openvino-sparse"]
    assert found == [("pruned", "int8")]
    assert "needs AMX" in compare.without_amx(planned, {"flags": ["avx2"]})[0]
    assert compare.without_amx(planned, {"flags": ["amx_int8"]}) == []
    dense = plan.plan([student], teacher=teacher, **how)
    assert compare.without_amx(dense, {"flags": []}) == []


def test_openvino_takes_the_option_and_gives_the_same_answers(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)  # as serve.engines does, and for its reason
    openvino = pytest.importorskip("openvino")
    compile_model, seen = openvino.Core.compile_model, []

    def spy(self: object, model: object, device: str, config: dict[str, object]) -> object:
        compiled = compile_model(self, model, device, config)
        seen.append(round(compiled.get_property("CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"), 3))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    artefact = load(pruned)
    texts = ["a good film", "dull and long"]
    plain, sparse = (
        Session(artefact, model="int8", runtime=name).logits(texts) for name in ("openvino", "openvino-sparse")
    )
    assert seen == [1.0, 0.5]
    assert np.abs(plain - sparse).max() < 1e-4 * np.ptp(plain) + 1e-5
