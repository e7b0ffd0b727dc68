"""A toy task and a toy teacher: everything `bantam compress` needs, made from nothing in a second."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    DistilBertTokenizerFast,
)

GOOD = "fine great lovely warm bright clever moving rich".split()
BAD = "dull poor bad stale flat cheap noisy weak".split()
OTHER = "the a film plot cast was and but very so quite it had with in of scene music".split()
MAX_LENGTH = 16
MINIMAL = {  # as a recipe: what must be there, and no more
    "task": {"dataset": "reviews.csv"},
    "teacher": {"model": "encoder"},
    "student": "truncated",
    "stages": [{"techniques": ["supervised", {"use": "distil/logits", "temperature": 4}]}],
}


def tiny_bert(*, layers: int, width: int, seed: int, vocabulary: int = 64, labels: int = 2) -> Any:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=0.2,  # at width 16 the usual 0.02 gives every text the same answer
            num_labels=labels,
        )
    )


@pytest.fixture
def teacher() -> Any:
    return tiny_bert(layers=4, width=16, seed=1).eval()


@pytest.fixture
def student() -> Any:
    return tiny_bert(layers=2, width=16, seed=2)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four texts of 12 pieces, every second one padded from the tenth on."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 64, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 2, "rows": torch.arange(4)}


def sentence(rng: random.Random, positive: bool, *, most: int = 8) -> str:
    words = rng.choices(OTHER, k=rng.randint(2, most)) + rng.choices(GOOD if positive else BAD, k=2)
    rng.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `reviews.csv` (text, label: bad or good) and `encoder/`, a BERT without a head."""
    folder = tmp_path_factory.mktemp("toy")
    rng = random.Random(0)
    rows = [f"{sentence(rng, good)},{'good' if good else 'bad'}" for good in (True, False) for _ in range(120)]
    rng.shuffle(rows)
    (folder / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    vocabulary = folder / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER]
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(vocabulary), model_max_length=MAX_LENGTH).save_pretrained(folder / "encoder")
    tiny_bert(layers=4, width=16, seed=0, vocabulary=len(words)).bert.save_pretrained(folder / "encoder")
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 60 questions with five candidates each (question, answer, label), of which one or two are right."""
    path, rng = tmp_path_factory.mktemp("questions") / "questions.csv", random.Random(2)
    rows = ["question,answer,label"]
    for pair in rng.sample(list(itertools.combinations(OTHER, 2)), 60):
        right = rng.randint(1, 2)
        answers = [(sentence(rng, at < right, most=4), int(at < right)) for at in range(5)]
        rng.shuffle(answers)
        rows += [f"{' '.join(pair)},{answer},{label}" for answer, label in answers]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def others(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two teachers more, as recipes: the toy's with another seed, and one of another family with words of its own."""
    folder = tmp_path_factory.mktemp("others") / "distilbert"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed([*GOOD, *BAD, *OTHER])]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    DistilBertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_LENGTH).save_pretrained(folder)
    torch.manual_seed(3)
    shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.2}
    config = DistilBertConfig(vocab_size=len(words), max_position_embeddings=MAX_LENGTH, **shape)
    DistilBertModel(config).save_pretrained(folder)
    training = {"epochs": 8, "lr": 0.003, "batch_size": 16, "evaluations": 1}
    return [{"model": str(toy / "encoder"), "seed": 5, **training}, {"model": str(folder), **training}]


@pytest.fixture(scope="session")
def toy_settings(toy: Path) -> list[str]:
    """What `--set` takes to run any recipe on the toy task with the toy teacher."""
    return [
        f"task.dataset={toy / 'reviews.csv'}",
        "task.text=[text]",
        "task.label=label",
        "task.selection=null",
        f"task.max_length={MAX_LENGTH}",
        f"teacher.model={toy / 'encoder'}",
        "teacher.epochs=8",
        "teacher.lr=0.003",
        "teacher.batch_size=16",
        "teacher.evaluations=2",
        "student.layers=[1, 3]",
        "export.calibration=32",
    ]
