"""fastText's supervised classifier: the mean of the vectors of words and hashed word n-grams, then a softmax.

Joulin, Grave, Bojanowski and Mikolov, 2017, "Bag of Tricks for Efficient Text Classification", EACL 2017
(https://arxiv.org/abs/1607.01759). The library neither lower-cases nor parts words from punctuation; where `clean`
is set we do it in Python as its users must, in training and whenever it answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fasttext  # type: ignore[import-not-found]

PREFIX = "__label__"
PIECES = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


@dataclass
class Model:
    text: Any
    labels: list[str]  # fastText knows them by their places here: its own labels hold no blanks
    clean: bool


def line(text: str, clean: bool) -> str:
    """The text as fastText takes it: on one line, and lower-case pieces parted by blanks where `clean`."""
    return " ".join(PIECES.findall(text.lower())) if clean else text.replace("\n", " ")


def train(texts: list[str], labels: list[str], settings: dict[str, Any], *, seed: int, scratch: Path) -> Model:
    names = sorted(set(labels))
    places = {name: place for place, name in enumerate(names)}
    clean = settings["clean"]
    file = scratch / "train.txt"
    with file.open("w", encoding="utf-8") as lines:
        for text, label in zip(texts, labels, strict=True):
            lines.write(f"{PREFIX}{places[label]} {line(text, clean)}\n")
    model = fasttext.train_supervised(
        str(file),
        dim=settings["dim"],
        wordNgrams=settings["order"],
        lr=settings["lr"],
        epoch=settings["epochs"],
        seed=seed,
        thread=1,  # more are not reproducible
        verbose=0,
    )
    return Model(model, names, clean)


def save(model: Model, folder: Path) -> None:
    model.text.save_model(str(folder / "model.bin"))
    (folder / "labels.json").write_text(json.dumps({"labels": model.labels, "clean": model.clean}), encoding="utf-8")


def load(folder: Path) -> Model:
    told = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return Model(fasttext.load_model(str(folder / "model.bin")), told["labels"], told["clean"])


def predict(model: Model, texts: list[str]) -> list[str]:
    if len(texts) == 1:  # its own call for one text is quicker than a list of one
        found = [model.text.predict(line(texts[0], model.clean))[0]]
    else:
        found, _ = model.text.predict([line(text, model.clean) for text in texts])
    return [model.labels[int(labels[0][len(PREFIX) :])] for labels in found]
