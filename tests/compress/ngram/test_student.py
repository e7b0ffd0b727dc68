"""The n-gram student from a recipe to its answers, and how it reads texts in training."""

import random
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from compress.answers import read
from compress.catalogue import TECHNIQUES
from compress.data.load import Data, Examples
from compress.export.ngram import quantised
from compress.ngram.reading import Reading
from compress.pipeline import compress, walk_through
from compress.recipe import Recipe, StageRecipe
from compress.source import Source
from compress.students.ngram import NGram
from serve import artefact, cache
from serve.ngram.file import read as read_model
from serve.ngram.keys import word_key
from serve.ngram.plain import Plain
from serve.ngram.words import characters, words
from serve.runtime import Session
from tests.compress.conftest import sentence

TABLE = characters()
TEXTS = ["a fine moving film", "dull and flat plot", "it was the cast of a warm scene and rich music", ""]
SMALL = [
    "student.rows=400",
    "student.width=16",
    "student.orders=2",
    "student.least=1",
    "stages.0.batch_size=32",
    "stages.0.lr=0.02",
    "stages.1.epochs=1",
]


def source(texts: list[Any], *, seed: int = 0) -> Source:
    labels = np.arange(len(texts)) % 2
    columns = ("one", "two")[: 2 if isinstance(texts[0], tuple) else 1]
    examples = Examples(texts, labels)
    data = Data("classification", ("bad", "good"), columns, "accuracy", examples, examples, {}, (), "")
    return Source(lambda: pytest.fail("no model is cut"), None, data, seed=seed)


def student(texts: list[Any], **fields: Any) -> tuple[Any, Reading]:
    model, reading = NGram(**{"rows": 500, "width": 16, "orders": 3, "least": 1, **fields}).begin(source(texts))
    assert isinstance(reading, Reading)
    return model, reading


def drawn(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [sentence(rng, rng.random() < 0.5) for _ in range(count)]


def expected_rows(reading: Reading, text: str, orders: int) -> Counter[int]:
    """By the n-grams' own words: the key of each, multiplied out by hand."""
    row = {int(key): at for at, key in enumerate(reading.keys)}
    split = [word_key(word) for word in words(text, TABLE)]
    found: Counter[int] = Counter()
    for order in range(1, orders + 1):
        for at in range(len(split) - order + 1):
            key = 0
            for word in split[at : at + order]:
                key = (key * 0xA0761D6478BD642F + word) % 2**64
            if key in row:
                found[row[key]] += 1
    return found


def test_a_text_is_read_as_the_rows_of_its_kept_ngrams() -> None:
    texts = drawn(60)
    _, reading = student(texts, rows=120)
    assert len(reading.keys) == 120
    encoded = reading.encode([*texts, "nothing known", ""])
    assert len(encoded) == 62 and sum(encoded.lengths()) > 500 and encoded.lengths()[-2:] == [0, 0]
    for text, ids in zip(texts, encoded.ids, strict=False):
        assert Counter(ids.tolist()) == expected_rows(reading, text, 3)


def test_long_texts_give_a_part_of_their_ngrams_the_same_each_time() -> None:
    long = " ".join(drawn(40))
    _, reading = student([long, "fine film"], features=64)
    assert reading.encode([long]).lengths() == [64]
    assert np.array_equal(reading.encode([long]).ids[0], reading.encode(["fine film", long]).ids[1])


def test_batches_hold_both_texts_of_a_pair() -> None:
    pairs = [(a, b) for a, b in zip(drawn(20), drawn(20, 1), strict=True)]
    model, reading = student(pairs)
    encoded = reading.encode(pairs)
    batch = reading.batch(encoded, [3, 5])
    for name, part in (("input_ids", 0), ("input_ids_2", 1)):
        for row, pair in zip(batch[name], (pairs[3], pairs[5]), strict=True):
            assert Counter(row[row >= 0].tolist()) == expected_rows(reading, pair[part], 3)
    logits = model.eval()(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
    swapped = model(torch.from_numpy(batch["input_ids_2"]), torch.from_numpy(batch["input_ids"])).logits
    assert logits.shape == (2, 2) and not torch.allclose(logits, swapped)


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_served_is_the_trained_table_to_a_127th_of_its_columns(pairs: bool) -> None:
    texts: list[Any] = [(a, b) for a, b in zip(drawn(30), drawn(30, 1), strict=True)] if pairs else drawn(30)
    model, reading = student(texts)
    served = quantised(model, reading)
    table = model.table_VD.detach().numpy()
    assert np.abs(served.rows[reading.slots] * served.scale - table).max() <= np.abs(table).max(0).max() / 254 * 1.001
    assert (served.keys[reading.slots] == reading.keys).all() and served.rows.any(1).sum() <= len(reading.keys)
    encoded = reading.encode(texts)
    feeds = {name: torch.from_numpy(value) for name, value in reading.batch(encoded, range(len(texts))).items()}
    logits = model.eval()(**feeds).logits.detach().numpy()
    assert np.abs(Plain(served, max_words=65_536).texts(texts)[0] - logits).max() < 2e-3


def test_dropping_ngrams_happens_in_training_only() -> None:
    texts = drawn(10)
    model, reading = student(texts, feature_dropout=0.5, dropout=0.0)
    ids = torch.from_numpy(reading.batch(reading.encode(texts), range(10))["input_ids"])
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_parameters_are_the_papers_count() -> None:
    """V d + d d + d + C d + C, section 3: with 40 rows kept, 16 wide, two classes."""
    model, _ = student(drawn(50), rows=40)
    assert sum(p.numel() for p in model.parameters()) == 40 * 16 + 16 * 16 + 16 + 2 * 16 + 2


USABLE = {
    "distil/cerberus",
    "distil/continuation",
    "distil/ensemble",
    "distil/logits",
    "prune/rewind",  # it wraps the schedule alone
    "regularise/alrs",
    "regularise/delta-sam",
    "regularise/sam",
    "regularise/swa",
    "supervised",
}


@pytest.mark.parametrize("name", sorted(TECHNIQUES))
def test_every_technique_works_on_it_or_says_why_not(name: str, teacher: Any) -> None:
    model, _ = student(drawn(10))
    stage = StageRecipe.model_validate({"techniques": [name]})
    with nullcontext() if name in USABLE else pytest.raises(ValueError, match=r"\w"):
        walk_through(model, teacher, [stage], "classification", Accelerator(cpu=True))


@pytest.mark.parametrize("name", sorted(name for name in USABLE if name.startswith("regularise/")))
def test_regularisation_trains_tables_by_rows(name: str, recipe: list[str], tmp_path: Path) -> None:
    mine = [*recipe, f"stages.0.techniques=[supervised, {name}]", "stages.0.epochs=20"]
    compress(Recipe.read("ngram", mine), tmp_path / "student")
    assert artefact.load(tmp_path / "student").manifest.metrics["test"]["int8"]["value"] > 0.9


@pytest.fixture(scope="module")
def recipe(toy: Path, toy_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The recipe that comes along on the toy task, with a corpus of 300 sentences."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.csv"
    corpus.write_text("text\n" + "\n".join(drawn(300, 7)) + "\n", encoding="utf-8")
    mine = [setting for setting in toy_settings if not setting.startswith(("student.", "export."))]
    return [*mine, f"corpus.texts=[{{dataset: {corpus}}}]", *SMALL]


def test_a_recipe_makes_a_student_that_has_learnt_from_the_teacher(recipe: list[str], tmp_path: Path) -> None:
    """In process, by our own file and by ONNX, and from a corpus without labels alone."""
    out = tmp_path / "student"
    compress(Recipe.read("ngram", [*recipe, "stages.0.texts=corpus", "stages.0.epochs=20"]), out)
    made = artefact.load(out).manifest
    assert made.metrics["test"]["int8"]["value"] > 0.9 and made.metrics["test"]["agreement_int8"]["value"] > 0.9
    assert (made.encoder.kind, made.served, made.models["int8"].method) == ("ngram", "int8", "ngram")
    ours, onnx = Session(out, runtime="bantam"), Session(out, runtime="onnxruntime")
    assert np.allclose(ours.logits(TEXTS), onnx.logits(TEXTS), atol=1e-5)
    labels = [ours.labels[best] for best in ours.logits(TEXTS[:2]).argmax(1)]
    assert labels == ["good", "bad"]
    assert len(read_model(out / made.encoder.file).out_bias) == 2
    assert "word n-grams" in (out / "README.md").read_text(encoding="utf-8")


def test_a_fine_tuning_that_does_not_help_is_not_kept(recipe: list[str], tmp_path: Path) -> None:
    """With a learning rate that ruins everything, the weights of the stage before stay."""
    good = [*recipe, "stages.0.epochs=20"]
    compress(Recipe.read("ngram", [*good, "stages.1.lr=1e-9"]), tmp_path / "left")
    compress(Recipe.read("ngram", [*good, "stages.1.lr=1000", "stages.1.warmup=0"]), tmp_path / "ruined")
    answers = [Session(tmp_path / name, runtime="bantam").logits(TEXTS) for name in ("left", "ruined")]
    assert np.allclose(*answers, atol=1e-2)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("student.width=20", "multiple of 16"),
        ("student.orders=5", "orders must be 1 to 4"),
        ("student.layers=2", "no field 'layers'"),
        ("student.start=somewhere", "starts from no checkpoint"),
        ("student.least=100000", "none of .* does: lower it"),
        ("corpus=null", "stages.0.texts needs a corpus"),
        ("task.text=[text, label]", "a corpus holds single texts"),
        ("stages.0.techniques=[distil/distilbert]", "learns from hidden_states"),
        ("stages.0.techniques=[distil/tinybert]", "must be one of .* got 'NGramNetwork'"),
        ("stages.0.techniques=[{use: prune/magnitude, final: 0.5}, distil/logits]", "must be one of"),
    ],
)
def test_bad_input_is_one_error_before_training(
    setting: str, complaint: str, recipe: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        compress(Recipe.read("ngram", [*recipe, setting]), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_teacher_may_answer_with_the_file_that_it_serves(recipe: list[str], tmp_path: Path) -> None:
    """The same fine-tuned teacher; its INT8 logits are near those of torch, and kept beside them."""
    mine = [*recipe, "stages.0.epochs=1"]
    for answers in ("torch", "served"):
        compress(Recipe.read("ngram", [*mine, f"teacher.answers={answers}"]), tmp_path / answers)
    keys = {artefact.load(tmp_path / answers).manifest.teacher["key"] for answers in ("torch", "served")}
    (key,) = keys
    found = {path.name.rpartition("-")[2]: read(path) for path in (cache.folder() / "logits").glob(f"{key}-*")}
    served, trained = found["int8"], found["fp32"]
    assert served is not None and trained is not None and len(served) > 300
    trained = trained[np.isin(trained["name"], served["name"])]  # torch answers the reported splits, too
    assert np.array_equal(served["name"], trained["name"]) and not np.array_equal(served["logits"], trained["logits"])
    assert np.abs(served["logits"] - trained["logits"]).mean() < 0.3 * np.abs(trained["logits"]).mean()


def test_two_processes_train_the_table_as_one(recipe: list[str], tmp_path: Path) -> None:
    """The same examples make each update; of a small last one a process may have none, and so no gradient."""
    exact = [*recipe, "student.dropout=0", "student.feature_dropout=0", "stages.0.epochs=2", "stages.0.batch_size=31"]
    settings = [part for setting in exact for part in ("--set", setting)]
    answers = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m", "bantam"]
        out = tmp_path / str(processes)
        done = subprocess.run(
            [sys.executable, *launcher, "compress", "ngram", "--out", str(out), *settings],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert ("2 processes share each update" in done.stderr) == (processes == 2)
        answers.append(Session(out).logits(TEXTS))
    untrained = np.abs(answers[0][:2] - answers[0][3]).max()  # of a text without words
    assert untrained > 0.1 and np.allclose(*answers, atol=0.02 * untrained)
