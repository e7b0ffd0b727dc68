"""INT8 files of random networks of every family, as an artefact holds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from compress.export import calibrate, qdq
from compress.export.int8 import CANDIDATES, Source
from compress.export.onnx import to_onnx

VOCABULARY, LENGTH = 1200, 24  # above compress.export.graph.TABLE_ROWS, so that the table of words is INT8
SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2}
DISTILBERT = {"dim": 64, "n_heads": 4, "hidden_dim": 128, "n_layers": 2}


CLASSES = {"texts": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification, "none": AutoModel}


class Sentence(nn.Module):
    """An encoder and what is made of its last layer: "all" tokens, the "first", the "mean", the largest ("max")."""

    def __init__(self, model: Any, reads: str, unit: bool) -> None:
        super().__init__()
        self.model, self.reads, self.unit = model, reads, unit

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        if self.reads == "mean":
            mask = attention_mask.unsqueeze(-1).expand(hidden.size()).float()
            hidden = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        elif self.reads == "unmasked mean":
            hidden = hidden.mean(1)
        elif self.reads == "max":
            hidden = hidden.amax(1)
        elif self.reads != "all":
            hidden = hidden[:, int(self.reads == "second")]
        return nn.functional.normalize(hidden, p=2, dim=-1) if self.unit else hidden


def tiny(family: str, head: str = "texts", **options: Any) -> Any:
    torch.manual_seed(0)
    shape = DISTILBERT if family == "distilbert" else SHAPE
    offset = 2 if family in ("camembert", "roberta", "xlm-roberta") else 0
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH + offset,
        num_labels=3,
        initializer_range=0.1,
        **{**shape, **options},
    )
    model = CLASSES[head].from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.2)
    return model


def make(folder: Path, family: str, way: str, change: Callable[[Any], None] | None = None, **options: Any) -> Path:
    """Writes a family's INT8 file and config.json to the folder, and returns the file."""
    model = tiny(family, **options)
    if change:
        change(model)
    inputs = ("input_ids", "attention_mask", "token_type_ids")[: 3 if family in ("bert", "electra") else 2]
    (folder / "onnx").mkdir()
    fp32 = to_onnx(model, folder / "onnx" / "model.onnx", inputs=inputs)
    rng = np.random.default_rng(0)
    feeds = [feed(rng.integers(5, VOCABULARY, n), inputs) for n in rng.integers(2, LENGTH + 1, 40)]
    target = folder / "onnx" / "model_quantized.onnx"
    CANDIDATES[way](Source(model, fp32, feeds, "classification"), target)
    model.config.save_pretrained(folder)
    return target


def make_headed(folder: Path, family: str, way: str, head: str, reads: str = "all", unit: bool = False) -> Path:
    """The same with another head than a classifier's of texts: "tokens", or "none" and what is read of the encoder."""
    options = {"embedding_size": SHAPE["hidden_size"]} if family == "electra" else {}
    model = tiny(family, head, **options)
    for name, weight in model.named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            weight.data.uniform_(0.5, 1.5)
    inputs = ("input_ids", "attention_mask", "token_type_ids")[: 3 if family in ("bert", "electra") else 2]
    (folder / "onnx").mkdir()
    whole = model if head == "tokens" else Sentence(model, reads, unit)
    fp32 = to_onnx(whole, folder / "onnx" / "model.onnx", inputs=inputs)
    target = folder / "onnx" / "model_quantized.onnx"
    rng = np.random.default_rng(0)
    feeds = [feed(rng.integers(5, VOCABULARY, n), inputs) for n in rng.integers(2, LENGTH + 1, 40)]
    if way == "static":
        qdq.write(fp32, target, calibrate.grids(calibrate.observe(fp32, feeds), "minmax"))
    else:
        CANDIDATES[way](Source(model, fp32, feeds, "classification"), target)
    model.config.save_pretrained(folder)
    return target


def feed(row: np.ndarray, inputs: tuple[str, ...], types: np.ndarray | None = None) -> dict[str, np.ndarray]:
    types = np.zeros_like(row) if types is None else types
    known = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": types}
    return {name: known[name][None] for name in inputs}
