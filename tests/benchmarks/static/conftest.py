"""A toy task, and a peer that counts words: small enough to know all its answers by hand."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import pytest

from benchmarks.static import run
from benchmarks.static.peers import Peer

GOOD, BAD = "fine great charming warm".split(), "dull poor long flat".split()
COUNTING = """
import json

def train(texts, labels, settings, *, seed, scratch):
    if settings.get("fails"):
        raise ValueError("no such setting")
    assert scratch.is_dir()
    seen = {}
    for text, label in zip(texts, labels):
        for word in text.split():
            seen.setdefault(word, {}).setdefault(label, 0)
            seen[word][label] += 1
    words = {word: max(sorted(found), key=found.get) for word, found in seen.items()}
    return {"words": words if settings["looks"] else {}, "labels": sorted(set(labels)), "first": texts[0], "seed": seed}

def save(model, folder):
    (folder / "model.json").write_text(json.dumps(model))

def load(folder):
    return json.loads((folder / "model.json").read_text())

def predict(model, texts):
    print("libraries may print")
    answers = []
    for text in texts:
        votes = [model["words"][word] for word in text.split() if word in model["words"]]
        answers.append(max(model["labels"], key=votes.count))
    return answers
"""


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts whose words all say the label, sorted by it, as some files lie."""
    draw = random.Random(seed)
    labels = ["bad"] * (count // 2) + ["good"] * (count - count // 2)
    return [(" ".join(draw.choices(GOOD if label == "good" else BAD, k=8)), label) for label in labels]


def write(path: Path, lines: list[tuple[str, str]], columns: tuple[str, str] = ("sentence", "mood")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *lines])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "toy"
    root.mkdir()
    for seed, (split, count) in enumerate({"train": 60, "validation": 10, "test": 20}.items()):
        write(root / f"{split}.csv", rows(count, seed))
    return root


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """In the environment of the tests; its first setting sees nothing and answers "bad"."""
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "counting.txt").write_text("")
    monkeypatch.setattr(run, "prepare", lambda name, requirements: Path(sys.executable).parent)
    grid = ({"looks": False}, {"looks": True}, {"looks": True, "again": 1})
    return Peer("counting-1gram", "counting", grid, ("numpy",), folder=tmp_path)
