"""Embedding students: losses against closed forms and torch, every technique beside them, and the whole line."""

import copy
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import yaml

from compress.catalogue import TECHNIQUES, techniques
from compress.distil.embeddings import EmbeddingDistillation, cosine_distance, squared_distance
from compress.embedder import Embedder
from compress.export.parity import VECTORS, batch_invariance, compare
from compress.pipeline import compress
from compress.place import is_same
from compress.recipe import Choice, Recipe, TrainRecipe
from compress.supervised import Supervised, cosine_loss
from compress.technique import Run, Step, Technique
from compress.train import train
from serve import artefact
from serve.runtime import Session
from tests.compress.conftest import MAX_LENGTH, MINIMAL, sentence, tiny_bert
from tests.compress.test_composition import assert_plain
from tests.compress.toy import examples

CHOICES = {name: Choice(use=name) for name, technique in TECHNIQUES.items() if "embedding" in technique.kinds}
CHOICES["distil/minilm-v2"] = Choice(use="distil/minilm-v2", relation_heads=4)  # the toy models are 16 wide
CHOICES["prune/lock"] = Choice(use="prune/lock", at_least=0)  # the toy student is dense
LEARNED = CHOICES.pop("distil/embeddings")


def embedder(*, layers: int = 2, width: int = 16, seed: int = 2) -> Embedder:
    return Embedder(tiny_bert(layers=layers, width=width, seed=seed).bert, pooling="mean", normalised=True)


def taught(student: Embedder, teacher: Embedder, chosen: tuple[Choice, ...], folder: Path, **options: Any) -> Run:
    tutor = teacher.eval().requires_grad_(False)
    run = Run(student, techniques(chosen), steps=12, kind="embedding", teacher=tutor)
    recipe = TrainRecipe(**{"lr": 1e-3, "evaluations": 2, "precision": "fp32"} | options)
    data = examples(together=2, accumulate=recipe.accumulate)
    train(run, data, recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return run


# --- losses


def test_distances_are_those_of_torch_and_of_geometry() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(9, 5, generator=generator) for _ in range(2))
    expected = 1 - F.cosine_similarity(u, v).mean().item()
    assert cosine_distance(3 * u, v).item() == pytest.approx(expected, abs=1e-6)
    assert squared_distance(3 * u, v).item() == pytest.approx(2 * expected, abs=1e-6)
    assert cosine_distance(u, -u).item() == pytest.approx(2, abs=1e-6)
    quarter = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 2]])
    assert (cosine_distance(*quarter).item(), squared_distance(*quarter).item()) == pytest.approx((1, 2))


def test_scores_are_regressed_by_cosines_of_neighbours() -> None:
    """By hand: cosines 0 and 1 against scores 0.5 and 0.8; the last two texts have no score."""
    vectors = torch.tensor([[1.0, 0], [0, 5], [2, 2], [1, 1], [9, 9], [1, 0]], requires_grad=True)
    labels = torch.tensor([0.5, 0.5, 0.8, 0.8, torch.nan, torch.nan])
    loss = cosine_loss(vectors, labels)
    assert loss.item() == pytest.approx((0.5**2 + 0.2**2) / 2, abs=1e-6)
    loss.backward()
    assert vectors.grad is not None and not vectors.grad[4:].any() and vectors.grad[:2].any()


def test_texts_without_scores_give_no_signal_and_not_nan() -> None:
    vectors = torch.randn(4, 3, requires_grad=True)
    cosine_loss(vectors, torch.full((4,), torch.nan)).backward()
    assert vectors.grad is not None and not vectors.grad.any()


def value_of(technique: Technique, student: Embedder, teacher: Embedder, batch: dict[str, Any]) -> float:
    run = Run(student.eval(), {"it": technique}, steps=1, kind="embedding", teacher=teacher.eval(), rows=4)
    run.prepare()
    return technique.loss(Step(run, batch)).item()  # type: ignore[union-attr]


@pytest.mark.parametrize(("distance", "factor"), [("cosine", 1.0), ("mse", 2.0)])
def test_the_student_is_held_against_its_teachers_vectors(distance: Any, factor: float, batch: dict[str, Any]) -> None:
    """Oracle: transformers' own outputs, pooled by hand, and torch's cosine."""
    student, teacher, vectors = embedder(), embedder(layers=4, seed=1), []
    for model in (student, teacher):
        states = model.encoder.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        lengths = batch["attention_mask"].sum(1)
        vectors.append(torch.stack([row[:n].mean(0) for row, n in zip(states, lengths, strict=True)]))
    expected = 0.5 * factor * (1 - F.cosine_similarity(*vectors).mean().item())
    found = value_of(EmbeddingDistillation(distance=distance, weight=0.5), student, teacher, batch)
    assert found == pytest.approx(expected, abs=1e-6) and found > 0.01
    assert value_of(EmbeddingDistillation(distance=distance), copy.deepcopy(teacher), teacher, batch) < 1e-6


def test_supervised_is_the_regression_of_cosines(batch: dict[str, Any]) -> None:
    student, labels = embedder(), torch.tensor([0.2, 0.2, 0.9, 0.9])
    with torch.no_grad():
        vectors = student.eval()(batch["input_ids"], batch["attention_mask"]).logits
    expected = F.mse_loss(F.cosine_similarity(vectors[::2], vectors[1::2]), labels[::2]).item()
    found = value_of(Supervised(weight=2), student, student, batch | {"labels": labels})
    assert found == pytest.approx(2 * expected, rel=1e-5) and found > 0.01


# --- in training

SLOW = "regularise/slow-teacher"


@pytest.mark.parametrize("narrow", [16, 8])
def test_a_student_learns_its_teachers_vectors_with_a_map_where_sizes_differ(narrow: int, tmp_path: Path) -> None:
    student, teacher = embedder(width=narrow), embedder(layers=4, seed=1)
    run = taught(student, teacher, (LEARNED,), tmp_path, lr=2e-2)
    first = value_of(EmbeddingDistillation(), embedder(width=narrow), teacher, examples().tensors(np.arange(8)))
    assert run.terms["distil/embeddings"].item() < 0.7 * first
    assert len(run.owned) == (narrow != 16)
    assert run.model.embedding.size == narrow  # type: ignore[union-attr]
    assert not [name for name in run.model.state_dict() if "project" in name]


@pytest.mark.parametrize("pair", [p for name in CHOICES for p in itertools.permutations((LEARNED.use, name))], ids=str)
def test_every_technique_for_embeddings_composes(pair: tuple[str, str], tmp_path: Path) -> None:
    student = embedder()
    teacher = embedder(seed=1) if SLOW in pair else embedder(layers=4, seed=1)  # one that follows is of its shape
    begun = copy.deepcopy(student)
    run = taught(student, teacher, tuple(({LEARNED.use: LEARNED} | CHOICES)[name] for name in pair), tmp_path)
    assert_plain(run, begun)
    assert LEARNED.use in run.terms


def test_all_at_once_in_micro_batches(tmp_path: Path) -> None:
    student, chosen = embedder(), (LEARNED, *(choice for choice in CHOICES.values() if choice.use != SLOW))
    begun = copy.deepcopy(student)
    assert len(chosen) >= 9
    run = taught(student, embedder(layers=4, seed=1), chosen, tmp_path, accumulate=3, precision="bf16")
    assert_plain(run, begun)


@pytest.mark.parametrize(
    "choice",
    [Choice(use=name) for name, one in TECHNIQUES.items() if "embedding" not in one.kinds]
    + [Choice(use="distil/tinybert", stage="prediction")],
    ids=lambda choice: choice.use,
)
def test_what_reads_classes_refuses_vectors(choice: Choice, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{choice.use} is for classification and regression, and this task is emb"):
        taught(embedder(), embedder(), (choice,), tmp_path)


def test_distilling_vectors_refuses_classes(student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match="distil/embeddings is for embedding, and this task is classification"):
        Run(student, techniques((LEARNED,)), steps=1, teacher=teacher).prepare()


# --- gates


def test_parity_of_vectors_is_their_distance() -> None:
    """A turn by an angle a moves a vector 1 long by 2 sin(a / 2), and no cosine with it by more."""
    reference = np.array([[1.0, 0.0], [0.0, 3.0]])
    turned = reference @ np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    found = compare(reference, turned, "embedding")
    assert (found.mean, found.max) == pytest.approx((2 * np.sin(0.15),) * 2)
    assert found.agreement == pytest.approx(np.cos(0.3))
    assert VECTORS.refusal(found) is not None
    assert VECTORS.refusal(compare(reference, reference, "embedding")) is None
    assert VECTORS.refusal(compare(reference, reference * np.nan, "embedding")) is not None


def test_a_vector_that_moves_in_company_is_found() -> None:
    def moves(texts: Any) -> np.ndarray:
        return np.array([[1.0, 0.03 * len(texts)] for _ in texts])

    assert "a score moves" in str(batch_invariance(moves, ["a"] * 40, "embedding"))
    assert batch_invariance(lambda texts: moves(["a"] * 3)[[0] * len(texts)], ["a"] * 40, "embedding") is None


# --- the whole line


@pytest.fixture(scope="module")
def settings(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Pairs of sentences that are alike where both praise or both blame."""
    rng, rows = random.Random(0), ["left\tright\tscore"]
    for _ in range(300):
        good = [rng.random() < 0.5 for _ in range(2)]
        left, right = (sentence(rng, positive) for positive in good)
        rows.append(f"{left}\t{right}\t{4 if good[0] == good[1] else 0}")
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    training = [f"{key}={value}" for key, value in {"epochs": 10, "lr": 0.005, "batch_size": 16}.items()]
    return [
        f"task.dataset={path}",
        "task.text=[left, right]",
        "task.label=score",
        f"task.max_length={MAX_LENGTH}",
        f"teacher.model={toy / 'encoder'}",
        "student.layers=[1, 3]",
        "export.calibration=32",
        *(f"teacher.{one}" for one in training),
        *(f"stages.0.{one}" for one in training),
    ]


@pytest.fixture(scope="module")
def made(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe that comes along, on the toy task, and a corpus beside it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "corpus.csv").write_text(
        "text\n" + "\n".join(sentence(random.Random(at), at % 2 > 0) for at in range(41))
    )
    corpus = ["corpus.texts=[{}]", f"corpus.texts.0.dataset={folder / 'corpus.csv'}", "stages.0.texts=both"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANTAM_CACHE", str(folder / "cache"))
        compress(Recipe.read("embedding", [*settings, *corpus]), folder / "student")
    return folder / "student"


def test_the_recipe_of_disco_runs(
    made: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(made.parent / "cache"))  # the teacher is there
    corpus = ["corpus.texts=[{}]", f"corpus.texts.0.dataset={made.parent / 'corpus.csv'}"]
    mine = ["stages.0.techniques.0.queue=16", "stages.0.epochs=1", "export.int8=[static]"]
    manifest = compress(Recipe.read("disco", [*settings, *corpus, *mine]), tmp_path / "student").manifest
    assert manifest.task.embedding is not None and manifest.task.embedding.size == 16
    assert 0 < manifest.provenance["cost"][-1]["teacher"] < 1000  # each text once: vectors come from the cache


def test_the_student_puts_like_beside_like(made: Path) -> None:
    """Oracle: scipy, over the vectors that the served file gives and the scores that the run put aside."""
    import pyarrow.parquet as pq

    manifest = artefact.load(made).manifest
    assert manifest.task.kind == "embedding" and manifest.task.metric == "cosine_spearman"
    assert manifest.task.embedding is not None and manifest.task.embedding.size == 16
    measured = manifest.metrics["test"]
    table = pq.read_table(made.with_name("student.run") / "test.parquet").to_pydict()
    session = Session(made)
    first, second = (torch.from_numpy(session.predict(table[name]).scores) for name in ("left", "right"))
    found = scipy.stats.spearmanr(F.cosine_similarity(first, second).numpy(), table["score"]).statistic
    assert measured["int8"]["value"] == pytest.approx(found, abs=1e-6)
    assert measured["rows"] == len(table["score"]) == 60
    assert measured["teacher"]["value"] > 0.6 and measured["torch"]["value"] > 0.6
    assert measured["agreement_int8"]["value"] > 0.9


def test_every_runtime_gives_the_students_vectors(made: Path) -> None:
    texts = ["a fine moving film", "dull and flat plot", "it was the cast of a warm scene", "a"]
    models = artefact.load(made).manifest.models
    static = next(key for key, model in models.items() if model.method == "static")
    expected = Session(made, model="fp32").predict(texts).scores
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    for runtime in ("onnxruntime", "openvino", "bantam"):
        found = Session(made, model=static, runtime=runtime)
        assert compare(expected, found.predict(texts).scores, "embedding").max < 0.1, runtime


def test_products_run_in_integers_and_company_moves_nothing(made: Path) -> None:
    manifest = artefact.load(made).manifest
    served = manifest.models[manifest.served]
    assert (served.precision, served.integer_kernels, served.float_kernels) == ("int8", 12, 0)
    assert {row["name"] for row in manifest.candidates} == {"fp32", "dynamic", "static"}
    texts = [sentence(random.Random(at), at % 2 > 0) for at in range(40)]
    assert batch_invariance(Session(made).logits, texts, "embedding") is None


def test_the_card_says_vectors(made: Path) -> None:
    card = (made / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: sentence-similarity" in card and "localhost:3000/embed" in card
    assert "a vector of 16 numbers" in card and "classes" not in card


def test_the_teachers_key_knows_how_it_pools(settings: list[str]) -> None:
    from compress.data.load import load
    from compress.teacher import key_of

    recipes = [Recipe.read("embedding", [*settings, *more]) for more in ([], ["task.pooling=mean"])]
    recipes += [Recipe.read("embedding", [*settings, one]) for one in ("task.pooling=first", "task.normalised=false")]
    keys = [key_of(one, load(one.task, seed=0)) for one in recipes]
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_a_student_of_ngrams_is_refused(settings: list[str], tmp_path: Path) -> None:
    plain = [setting for setting in settings if not setting.startswith("student.")]
    values = Recipe.read("embedding", plain).plain() | {"student": {"use": "ngram"}}
    values["corpus"] = {"texts": [{"dataset": plain[0].partition("=")[2], "text": "left"}]}
    with pytest.raises(ValueError, match="students/ngram gives scores and no vectors"):
        compress(Recipe.of(values, "test"), tmp_path / "out")


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"kind": "embedding"}, r"must name two columns, got \['text'\]"),
        ({"pooling": "mean"}, "task.pooling and task.normalised are for task.kind embedding"),
        ({"kind": "embedding", "text": ["a", "b"], "pooling": "max"}, "pooling"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(task: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Recipe.of({**MINIMAL, "task": {"dataset": "x", **task}}, "test")


def test_a_run_that_began_before_a_key_was_there_is_the_same() -> None:
    recipe = Recipe.of(MINIMAL, "test")
    before = yaml.safe_load(yaml.safe_dump(recipe.plain()))
    del before["task"]["pooling"], before["task"]["normalised"]
    assert is_same(before, recipe)
    assert not is_same({**before, "seed": 1}, recipe) and not is_same({**before, "gone": 1}, recipe)
