"""tf-idf of word n-grams and logistic regression, as scikit-learn has them.

x_v = (1 + ln tf) (ln((1 + n) / (1 + df)) + 1), rows of length 1, then logistic regression whose strength is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

FILE = "model.joblib"


def train(texts: list[str], labels: list[str], settings: dict[str, Any], *, seed: int, scratch: Path) -> Any:
    two = len(set(labels)) == 2
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, settings["order"]), min_df=settings["min_df"], sublinear_tf=True),
        # liblinear is the quicker one, but knows two classes only.
        LogisticRegression(C=settings["C"], solver="liblinear" if two else "lbfgs", max_iter=1000, random_state=seed),
    )
    return model.fit(texts, labels)


def save(model: Any, folder: Path) -> None:
    joblib.dump(model, folder / FILE)


def load(folder: Path) -> Any:
    return joblib.load(folder / FILE)


def predict(model: Any, texts: list[str]) -> list[str]:
    found: list[str] = model.predict(texts).tolist()
    return found
