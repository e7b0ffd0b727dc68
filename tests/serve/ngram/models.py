"""Toy models with random rows, and their artefacts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.export.ngram_onnx import to_onnx
from serve.artefact import Artefact, Encoder, Manifest, Task, load, seal, write
from serve.artefact import Model as Entry
from serve.ngram.file import Model
from serve.ngram.file import write as write_model
from serve.ngram.keys import ngram_keys, word_keys
from serve.ngram.lookup import build
from serve.ngram.words import Characters

TEXTS = (
    "The movie was good, really good!",
    "a dull film ... and it isn't even funny",
    "I don't like it",
    "great great great",
    "日本語 の 映画 ❤",
)


def model(
    table: Characters,
    texts: Sequence[str] = TEXTS,
    *,
    orders: int = 3,
    inputs: int = 1,
    labels: int = 2,
    width: int = 32,
    neurons: int = 24,
    activation: str = "tanh",
    seed: int = 0,
    **changes: Any,
) -> Model:
    """Knows the n-grams of `texts`, with rows and weights at random."""
    rng = np.random.default_rng(seed)
    lookup = build(np.unique(ngram_keys(*word_keys(texts, table), orders)[0]))
    rows = rng.integers(-127, 128, (len(lookup.keys) + 1, width), dtype=np.int8)
    rows[:-1][lookup.keys == 0] = rows[-1] = 0
    features = width * (1 if inputs == 1 else 4)
    parts: dict[str, Any] = {
        "rows": rows,
        "keys": lookup.keys,
        "tags": lookup.tags(),
        "displacement": lookup.displacement,
        "multipliers": lookup.multipliers,
        "scale": rng.uniform(0.002, 0.02, width).astype(np.float32),
        "dense_weight": rng.normal(0, 1, (neurons, features)).astype(np.float32),
        "dense_bias": rng.normal(0, 1, neurons).astype(np.float32),
        "out_weight": rng.normal(0, 1, (labels, neurons)).astype(np.float32),
        "out_bias": rng.normal(0, 1, labels).astype(np.float32),
        "characters": table,
        "orders": orders,
        "inputs": inputs,
        "activation": activation,
    }
    return Model(**{**parts, **changes})


def artefact(target: Path, made: Model, *, labels: tuple[str, ...] = ("NEG", "POS"), max_length: int = 12) -> Artefact:
    columns = ("sentence",) if made.inputs == 1 else ("left", "right")
    path = "onnx/model_quantized.onnx"
    described = Manifest(
        name="Toy N-grams",
        created="2026-01-01T00:00:00Z",
        task=Task(kind="classification", inputs=made.inputs, labels=labels, metric="accuracy", columns=columns),
        encoder=Encoder(kind="ngram", file="ngrams.safetensors", max_length=max_length),
        models={"int8": Entry(path=path, precision="int8", method="ngram", batch=4)},
        served="int8",
    )
    with write(target) as staging:
        write_model(staging / "ngrams.safetensors", made)
        (staging / "onnx").mkdir()
        to_onnx(made, staging / path)
        seal(staging, described)
    return load(target)
