"""Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from serve.telemetry.counters import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(metrics: Iterable[Metric], sums: Mapping[str, NDArray[np.float64]], common: Mapping[str, str]) -> bytes:
    """`sums` as `Counters.sums` gives them; the `common` labels stand on every line."""
    return "".join(line for metric in metrics for line in _lines(metric, sums[metric.name], common)).encode()


def _lines(metric: Metric, values: NDArray[np.float64], common: Mapping[str, str]) -> Iterator[str]:
    yield f"# HELP {metric.name} {_escape_help(metric.help)}\n"
    yield f"# TYPE {metric.name} {metric.kind}\n"
    names = [name for name, _ in metric.labels]
    for row, series in zip(values.tolist(), metric.series, strict=True):
        labels = {**common, **dict(zip(names, series, strict=True))}
        if metric.sparse and not any(row):
            continue
        if metric.kind == "histogram":
            yield from _histogram(metric, row, labels)
        else:
            yield f"{metric.name}{_braces(labels)} {row[0]!r}\n"


def _histogram(metric: Metric, row: list[float], labels: Mapping[str, str]) -> Iterator[str]:
    *counts, total = row
    below = 0.0
    for bound, count in zip((*map(float, metric.buckets), None), counts, strict=True):
        below += count
        edge = "+Inf" if bound is None else repr(bound)
        yield f"{metric.name}_bucket{_braces({**labels, 'le': edge})} {below!r}\n"
    yield f"{metric.name}_sum{_braces(labels)} {total!r}\n"
    yield f"{metric.name}_count{_braces(labels)} {below!r}\n"


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return _escape_help(value).replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
