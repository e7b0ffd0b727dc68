"""The page of metrics, read back by Prometheus' own client library."""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import prometheus_client
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve import errors
from serve.batching.ticket import BatchFacts
from serve.telemetry.catalogue import ASKED, COUNTED, ERROR_TYPES, INFO, ROUTES, SECONDS, STATUSES, route_of
from serve.telemetry.metrics import SOON, Metrics

NAME = 'odd "name" \\ of a\nmodel'
spawn = multiprocessing.get_context("spawn")


def metrics(path: Path | None = None, **options: Any) -> Metrics:
    return Metrics(model=NAME, runtime="onnxruntime", version="1.2", path=path, workers=2, **options)


def samples(page: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label values but the model's): value}"""
    found = {}
    for family in text_string_to_metric_families(page.text().decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model") == NAME, sample
            key = (sample.name, *labels.values())
            assert key not in found
            found[key] = sample.value
    return found


def one_of_each(page: Metrics) -> None:
    page.answered("predict", 200, 0.0015)
    page.answered("predict", 200, 0.002)  # a bucket's edge
    page.computed(texts=3, tokens=40, truncated=1, queued=0.0, inference=0.001)
    page.computed(texts=1, tokens=9, truncated=0, queued=0.2, inference=0.3)
    page.batch(BatchFacts(tokens=49, padded_tokens=60, texts=4, seconds=0.25))
    page.answered("v2_infer", 429, 1e-5)
    page.failed(errors.Overloaded("no", reason="rate"))
    page.answered("other", 503, 99.0)
    page.failed(errors.Expired("no"))
    page.answered("embed", 418, 0.1)
    page.failed(KeyError("ours"))
    page.cancelled()
    page.queued_tokens.set(77)
    page.waiting.set(3)
    page.in_progress.add(2)
    page.in_progress.add(-1)


def test_every_figure_is_what_happened() -> None:
    page = metrics()
    one_of_each(page)
    found = samples(page)
    expected = {
        ("bantam_requests_total", "predict", "200"): 2,
        ("bantam_requests_total", "v2_infer", "429"): 1,
        ("bantam_requests_total", "other", "503"): 1,
        ("bantam_requests_total", "embed", "other"): 1,
        ("bantam_errors_total", "Overloaded"): 1,
        ("bantam_errors_total", "Timeout"): 1,
        ("bantam_errors_total", "Backend"): 1,
        ("bantam_errors_total", "Validation"): 0,
        ("bantam_shed_total", "rate"): 1,
        ("bantam_shed_total", "queue"): 0,
        ("bantam_shed_total", "concurrency"): 0,
        ("bantam_expired_total",): 1,
        ("bantam_cancelled_total",): 1,
        ("bantam_texts_total",): 4,
        ("bantam_tokens_total",): 49,
        ("bantam_truncated_texts_total",): 1,
        ("bantam_padded_tokens_total",): 60,
        ("bantam_model_seconds_total",): 0.25,
        ("bantam_request_texts_count",): 2,
        ("bantam_request_texts_sum",): 4,
        ("bantam_queue_seconds_sum",): 0.2,
        ("bantam_inference_seconds_sum",): 0.301,
        ("bantam_batch_tokens_sum",): 49,
        ("bantam_batch_texts_bucket", "2.0"): 0,
        ("bantam_batch_texts_bucket", "4.0"): 1,
        ("bantam_queued_tokens",): 77,
        ("bantam_waiting_requests",): 3,
        ("bantam_requests_in_progress",): 1,
        ("bantam_request_seconds_bucket", "other", "30.0"): 0,
        ("bantam_request_seconds_bucket", "other", "+Inf"): 1,
        ("bantam_info", "onnxruntime", "1.2"): 1,
        ("bantam_workers",): 1,
    }
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    assert ("bantam_requests_total", "predict", "404") not in found  # a series of many begins with its first count


def test_buckets_are_those_of_the_client_library() -> None:
    registry = prometheus_client.CollectorRegistry()
    oracle = prometheus_client.Histogram("bantam_queue_seconds", "x", buckets=SECONDS, registry=registry)
    page = metrics()
    for value in (0.0, 5e-5, 5.1e-5, 0.1, 0.2, 29.0, 30.0, 31.0):
        oracle.observe(value)
        page.computed(texts=1, tokens=1, truncated=0, queued=value, inference=0.0)
    expected = {}
    for family in text_string_to_metric_families(prometheus_client.generate_latest(registry).decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                expected[sample.name, *sample.labels.values()] = sample.value
    found = samples(page)
    assert len(expected) == len(SECONDS) + 3
    assert {key: found.get(key) for key in expected} == expected


def test_every_metric_has_its_type_and_its_help() -> None:
    families = {family.name: family for family in text_string_to_metric_families(metrics().text().decode())}
    catalogue = (INFO, *COUNTED, *ASKED)
    assert len(families) == len(catalogue) == 24
    for metric in catalogue:
        family = families[metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_every_error_of_the_tree_has_its_type_and_status() -> None:
    def tree(kind: type[errors.BantamError]) -> Iterator[type[errors.BantamError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from tree(below)

    found = list(tree(errors.BantamError))
    assert len(found) >= 16
    assert {kind.error_type for kind in found} <= set(ERROR_TYPES)
    assert {str(kind.status) for kind in found} <= set(STATUSES)


def test_paths_fall_into_few_groups() -> None:
    paths = (
        "/predict /embed /rerank /similarity /tokenize /v1/embeddings /classify /v2/models/m/versions/1/infer".split()
    )
    assert [route_of(path) for path in paths] == list(ROUTES[:-1])
    assert {route_of(path) for path in ("/", "/x", "/v2/infer", "/other", "/predict/", "/v1_embeddings/")} == {"other"}


def test_process_figures_are_the_systems() -> None:
    before = time.process_time()
    found = samples(metrics())
    assert before <= found["process_cpu_seconds_total",] <= time.process_time()
    assert found["process_resident_memory_bytes",] == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert found["process_start_time_seconds",] == pytest.approx(time.time(), abs=60)


def work(path: Path, rounds: int) -> None:
    page = metrics(path)
    for _ in range(rounds):
        one_of_each(page)
    signal.pause()


@pytest.fixture
def workers() -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def test_workers_are_one_service_and_a_killed_ones_counts_stay(tmp_path: Path, workers: list[BaseProcess]) -> None:
    rounds = 300
    page = metrics(tmp_path / "counters", claim=False)

    def begin() -> None:
        workers.append(spawn.Process(target=work, args=(tmp_path / "counters", rounds), daemon=True))
        workers[-1].start()

    def wait(done: int) -> dict[tuple[str, ...], float]:
        for _ in range(2_000):
            found = samples(page)
            if found["bantam_requests_in_progress",] >= rounds and found["bantam_cancelled_total",] == done * rounds:
                return found
            time.sleep(0.005)
        raise AssertionError(found)

    begin()
    begin()
    first = wait(2)
    assert first["bantam_workers",] == 2
    os.kill(workers[0].pid or 0, signal.SIGKILL)
    workers[0].join()
    between = samples(page)
    assert (between["bantam_workers",], between["bantam_queued_tokens",]) == (1, 77)
    begin()
    last = wait(3)
    assert (last["bantam_workers",], last["bantam_queued_tokens",]) == (2, 154)
    assert last["bantam_requests_total", "predict", "200"] == 2 * 3 * rounds
    assert last["bantam_request_seconds_bucket", "other", "+Inf"] == 3 * rounds
    assert last["process_cpu_seconds_total",] >= first["process_cpu_seconds_total",]


def test_under_an_event_loop_counts_are_written_together_a_moment_later(tmp_path: Path) -> None:
    """Whoever reads this worker's page sees all of them; others' pages, and what a kill leaves, lag by that moment."""
    own = metrics(tmp_path / "counters")
    other = metrics(tmp_path / "counters", claim=False)
    total = ("bantam_requests_total", "predict", "200")
    seconds = [0.0001 * number for number in range(300)]

    async def scenario() -> list[float]:
        found = []
        for value in seconds[:100]:
            own.answered("predict", 200, value)
            own.computed(texts=2, tokens=5, truncated=0, queued=0.0, inference=value)
            own.straight(tokens=5, texts=2, seconds=value)
        found.append(samples(other).get(total, 0.0))
        await asyncio.sleep(2 * SOON)
        found.append(samples(other)[total])
        for value in seconds[100:]:
            own.answered("predict", 200, value)
        found.append(samples(own)[total])
        return found

    assert asyncio.run(scenario()) == [0.0, 100.0, 300.0]
    found = samples(other)
    assert found[("bantam_request_seconds_sum", "predict")] == pytest.approx(sum(seconds))
    below = [found[("bantam_request_seconds_bucket", "predict", repr(bound))] for bound in SECONDS]
    assert below == [sum(value <= bound for value in seconds) for bound in SECONDS]
    assert found[("bantam_texts_total",)] == 200 and found[("bantam_batch_tokens_sum",)] == 500
