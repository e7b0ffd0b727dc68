"""TinyBERT's copies of texts: which words change, into what, and how often; and the method from corpus to task."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast

from compress import candidates, masked
from compress.data import augment
from compress.data.augment import Place, augmented, copies, neighbours, words
from compress.data.load import Data, Examples
from compress.distil.tinybert import TinyBERT
from compress.pipeline import compress, learning
from compress.pretrain import REPORT
from compress.recipe import AugmentRecipe, Recipe
from compress.technique import Run
from serve.runtime import Session
from tests.compress.conftest import MINIMAL

TEXT = "A fine film, it's well-made; nobody's 2nd fine plot."


def data(texts: list[Any], labels: Any, *, together: int = 1, reported: tuple[Any, ...] = ()) -> Data:
    others = Examples(list(reported), np.zeros(len(reported)))
    train = Examples(texts, np.asarray(labels))
    train = train.apart() if together == 2 else train
    kind = "embedding" if together == 2 else "classification"
    return Data(kind, ("a", "b"), ("text",), "accuracy", train, others, {"test": others}, (), "")


def places(text: str, *choices: str) -> list[Place]:
    return [Place(*span, choices) for span in words(text)]


# --- which words, and how often


def test_words_are_of_letters_and_no_stop_words() -> None:
    assert [TEXT[start:end] for start, end in words(TEXT)] == ["fine", "film", "fine", "plot"]
    assert len(augment.STOP_WORDS) > 100


def test_a_copy_keeps_all_but_the_words() -> None:
    """Probability 1 and one choice: all copies are the same one."""
    made = copies(TEXT, places(TEXT, "word"), 9, 1.0, np.random.default_rng(0))
    assert made == ["A word word, it's well-made; nobody's 2nd word word."]
    assert copies(TEXT, [], 9, 1.0, np.random.default_rng(0)) == []


def test_copies_are_new_and_no_more_than_asked_for() -> None:
    made = copies(TEXT, places(TEXT, "fine", "odd"), 30, 0.4, np.random.default_rng(0))
    assert 3 < len(made) < 2**4 and len({*made}) == len(made) and TEXT not in made
    assert made == copies(TEXT, places(TEXT, "fine", "odd"), 30, 0.4, np.random.default_rng(0))
    assert made != copies(TEXT, places(TEXT, "fine", "odd"), 30, 0.4, np.random.default_rng(1))


def test_a_word_is_replaced_with_the_probability_asked_for() -> None:
    """Over texts so long that no two copies are the same: 0.4 within four deviations, all choices alike."""
    text = " ".join(["film"] * 200)
    made = " ".join(copies(text, places(text, "one", "other"), 50, 0.4, np.random.default_rng(0))).split()
    assert len(made) == 200 * 50
    for word, expected in (("film", 0.6), ("one", 0.2), ("other", 0.2)):
        assert abs(made.count(word) / 1e4 - expected) < 4 * (expected * (1 - expected) / 1e4) ** 0.5


def test_of_a_pair_one_text_varies_and_labels_stay() -> None:
    texts = [("fine film", "dull plot"), ("warm cast", "warm cast")]
    known = {text: places(text, "one", "other") for pair in texts for text in pair}
    for together in (1, 2):
        made = augmented(data(texts, [1, 0], together=together), known, AugmentRecipe(vectors="x"), seed=0)
        assert made.together == together
        whole, first = made.joined(), 0
        for pair, label in zip(whole.texts, whole.labels, strict=True):
            original = texts[1 - int(label)]
            assert sum(a != b for a, b in zip(pair, original, strict=True)) == 1
            first += pair[0] != original[0]
        assert 4 < first < len(whole) - 4 and {*whole.labels.tolist()} == {0, 1}


def test_a_copy_that_is_reported_on_is_dropped() -> None:
    known = {"fine film": [Place(0, 4, ("dull", "warm"))]}
    made = augmented(data(["fine film"], [1], reported=("dull film",)), known, AugmentRecipe(vectors="x"), seed=0)
    assert made.texts == ["warm film"] and made.labels.tolist() == [1]


def test_a_stage_learns_from_texts_and_copies() -> None:
    stage = SimpleNamespace(texts="augmented")
    found = learning(stage, data(["a", "b"], [0, 1]), Examples([], np.array([])), Examples(["c"], np.array([1])))
    assert found.train.texts == ["a", "b", "c"] and found.train.labels.tolist() == [0, 1, 1]


# --- word vectors


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    """Words at angles in the plane, of lengths that do not matter; a word may hold a space."""
    angles = {"film": 0, "picture": 10, "movie": -20, "new york": 30, "cast": 60, "dull": 180}
    lines = [
        f"{word} {(n + 1) * np.cos(np.radians(a)):.5f} {(n + 1) * np.sin(np.radians(a)):.5f}"
        for n, (word, a) in enumerate(angles.items())
    ]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "vectors.txt")


def test_neighbours_are_those_of_the_smallest_angle(vectors: str) -> None:
    found = neighbours(vectors, ["Film", "cast", "nothing"], 3)
    assert found == {"Film": ["picture", "movie", "new york"], "cast": ["new york", "picture", "film"]}
    assert len(neighbours(vectors, ["film"], 15)["film"]) == 5


def test_only_the_first_words_count(vectors: str) -> None:
    assert augment.read(vectors, most=3)[0] == ["film", "picture", "movie"]
    assert augment.read(vectors)[1].shape == (6, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("400000 50\nfilm 1 2\n", "line 1 has 1 numbers"),
        ("film 1 2\nplot 1\n", "line 2 has 1 numbers"),
        ("film one two\n", "could not convert"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        candidates.check(AugmentRecipe(vectors=str(path)))


# --- the masked language model


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A masked language model of word pieces some of which are parts of words."""
    folder = tmp_path_factory.mktemp("speaker")
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] film plot fine dull play ##ing ##s , ; 42 warm cast".split()
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(pieces), max_position_embeddings=24, initializer_range=0.5, **size)
    masked.save(masked.MaskedLM(BertForMaskedLM(config)), tokenizer, folder)
    return str(folder)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "autocast_for", lambda _p, _d: nullcontext)


@pytest.mark.usefixtures("exact")
def test_candidates_are_what_the_model_says_beside_the_text_itself(speaker: str) -> None:
    """Oracle: transformers' whole model on the two segments, put together by hand, one word at a time."""
    text, other = "fine film, warm plot", "dull cast"
    asked = [(t, *span) for t in (text, other) for span in words(t)]
    found = candidates.fitting(speaker, asked, 6, Accelerator(cpu=True))
    assert list(found) == sorted(asked, key=lambda word: word[0] != other) and len(asked) == 6
    model, tokenizer = BertForMaskedLM.from_pretrained(speaker).eval(), BertTokenizerFast.from_pretrained(speaker)
    for (t, start, _), got in found.items():
        ids = tokenizer.encode(t, add_special_tokens=False)
        at = len(tokenizer.encode(t[:start], add_special_tokens=False))
        given = [2, *ids[:at], 4, *ids[at + 1 :], 3, *ids, 3]
        types = [0] * (len(ids) + 2) + [1] * (len(ids) + 1)
        with torch.no_grad():
            logits = model(torch.tensor([given]), token_type_ids=torch.tensor([types])).logits[0, at + 1]
        best = tokenizer.convert_ids_to_tokens(logits.argsort(descending=True)[:6].tolist())
        assert got == [piece for piece in best if piece.isalpha()]
    assert {len(got) for got in found.values()} - {6}  # parts of words, marks and numbers were left out


def test_words_of_several_pieces_have_the_nearest_vectors(speaker: str, vectors: str, toy: Path) -> None:
    with open(vectors, "a", encoding="utf-8") as lines:
        lines.write("plays 1 0.1\n")
    options = AugmentRecipe(model=speaker, vectors=vectors, candidates=2)
    text = "plays film unheard playing"
    found = candidates.places(options, speaker, [text], Accelerator(cpu=True))[text]
    assert [text[place.start : place.end] for place in found][:2] == ["plays", "film"]
    assert found[0].words == ("picture", "film")
    assert {*found[1].words} <= {
        "film",
        "plot",
        "fine",
        "dull",
        "play",
        "warm",
        "cast",
    }  # the model's, not the vectors'
    assert len(found) == 2  # of no word piece, or of several and without a vector: it stays


def test_a_text_that_is_too_long_keeps_the_words_that_were_cut_off(speaker: str) -> None:
    text = " ".join(["film"] * 30)
    found = candidates.fitting(speaker, [(text, *span) for span in words(text)], 3, Accelerator(cpu=True))
    assert [start for _, start, _ in found] == [5 * n for n in range(len(found))]
    assert 8 <= len(found) <= 11  # of 24 positions


def test_whole_words_are_told_by_the_sign_before_them() -> None:
    class Signed(list):
        def convert_ids_to_tokens(self, ids: Any) -> list[str]:
            return [self[i] for i in ids]

    assert candidates.whole_words(Signed(["<s>", "Ġfilm", "film", "Ġ,", "Ġ7"])) == {1: "film"}
    assert candidates.whole_words(Signed(["[CLS]", "film", "##s", ","])) == {1: "film"}


def test_what_was_asked_once_is_read_from_the_cache(
    speaker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path))
    values = {**MINIMAL, "stages": [{"techniques": ["supervised"], "texts": "augmented"}]}

    def made(seed: int, **options: Any) -> Examples:
        recipe = Recipe.of({**values, "seed": seed, "augment": {"model": speaker, **options}}, "test")
        return candidates.augmented(recipe, data(["fine film", "dull plot"], [1, 0]), None, Accelerator(cpu=True))

    first = made(0)
    monkeypatch.setattr(candidates, "fitting", None)  # whoever asks again fails
    assert made(0).texts == first.texts
    assert made(1).texts != first.texts and len(made(0, copies=2)) < len(first)
    assert len([*(tmp_path / "candidates").glob("*.json")]) == 1


# --- the method as a whole


def test_students_of_the_paper_have_its_sizes() -> None:
    """14.35 and 66.96 million parameters; W, from the narrow one's states to the teacher's, is counted apart."""
    small = BertConfig(hidden_size=312, num_hidden_layers=4, num_attention_heads=12, intermediate_size=1200)
    sizes = {}
    for name, config in (("4", small), ("6", BertConfig(num_hidden_layers=6)), ("teacher", BertConfig())):
        with torch.device("meta"):
            sizes[name] = BertModel(config)
    run = Run(sizes["4"], {"it": TinyBERT()}, steps=1, teacher=sizes["teacher"])
    run.prepare()

    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert (count(sizes["4"]), count(sizes["6"]), count(run.owned)) == (14_350_248, 66_955_008, 240_384)
    assert run.techniques["it"].map == [(1, 3), (2, 6), (3, 9), (4, 12)]


@pytest.fixture
def settings(toy: Path, toy_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipe tinybert-augment at toy size: two of four layers, four copies."""
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    stage = ["updates=30", "lr=0.003", "batch_size=8", "evaluations=1", "precision=fp32"]
    return [
        *toy_settings,
        "teacher.epochs=2",
        "augment.copies=2",
        f"corpus.texts=[{{dataset: {toy / 'reviews.csv'}}}]",
        "corpus.max_length=16",
        "corpus.held_out=16",
        "pretraining.1.techniques.1.drop=2",
        *(f"pretraining.{number}.{value}" for number in (0, 1) for value in stage),
        "student.layers=2",
        *(f"stages.{number}.{value}" for number in (0, 1) for value in ("epochs=0.5", "evaluations=1")),
        "export.int8=[static]",
    ]


def test_the_recipe_goes_from_corpus_to_task(settings: list[str], tmp_path: Path) -> None:
    made = compress(Recipe.read("tinybert-augment", settings), tmp_path / "student")
    assert Session(made).predict(["a fine film"]).scores.shape == (1, 2)
    reports = [json.loads(p.read_text()) for p in (tmp_path / "cache" / "pretrained").glob(f"*/{REPORT}")]
    general = next(r for r in reports if "loss/distil/tinybert" in r["history"][-1])
    assert general["stage"]["techniques"][0]["use"] == "distil/tinybert" and len(reports) == 2
    whole = general["start"]  # candidates come of the model before layers were dropped
    assert json.loads((tmp_path / "cache" / "pretrained" / whole / "config.json").read_text())["num_hidden_layers"] == 4
    learned = {cost["stage"]: cost["updates"] for cost in made.manifest.provenance["cost"]}
    texts = 2 * learned["stage 1 of 2"] * 32  # half an epoch
    assert texts > 300  # the toy has about 170 training texts


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"stages": [{"techniques": ["supervised"], "texts": "augmented"}]}, "stages.0.texts needs to know how"),
        ({"augment": {"model": "x"}}, "copies are read by nothing"),
        (
            {"augment": {}, "stages": [{"techniques": ["supervised"], "texts": "augmented"}]},
            "augment needs a model, vectors or pretraining",
        ),
        ({"augment": {"model": "x", "probability": 1.5}}, "probability"),
        ({"augment": {"model": "x", "copys": 1}}, "did you mean 'copies'"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Recipe.of({**MINIMAL, **more}, "test")


def test_a_model_without_a_head_is_refused(toy: Path) -> None:
    with pytest.raises(ValueError, match="has no language-model head"):
        candidates.check(AugmentRecipe(model=str(toy / "encoder")))
