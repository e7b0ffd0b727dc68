"""Which targets a run has, and whether they can be compared at all. Nothing is measured here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.targets import Spec
from serve import cache
from serve.artefact import Artefact, load
from serve.engines import AUTO, SPARSE

HTTP = " (HTTP)"


@dataclass(frozen=True)
class Plan:
    teacher: Artefact
    students: tuple[Artefact, ...]
    specs: tuple[Spec, ...]  # the first is the reference: the teacher in torch fp32, or the best that `device` has

    def artefact(self, spec: Spec) -> Artefact:
        return next(one for one in (self.teacher, *self.students) if str(one.root) == spec.root)


def plan(
    artefacts: Sequence[Path], *, teacher: Path | None, device: str, threads: int, runtimes: Sequence[str], http: bool
) -> Plan:
    """Every artefact verified, the teacher found, one spec a target."""
    if not artefacts:
        raise ValueError("bench needs at least one artefact: bantam bench ARTEFACT")
    loaded = [load(path) for path in dict.fromkeys(Path(path).resolve() for path in artefacts)]
    big = load(find_teacher(loaded) if teacher is None else Path(teacher).resolve())
    students = tuple(one for one in loaded if one.root.resolve() != big.root.resolve())
    for student in students:
        _comparable(big, student)
    if "torch" in runtimes:
        _whole(big)
    specs = _teacher_specs(big, device, threads, runtimes)
    for name, student in zip(_names(students), students, strict=True):
        specs += _student_specs(name, student, device, threads, runtimes)
        if http and device == "cpu":
            served = student.manifest.served
            precision = student.manifest.models[served].precision
            spec = _spec(name + HTTP, student, AUTO, precision, served, device, threads)
            specs.append(replace(spec, transport="http"))
    return Plan(big, students, tuple(specs))


def find_teacher(students: Sequence[Artefact]) -> Path:
    """The cached teacher whose key the students' manifests name."""
    keys = {str(student.manifest.teacher.get("key", "")) for student in students}
    if len(keys) > 1:
        raise ValueError("the artefacts have different teachers: pass the one to compare with as --teacher DIR")
    (key,) = keys
    if not key:
        raise ValueError("the artefact's manifest names no teacher: pass one as --teacher DIR")
    if Path(key).name != key:
        raise ValueError(f"the artefact's manifest names a teacher by {key!r}, which is not a plain name")
    folder = cache.folder() / "teachers" / key
    if not folder.is_dir():
        raise ValueError(f"the teacher {key} is not in the cache ({folder}): pass it as --teacher DIR")
    return folder


def _whole(teacher: Artefact) -> None:
    """ValueError for a teacher that transformers alone does not know, or would fill up with random weights."""
    path = teacher.root / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if config.get("model_type") == "cerberus":
        raise ValueError(
            f"{teacher.manifest.name} has several heads, and torch rows need a model that transformers can load: pass "
            "one of its own teachers as --teacher DIR"
        )
    if "bantam_widths" in config:
        raise ValueError(
            f"{teacher.manifest.name} was cut to fewer heads or neurons, and torch rows need a model that transformers "
            "can load: pass the teacher that it was cut from as --teacher DIR"
        )


def _comparable(teacher: Artefact, student: Artefact) -> None:
    ours, theirs = student.manifest.task, teacher.manifest.task
    if (ours.kind, ours.inputs, set(ours.labels)) != (theirs.kind, theirs.inputs, set(theirs.labels)):
        raise ValueError(
            f"{student.manifest.name} does not answer its teacher's question: it has {ours.inputs} text(s) -> "
            f"{', '.join(ours.labels)}, the teacher {theirs.inputs} text(s) -> {', '.join(theirs.labels)}"
        )
    if ours.labels != theirs.labels:
        raise ValueError(f"{student.manifest.name} has its teacher's labels in another order: {', '.join(ours.labels)}")


def _names(students: Sequence[Artefact]) -> list[str]:
    """Each student's own name; the folder's where two share one, then a number."""
    own = [student.manifest.name for student in students]
    taken = Counter([*own, "teacher"])
    names = [name if taken[name] == 1 else one.root.name for name, one in zip(own, students, strict=True)]
    taken = Counter([*names, "teacher"])
    return [name if taken[name] == 1 else f"{name} {number}" for number, name in enumerate(names, start=1)]


def _teacher_specs(teacher: Artefact, device: str, threads: int, runtimes: Sequence[str]) -> list[Spec]:
    chosen = [("torch", "fp32", ""), ("torch", "bf16", ""), *_session_specs(teacher, device, with_openvino_fp32=True)]
    return [_spec("teacher", teacher, *one, device, threads) for one in chosen if one[0] in runtimes]


def _student_specs(name: str, student: Artefact, device: str, threads: int, runtimes: Sequence[str]) -> list[Spec]:
    chosen = _session_specs(student, device, with_openvino_fp32=False)
    return [_spec(name, student, *one, device, threads) for one in chosen if one[0] in runtimes]


def _session_specs(artefact: Artefact, device: str, *, with_openvino_fp32: bool) -> list[tuple[str, str, str]]:
    """Runtime, precision and model key. INT8 files are for CPUs: on CUDA their integer nodes would run on the host.

    OpenVINO gets the static file where there is one: it has no fast path for onnxruntime's dynamic INT8. Where half
    of the weights are zero it runs once more, with its option for sparse weights.
    """
    models = artefact.manifest.models
    chosen = [("onnxruntime", "fp32", "fp32")] if "fp32" in models else []
    if device == "cpu" and "int8" in models:
        static = "int8-static" if "int8-static" in models else "int8"
        chosen += [("bantam", "int8", "int8"), ("onnxruntime", "int8", "int8")]
        if artefact.manifest.encoder.kind == "ngram":  # OpenVINO has no numbers of 64 bits, as keys are
            return chosen
        chosen += [("openvino", "int8", static)]
        if max(artefact.manifest.sparsity.values(), default=0) >= SPARSE:
            chosen += [("openvino-sparse", "int8", static)]
    if with_openvino_fp32 and "fp32" in models and device == "cpu":
        chosen += [("openvino", "fp32", "fp32")]
    return chosen


def _spec(target: str, artefact: Artefact, runtime: str, precision: str, model: str, device: str, threads: int) -> Spec:
    return Spec(target, str(artefact.root), runtime, precision, device, threads, model)
