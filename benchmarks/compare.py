"""From raw windows and logits to the rows of a report: every target against the reference, the first of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.data import Rows
from benchmarks.plan import Plan
from benchmarks.targets import Spec, size_bytes
from serve import measures
from serve.encoders import open_encoder

BUSY = 0.9  # of a core: a single-threaded target that got less shared it with somebody


class Cell(NamedTuple):
    """One row of the report to be."""

    spec: Spec
    batch: int
    clients: int


def rows(
    planned: Plan,
    cells: Sequence[Cell],
    measured: dict[Cell, list[measure.Window]],
    memory: dict[Spec, int | None],
    answers: dict[Spec, NDArray[Any]],
    data: Rows,
) -> list[dict[str, Any]]:
    reference = cells[0].spec
    quality = {spec: _quality(planned, spec, reference, answers, data) for spec in answers}
    return [
        {
            "target": cell.spec.target,
            "runtime": cell.spec.runtime,
            "precision": cell.spec.precision,
            "device": cell.spec.device,
            "threads": cell.spec.threads,
            "transport": cell.spec.transport,
            "batch": cell.batch,
            "clients": cell.clients,
            **measure.summary(measured[cell]),
            **speedup(measured[cell], measured[Cell(reference, cell.batch, 1)]),
            "size_bytes": size_bytes(cell.spec, planned.artefact(cell.spec)),
            "peak_memory_bytes": memory[cell.spec],
            **quality[cell.spec],
        }
        for cell in cells
    ]


def busy(table: Sequence[dict[str, Any]]) -> list[str]:
    """A note where single-threaded targets in process did not get the core they asked for."""
    shares = [row["cores_used"] for row in table if row["threads"] == 1 and row["transport"] == "process"]
    if not shares or (share := float(np.median(shares))) >= BUSY or table[0]["device"] != "cpu":
        return []
    return [
        f"the machine was busy: targets got {share:.2f} of a core on median, so rates are low and p99 is high; "
        "CPU seconds a text (cpu_speedup) are the safer numbers, or measure again on a quiet machine"
    ]


def without_amx(planned: Plan, described: dict[str, Any]) -> list[str]:
    """A note where OpenVINO's option for sparse weights is measured on a processor that it does nothing for."""
    if "amx_int8" in described["flags"] or not any(spec.runtime == "openvino-sparse" for spec in planned.specs):
        return []
    return [
        "OpenVINO's option for sparse weights needs AMX, which this processor has not: the rows of openvino-sparse are "
        "those of openvino measured once more"
    ]


def speedup(windows: Sequence[measure.Window], reference: Sequence[measure.Window]) -> dict[str, Any]:
    """Median and range of the ratios of rates within a round; the same of CPU time, which a busy machine spares."""
    pairs = list(zip(windows, reference, strict=True))
    rates = [(ours.texts / ours.wall) / (theirs.texts / theirs.wall) for ours, theirs in pairs]
    spent = [(theirs.cpu / theirs.texts) / (ours.cpu / ours.texts) for ours, theirs in pairs if ours.cpu > 0]
    return {
        "speedup": float(np.median(rates)),
        "speedup_range": {"low": min(rates), "high": max(rates)},
        "cpu_speedup": float(np.median(spent)) if spent else None,
    }


def _quality(
    planned: Plan, spec: Spec, reference: Spec, answers: dict[Spec, NDArray[Any]], data: Rows
) -> dict[str, Any]:
    task = planned.teacher.manifest.task
    try:
        return {
            "accuracy": measures.interval(task.metric, answers[spec], data.labels, texts=data.texts),
            "agreement": measures.agreement(answers[spec], answers[reference], kind=task.kind),
        }
    except ValueError as error:
        raise ValueError(f"{spec.label}: {error}") from error


def about_data(planned: Plan, rows: Rows) -> dict[str, Any]:
    task = planned.teacher.manifest.task
    lengths = open_encoder(planned.teacher).encode(rows.texts).lengths()
    return {
        "name": rows.name,
        "rows": len(rows),
        "total": rows.total,
        "empty_left_out": rows.empty,
        "metric": task.metric,
        "kind": task.kind,
        "tokens_mean": float(np.mean(lengths)),
        "tokens_p95": float(np.percentile(lengths, 95)),
    }


def about_artefacts(planned: Plan) -> list[dict[str, Any]]:
    """What was measured, without places on this machine."""
    return [
        {
            "name": one.manifest.name,
            "role": "teacher" if one is planned.teacher else "student",
            "created": one.manifest.created,
            "served": one.manifest.served,
            "recipe": one.manifest.recipe,
            "made_with": one.manifest.provenance.get("machine", {}).get("commit"),
            "models": {key: model.model_dump(mode="json") for key, model in one.manifest.models.items()},
        }
        for one in (planned.teacher, *planned.students)
    ]
