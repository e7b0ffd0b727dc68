"""Tiny artefacts and data: two random BERTs in the artefact's form, a few sentences to read."""

from __future__ import annotations

import csv
import json
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

from serve.artefact import Encoder, Manifest, Model, Task, seal, write

WORDS = "a film that is good bad long short dull fine great poor with some charm and no plot".split()
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_artefact(target: Path, *, name: str, layers: int, seed: int, teacher: dict[str, Any] | None = None) -> Path:
    """A random BERT with `layers` layers; its INT8 file is onnxruntime's dynamic one."""
    model = random_bert(layers, seed)
    with write(target, force=True) as staging:
        model.save_pretrained(staging)
        tokenizer().save(str(staging / "tokenizer.json"))
        models = {"fp32": Model(path="onnx/model.onnx", precision="fp32", method="export", batch=8)}
        export(model, staging / "onnx" / "model.onnx")
        quantise(staging / "onnx" / "model.onnx", staging / "onnx" / "model_quantized.onnx")
        models["int8"] = Model(path="onnx/model_quantized.onnx", precision="int8", method="dynamic", batch=1)
        seal(
            staging,
            Manifest(
                name=name,
                created="2026-01-01T00:00:00+00:00",
                task=Task(
                    kind="classification", inputs=1, labels=("bad", "good"), metric="accuracy", columns=("sentence",)
                ),
                encoder=Encoder(kind="wordpiece", max_length=32, inputs=INPUTS),
                models=models,
                served="int8",
                recipe={"task": {"label": "label"}},
                teacher=teacher or {},
            ),
        )
    return target


def random_bert(layers: int, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
        initializer_range=0.5,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    return BertForSequenceClassification(config).eval()


def tokenizer() -> Tokenizer:
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    cutter = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    cutter.pre_tokenizer = pre_tokenizers.Whitespace()
    cutter.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return cutter


def export(model: BertForSequenceClassification, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    feeds = tuple(torch.ones(2, 5, dtype=torch.int64) for _ in INPUTS)
    axes = {name: {0: "batch", 1: "length"} for name in INPUTS} | {"logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        torch.onnx.export(
            model, feeds, str(path), input_names=list(INPUTS), output_names=["logits"], dynamic_axes=axes, dynamo=False
        )


def quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(str(source), str(target), per_channel=True)


def sentences(count: int, seed: int = 5) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(1, 20))) for _ in range(count)]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artefact(tmp_path_factory.mktemp("teacher") / "key1", name="big", layers=2, seed=1)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "small"
    return write_artefact(folder, name="small", layers=1, seed=2, teacher={"key": "key1"})


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "test.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        writer.writerows((text, ("bad", "good")[row % 2]) for row, text in enumerate(sentences(70)))
    return path


def row(target: str, runtime: str, precision: str, batch: int, rate: float, **more: Any) -> dict[str, Any]:
    """A report's row with made-up but consistent numbers."""
    return {
        "target": target,
        "runtime": runtime,
        "precision": precision,
        "device": "cpu",
        "threads": 1,
        "batch": batch,
        "clients": 1,
        "transport": "http" if "HTTP" in target else "process",
        "texts_per_second": rate,
        "texts_per_second_windows": [rate * 0.9, rate, rate * 1.1],
        "spread": {"low": rate * 0.9, "high": rate * 1.1},
        "latency_ms": {"p50": 1000 * batch / rate, "p90": 1100 * batch / rate, "p99": 1500 * batch / rate},
        "samples": 300,
        "cpu_seconds_per_text": 1 / rate,
        "cores_used": 1.0,
        "tokenise_seconds_per_text": None if "HTTP" in target else 3e-5,
        "size_bytes": 91_000_000 if precision == "fp32" else 23_000_000,
        "peak_memory_bytes": 400_000_000,
        "accuracy": {"value": 0.9, "low": 0.88, "high": 0.92},
        "agreement": {"value": 0.97, "low": 0.96, "high": 0.98},
        "speedup": rate / 100,
        "speedup_range": {"low": rate / 110, "high": rate / 90},
        **more,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    rows = [
        row(target, runtime, precision, batch, rate * (1 if batch == 1 else 1.5))
        for target, runtime, precision, rate in [
            ("teacher", "torch", "fp32", 100.0),
            ("teacher", "torch", "bf16", 150.0),
            ("teacher", "onnxruntime", "fp32", 230.0),
            ("small & <fast>", "onnxruntime", "int8", 1400.0),
            ("small & <fast> (HTTP)", "auto: bantam", "int8", 900.0),
        ]
        for batch in (1, 32)
    ]
    made: dict[str, Any] = {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "machine": {
            "cpu": "Test CPU",
            "cores": 2,
            "memory_bytes": 8 << 30,
            "os": "Linux 6",
            "python": "3.11.0",
            "flags": ["avx2"],
            "versions": {"torch": "2.13.0", "bantam": None},
            "commit": None,
        },
        "data": {"name": "test.csv", "rows": 70, "total": 70, "metric": "accuracy", "tokens_mean": 12.0},
        "settings": {"device": "cpu", "threads": 1, "batches": [1, 32], "windows": 3, "seconds": 0.5},
        "notes": ["one note"],
        "rows": rows,
    }
    return json.loads(json.dumps(made))
