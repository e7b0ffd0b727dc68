"""The model that every peer serves: the same ONNX file, tokenizer, grouping and session options as ours.

Run in the peers' own environments, so it imports nothing of this project; save for n-grams, which no peer and no ONNX
runtime has at their speed: these go through our own `serve.runtime.Session` in every server.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import onnxruntime as ort
from tokenizers import Tokenizer

Answer = dict[str, Any]  # {"label": str, "score": float}


def open_model(folder: str | Path) -> Callable[[list[str]], list[Answer]]:
    """Texts to the best label of each and its probability. `folder` is what `benchmarks.peers.bundle` wrote."""
    about = json.loads((Path(folder) / "peer.json").read_text(encoding="utf-8"))
    return NGrams(about) if "artefact" in about else Model(folder)


class NGrams:
    def __init__(self, about: dict[str, str]) -> None:
        sys.path.append(about["source"])
        from serve.runtime import Session

        self.session = Session(about["artefact"])

    def __call__(self, texts: list[str]) -> list[Answer]:
        scores = self.session.predict(texts).scores
        best = scores.argmax(axis=1).tolist()
        labels = self.session.labels
        return [{"label": labels[at], "score": float(row[at])} for at, row in zip(best, scores, strict=True)]


class Model:
    """Texts to the best label of each and its probability; safe to call from several threads at once.

    `folder` is what `benchmarks.peers.bundle` wrote.
    """

    def __init__(self, folder: str | Path) -> None:
        self.about = json.loads((Path(folder) / "peer.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.about["max_length"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(folder) / "model_quantized.onnx"
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, texts: list[str]) -> list[Answer]:
        """In runs of texts of like length, as many as is best for the file: padding is work thrown away."""
        rows = self.tokenizer.encode_batch_fast(texts)
        order = sorted(range(len(rows)), key=lambda at: len(rows[at].ids))
        answers: list[Answer] = [{}] * len(rows)
        for first in range(0, len(order), self.about["group"]):
            group = order[first : first + self.about["group"]]
            scores = softmax(self.session.run(None, self._feeds([rows[at] for at in group]))[0])
            for at, row in zip(group, scores, strict=True):
                best = int(row.argmax())
                answers[at] = {"label": self.about["labels"][best], "score": float(row[best])}
        return answers

    def _feeds(self, rows: list[Any]) -> dict[str, Any]:
        shape = (len(rows), max(len(row.ids) for row in rows))
        found = {"input_ids": np.full(shape, self.about["pad_id"], dtype=np.int64)}
        found |= {name: np.zeros(shape, dtype=np.int64) for name in ("attention_mask", "token_type_ids")}
        for at, row in enumerate(rows):
            length = len(row.ids)
            found["input_ids"][at, :length] = row.ids
            found["attention_mask"][at, :length] = 1
            found["token_type_ids"][at, :length] = row.type_ids
        return {name: found[name] for name in self.about["inputs"]}


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
