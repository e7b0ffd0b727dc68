"""A real artefact at toy size: a random two-layer BERT with a hand-made vocabulary, exported once a run."""

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import serve  # noqa: F401  (sets the telemetry defaults before onnxruntime is imported)
from serve.artefact import Artefact, Encoder, Manifest, Model, Task, load, seal, write

WORDS = "a the movie film was is good bad fine dull great awful not very and but so it i saw ##s ##ly ##ing . , ! warm"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 24


@dataclass(frozen=True)
class Tiny:
    artefact: Artefact
    manifest: Manifest  # without files, to seal again
    torch_model: Any  # transformers' own model with the same weights
    tokenizer: Any  # transformers' own tokenizer with the same vocabulary

    def torch_logits(self, texts: Sequence[Any]) -> np.ndarray:
        """The oracle, one text at a time: no padding, no order to restore."""
        import torch

        rows = []
        for text in texts:
            # In lists, because transformers takes a lone "" for no second text at all.
            parts = ([part] for part in (text if isinstance(text, tuple) else (text,)))
            inputs = self.tokenizer(*parts, truncation="longest_first", max_length=MAX_LENGTH, return_tensors="pt")
            with torch.no_grad():
                rows.append(self.torch_model(**inputs).logits[0].numpy())
        return np.stack(rows)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(self.tokenizer(text, truncation=True, max_length=MAX_LENGTH).input_ids) for text in texts]


def build(target: Path, *, inputs: int = 1, kind: str = "classification", labels: tuple[str, ...]) -> Tiny:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(len(labels) + inputs)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_LENGTH,
        num_labels=len(labels),
        initializer_range=1.0,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config).eval()
    described = manifest(inputs=inputs, kind=kind, labels=labels)
    with write(target) as staging:
        (staging / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = BertTokenizerFast(str(staging / "vocab.txt"), model_max_length=MAX_LENGTH)
        tokenizer.backend_tokenizer.save(str(staging / "tokenizer.json"))
        config.save_pretrained(staging)
        export(model, staging / "onnx" / "model.onnx")
        (staging / "README.md").write_text("# tiny\n", encoding="utf-8")
        seal(staging, described)
    return Tiny(load(target), described, model, tokenizer)


def manifest(*, inputs: Any = 1, kind: Any = "classification", labels: tuple[str, ...] = ("NEG", "POS")) -> Manifest:
    columns = ("sentence",) if inputs == 1 else ("left", "right")
    return Manifest(
        name="Tiny Model",
        created="2026-01-01T00:00:00Z",
        task=Task(kind=kind, inputs=inputs, labels=labels, metric="accuracy", columns=columns),
        encoder=Encoder(kind="wordpiece", max_length=MAX_LENGTH, inputs=INPUTS),
        models={"fp32": Model(path="onnx/model.onnx", precision="fp32", method="export", batch=4, float_kernels=12)},
        served="fp32",
        recipe={"seed": 0, "task": {"dataset": "toy", "text": ["sentence"]}},
        teacher={"model": "none", "parameters": 1},
        metrics={"test": {"rows": 10, "fp32": {"value": 0.9, "low": 0.8, "high": 1.0}}},
        sparsity={"linear": 0.5},
    )


def export(model: Any, path: Path) -> None:
    import torch

    path.parent.mkdir()
    example = torch.ones((2, 5), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own successor
        torch.onnx.export(
            model,
            (example,) * len(INPUTS),
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in INPUTS} | {"logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Two labels, single texts. Read only: take `copy` to change anything."""
    return build(tmp_path_factory.mktemp("tiny") / "single", labels=("NEG", "POS"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Three labels, pairs of texts."""
    return build(tmp_path_factory.mktemp("tiny") / "pairs", inputs=2, labels=("no", "maybe", "yes"))


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return build(tmp_path_factory.mktemp("tiny") / "regression", kind="regression", labels=("score",))


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the single-text artefact that a test may damage."""
    return Path(shutil.copytree(tiny.artefact.root, tmp_path / "copy"))
