"""Which targets there are, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import plan, targets
from benchmarks.run import _cells, _text_sets, _width
from serve.artefact import load, seal

ALL = ("torch", "onnxruntime", "openvino")


def planned(artefacts: list[Path], teacher: Path | None, *, device: str = "cpu") -> plan.Plan:
    return plan.plan(artefacts, teacher=teacher, device=device, threads=1, runtimes=ALL, http=True)


def test_targets_are_the_teacher_in_every_runtime_and_each_students_files(teacher: Path, student: Path) -> None:
    specs = planned([student], teacher).specs
    assert [(spec.target, spec.runtime, spec.precision) for spec in specs] == [
        ("teacher", "torch", "fp32"),
        ("teacher", "torch", "bf16"),
        ("teacher", "onnxruntime", "fp32"),
        ("teacher", "onnxruntime", "int8"),
        ("teacher", "openvino", "int8"),
        ("teacher", "openvino", "fp32"),
        ("small", "onnxruntime", "fp32"),
        ("small", "onnxruntime", "int8"),
        ("small", "openvino", "int8"),
        ("small (HTTP)", "auto", "int8"),
    ]


def test_cuda_has_float_targets_in_process_only(teacher: Path, student: Path) -> None:
    specs = planned([student], teacher, device="cuda").specs
    assert {(spec.runtime, spec.precision, spec.transport) for spec in specs} == {
        ("torch", "fp32", "process"),
        ("torch", "bf16", "process"),
        ("onnxruntime", "fp32", "process"),
    }


def test_the_teacher_is_found_in_the_cache_by_its_key(
    teacher: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="key1 is not in the cache"):
        planned([student], None)
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "key1").symlink_to(teacher)
    assert planned([student], None).teacher.manifest.name == "big"
    with pytest.raises(ValueError, match="names no teacher"):
        planned([teacher], None)


def test_a_teacher_among_the_artefacts_is_not_its_own_student(teacher: Path, student: Path) -> None:
    assert [one.manifest.name for one in planned([teacher, student, student], teacher).students] == ["small"]


def test_artefacts_of_one_name_are_told_apart(teacher: Path, student: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(student, other)
    names = {spec.target for spec in planned([student, other], teacher).specs if spec.transport == "process"}
    assert names == {"teacher", "small", "other"}


def test_a_damaged_or_missing_artefact_is_one_error_that_names_the_file(
    teacher: Path, student: Path, tmp_path: Path
) -> None:
    import shutil

    with pytest.raises(ValueError, match="at least one artefact"):
        planned([], teacher)
    with pytest.raises(ValueError, match="none"):
        planned([tmp_path / "none"], teacher)
    shutil.copytree(student, tmp_path / "copy")
    with (tmp_path / "copy" / "onnx" / "model.onnx").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\2\3")
    with pytest.raises(ValueError, match=r"model\.onnx"):
        planned([tmp_path / "copy"], teacher)


def test_artefacts_that_answer_other_questions_cannot_be_compared(teacher: Path, student: Path) -> None:
    big, small = load(teacher), load(student)
    for labels, message in ((("good", "bad"), "another order"), (("good", "ugly"), "its teacher's question")):
        task = small.manifest.task.model_copy(update={"labels": labels})
        changed = type(small)(small.root, small.manifest.model_copy(update={"task": task}))
        with pytest.raises(ValueError, match=message):
            plan._comparable(big, changed)


def test_a_teacher_that_was_cut_is_refused_for_torch(teacher: Path, student: Path, tmp_path: Path) -> None:
    """transformers alone would build full widths and draw what the file does not hold."""
    cut = shutil.copytree(teacher, tmp_path / "cut")
    config = json.loads((cut / "config.json").read_text(encoding="utf-8"))
    (cut / "config.json").write_text(json.dumps(config | {"bantam_widths": [[1, 8]]}), encoding="utf-8")
    seal(cut, load(teacher).manifest)
    with pytest.raises(ValueError, match="was cut to fewer heads .* pass the teacher that it was cut from"):
        planned([student], cut)
    only = plan.plan([student], teacher=cut, device="cpu", threads=1, runtimes=["onnxruntime"], http=False)
    assert {spec.runtime for spec in only.specs} == {"onnxruntime"}


def test_a_teacher_with_several_heads_is_refused_for_torch(teacher: Path, student: Path, tmp_path: Path) -> None:
    several = shutil.copytree(teacher, tmp_path / "several")
    (several / "config.json").write_text(json.dumps({"model_type": "cerberus"}), encoding="utf-8")
    seal(several, load(teacher).manifest)
    with pytest.raises(ValueError, match="has several heads"):
        planned([student], several)


def test_a_device_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=r"(?s)cuda finds nothing to run on.*CPUExecutionProvider.*--device cpu"):
        targets.available("cuda")
    with pytest.raises(ValueError, match="device must be"):
        targets.available("tpu")


def test_sizes_are_of_all_files_that_a_target_needs(teacher: Path) -> None:
    artefact = load(teacher)
    torch_spec, _, ort_spec, *_ = planned([teacher], teacher).specs
    parts = ("model.safetensors", "config.json", "tokenizer.json")
    assert targets.size_bytes(torch_spec, artefact) == sum((teacher / part).stat().st_size for part in parts)
    expected = [(teacher / part).stat().st_size for part in ("onnx/model.onnx", "tokenizer.json", "manifest.json")]
    assert targets.size_bytes(ort_spec, artefact) == sum(expected)


def test_windows_walk_through_the_data_in_arrival_order_without_repeats() -> None:
    sets = _text_sets(100, 40, 3, seed=0)
    assert all(rows == sorted(set(rows)) and len(rows) == 40 for rows in sets)
    assert len({row for rows in sets for row in rows}) == 100


@pytest.mark.parametrize(
    ("total", "batch", "wanted", "width"),
    [(1000, 32, 100.0, 96), (1000, 32, 1.0, 64), (5000, 32, 1e9, 1024), (70, 32, 1e9, 64), (40, 32, 100.0, 32)],
)
def test_a_window_is_whole_batches_of_about_the_slowest_targets_work(
    total: int, batch: int, wanted: float, width: int
) -> None:
    assert _width(total, batch, wanted) == width


def test_every_target_is_timed_at_every_batch_and_services_also_by_many_clients(teacher: Path, student: Path) -> None:
    specs = planned([student], teacher).specs
    cells = _cells(specs, (1, 32), 8)
    assert len(cells) == len(set(cells)) == 2 * len(specs) + 1
    assert [(cell.spec.target, cell.batch) for cell in cells if cell.clients == 8] == [("small (HTTP)", 1)]
