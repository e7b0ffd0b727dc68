"""Stages on a corpus: what is masked, what is predicted, what the cache holds, and what the task begins with."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file

from compress import corpus, masked
from compress.corpus import Corpus
from compress.pipeline import compress
from compress.pretrain import REPORT, keys, pretrained
from compress.recipe import Recipe
from compress.supervised import task_loss
from compress.weights import linears
from compress.widths import Keep, shrink
from serve import artefact

LENGTH = 16
TRANSFER = ["stages.0.epochs=1", "stages.1.epochs=1", "stages.0.evaluations=1", "stages.1.evaluations=1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def ofa(toy: Path, toy_settings: list[str]) -> list[str]:
    """The recipe prune-ofa at toy size; its corpus are the toy's reviews, its student keeps all four layers."""
    stage = ["lr=0.003", "batch_size=8", "evaluations=1", "precision=fp32"]
    return [
        *toy_settings,
        "teacher.epochs=2",
        f"corpus.texts=[{{dataset: {toy / 'reviews.csv'}}}]",
        f"corpus.max_length={LENGTH}",
        "corpus.held_out=16",
        "pretraining.0.updates=60",
        "pretraining.1.updates=60",
        "student.layers=4",
        *(f"pretraining.{number}.{value}" for number in (0, 1) for value in stage),
        *TRANSFER,
        "export.int8=[static]",
    ]


@pytest.fixture(scope="module")
def tokenizer(toy: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(toy / "encoder")


@pytest.fixture
def sequences(tokenizer: Any) -> np.ndarray:
    texts = [f"the {word} film was so {word}" for word in ("fine", "dull", "great") for _ in range(40)]
    return corpus.sequences(texts, tokenizer, LENGTH)


def test_the_stream_is_the_texts_end_to_end(tokenizer: Any) -> None:
    texts = ["the film was dull", "a great scene", "it was so very rich in music and plot"] * 5
    rows = corpus.sequences(texts, tokenizer, LENGTH)
    stream = [i for text in texts for i in (*tokenizer.encode(text, add_special_tokens=False), tokenizer.sep_token_id)]
    assert (rows[:, 0] == tokenizer.cls_token_id).all() and (rows[:, -1] == tokenizer.sep_token_id).all()
    assert rows[:, 1:-1].ravel().tolist() == stream[: rows[:, 1:-1].size]
    assert 0 <= len(stream) - rows[:, 1:-1].size < LENGTH - 2


def test_masks_follow_bert(tokenizer: Any) -> None:
    """15 % of ordinary word pieces; of these 80 % masked, 10 % any, 10 % as they are: within four deviations."""
    special = np.array(tokenizer.all_special_ids)
    ids = np.random.default_rng(0).integers(0, len(tokenizer), (2000, LENGTH))
    given, chosen = corpus.mask(ids, special, tokenizer.mask_token_id, len(tokenizer), 0.15, np.random.default_rng(1))
    ordinary, count = ~np.isin(ids, special), chosen.sum()
    near = lambda found, share, of: abs(found / of - share) < 4 * np.sqrt(share * (1 - share) / of)  # noqa: E731
    assert near(count, 0.15, ordinary.sum()) and not (chosen & ~ordinary).any()
    assert near((chosen & (given == tokenizer.mask_token_id)).sum(), 0.8 + 0.1 / len(tokenizer), count)
    assert near((chosen & (given == ids)).sum(), 0.1 + 0.1 / len(tokenizer), count)
    assert (given == ids)[~chosen].all()


def test_masks_are_new_each_time_and_the_same_again(sequences: np.ndarray, tokenizer: Any) -> None:
    data = Corpus(sequences, tokenizer, masked=0.3, size=4)
    first, again = (data.update(step)[0] for step in (3, 3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    later = next(step for step in range(len(data), 3 * len(data)) if (data.rows(step) == data.rows(3)).any())
    assert not np.array_equal(data.update(later)[0]["positions"], first["positions"])
    fixed = [[batch["input_ids"] for batch in data.fixed()] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*fixed, strict=True))
    assert sum(len(ids) for ids in fixed[0]) == len(sequences)


def test_processes_and_micro_batches_share_an_update(sequences: np.ndarray, tokenizer: Any) -> None:
    def seen(world: int, accumulate: int) -> list[tuple[int, ...]]:
        parts = [
            Corpus(sequences, tokenizer, masked=0.3, size=8, rank=r, world=world, accumulate=accumulate).update(2)
            for r in range(world)
        ]
        return sorted(tuple(row) for part in parts for batch in part for row in batch["input_ids"].tolist())

    assert seen(1, 1) == seen(2, 1) == seen(2, 2) == seen(1, 3)


FAMILIES = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM, {}),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertForMaskedLM, {}),
    "electra": (transformers.ElectraConfig, transformers.ElectraForMaskedLM, {"embedding_size": 16}),
    "mpnet": (transformers.MPNetConfig, transformers.MPNetForMaskedLM, {}),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM, {"pad_token_id": 1}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_that_of_transformers(family: str, sequences: np.ndarray, tokenizer: Any) -> None:
    """Oracle: the whole model of transformers with its own labels, -100 where nothing is to be predicted."""
    config, cls, more = FAMILIES[family]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    torch.manual_seed(0)
    model = cls(config(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes, **more)).eval()
    batch = Corpus(sequences, tokenizer, masked=0.3, size=4).update(0)[0]
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["labels"]
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "positions")}
    ours = masked.MaskedLM(model)(**inputs)
    assert torch.allclose(task_loss(ours.logits, batch["labels"]), expected, atol=1e-5)
    assert len(list(linears(masked.MaskedLM(model)))) == 12


def test_a_missing_head_is_tied_to_the_word_embeddings(toy: Path, tmp_path: Path) -> None:
    model, tokenizer, own_head = masked.load(str(toy / "encoder"))
    assert not own_head and model.lm.get_output_embeddings().weight is model.lm.get_input_embeddings().weight
    assert model.lm.base_model.pooler is not None  # the checkpoint brought one
    masked.save(model, tokenizer, tmp_path / "saved")
    again, _, own_head = masked.load(str(tmp_path / "saved"))
    assert own_head and again.lm.get_output_embeddings().weight is again.lm.get_input_embeddings().weight
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_shrunk_checkpoint_goes_on_learning_the_corpus(toy: Path, sequences: np.ndarray, tmp_path: Path) -> None:
    model, tokenizer, _ = masked.load(str(toy / "encoder"))
    shrink(model, [Keep((0,), (1, 2, 5)), Keep((), (0, 7)), Keep((1,), ()), Keep((0, 1), (3,))])
    masked.save(model, tokenizer, tmp_path / "small")
    again, _, _ = masked.load(str(tmp_path / "small"))
    batch = Corpus(sequences, tokenizer, masked=0.3, size=4).update(0)[0]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "positions")}
    assert torch.equal(model.eval()(**inputs).logits, again(**inputs).logits)


def test_stages_follow_one_another_and_are_kept(ofa: list[str], cache: Path) -> None:
    recipe, accelerator = Recipe.read("prune-ofa", ofa), Accelerator(cpu=True)
    folder = pretrained(recipe, accelerator)
    reports = {p.parent.name: json.loads(p.read_text()) for p in (cache / "pretrained").glob(f"*/{REPORT}")}
    assert len(reports) == 2
    last = reports[folder.name]
    first = reports[last["start"]]
    assert first["perplexity"] < 0.85 * first["perplexity_before"]  # words at random: little to learn
    assert last["perplexity_before"] == pytest.approx(first["perplexity"], rel=1e-4)
    assert first["sparsity"] < 0.01 and last["sparsity"] == pytest.approx(0.85, abs=0.005)
    assert not list(folder.parent.glob("*.run"))

    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*.safetensors")}
    pretrained(recipe.model_copy(update={"seed": 7}), accelerator)
    other = pretrained(Recipe.read("prune-ofa", [*ofa, "pretraining.1.techniques.2.final=0.5"]), accelerator)
    after = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*.safetensors")}
    assert after.keys() - before.keys() == {other / "model.safetensors"}  # the first stage served again
    assert all(after[path] == before[path] for path in before)


def test_the_pattern_reaches_the_last_file(ofa: list[str], tmp_path: Path, cache: Path) -> None:
    """Zeros of the pre-trained checkpoint are zeros of the student, and no other weight is locked."""
    compress(Recipe.read("prune-ofa", ofa), tmp_path / "student")
    report = next(p for p in (cache / "pretrained").glob(f"*/{REPORT}") if json.loads(p.read_text())["sparsity"] > 0.5)
    once, student = (load_file(folder / "model.safetensors") for folder in (report.parent, tmp_path / "student"))
    names = [name for name in once if ".layer." in name and once[name].ndim == 2]
    assert len(names) == 4 * 6
    for name in names:
        assert ((student[name] == 0) >= (once[name] == 0)).all(), name
        assert not torch.equal(student[name], once[name])
    assert {row["name"] for row in artefact.load(tmp_path / "student").manifest.candidates} >= {"fp32", "qat"}


def test_a_checkpoint_begins_another_student(ofa: list[str], tmp_path: Path) -> None:
    folder = pretrained(Recipe.read("prune-ofa", ofa), Accelerator(cpu=True))
    mine = [setting for setting in ofa if not setting.startswith(("corpus", "pretraining"))]
    compress(Recipe.read("prune-ofa-transfer", [*mine, f"student.start={folder}"]), tmp_path / "student")
    once, student = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "student"))
    name = "bert.encoder.layer.2.intermediate.dense.weight"
    assert ((student[name] == 0) >= (once[name] == 0)).all() and (once[name] == 0).float().mean() > 0.8


def test_a_dense_checkpoint_is_refused_before_training(ofa: list[str], toy: Path, tmp_path: Path, cache: Path) -> None:
    mine = [setting for setting in ofa if not setting.startswith(("corpus", "pretraining"))]
    recipe = Recipe.read("prune-ofa-transfer", [*mine, f"student.start={toy / 'encoder'}"])
    with pytest.raises(ValueError, match="prune it first"):
        compress(recipe, tmp_path / "student")
    assert not (cache / "teachers").exists()


def test_student_and_teacher_must_share_word_pieces(ofa: list[str], toy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model, tokenizer, _ = masked.load(str(toy / "encoder"))
    swapped = copy.deepcopy(tokenizer.get_vocab())
    swapped["fine"], swapped["dull"] = swapped["dull"], swapped["fine"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(swapped, key=swapped.__getitem__)), encoding="utf-8")
    masked.save(model, transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")), other)
    mine = [*ofa, f"student.start={other}", "stages.0.techniques=[supervised]", "stages.1.techniques=[supervised]"]
    mine = [setting for setting in mine if not setting.startswith(("corpus", "pretraining"))]
    with pytest.raises(ValueError, match="same word pieces"):
        compress(Recipe.read("prune-ofa-transfer", mine), tmp_path / "student")


SMALL = [
    "pretraining.1.techniques=[{use: prune/layers, strategy: alternate-even, drop: 2}, distil/distilbert, distil/iit]",
    "student.layers=2",
    "stages.1.techniques=[distil/logits]",
]


def test_a_small_student_learns_the_corpus_from_the_whole_encoder(ofa: list[str], tmp_path: Path, cache: Path) -> None:
    """Two of four layers, with interchange interventions; what serves at the end has two layers as well."""
    first = ["stages.0.techniques=[{use: distil/tinybert, layers: [[1, 2], [2, 4]]}]"]
    made = compress(Recipe.read("prune-ofa", [*ofa, *SMALL, *first]), tmp_path / "student")
    reports = [json.loads(path.read_text()) for path in (cache / "pretrained").glob(f"*/{REPORT}")]
    small = next(report for report in reports if len(report["stage"]["techniques"]) == 3)
    whole = next(report for report in reports if report is not small)
    assert {"loss/distil/distilbert", "loss/distil/iit"} <= small["history"][-1].keys()
    assert small["cost"]["student"] == small["cost"]["teacher"] == 2 * small["cost"]["backward"]
    assert small["perplexity_before"] == pytest.approx(whole["perplexity"], rel=1e-4)  # of the teacher
    config = json.loads((tmp_path / "student" / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 2
    told = [stage.get("perplexity") for stage in made.manifest.provenance["cost"]]
    assert told[:2] == [whole["perplexity"], small["perplexity"]] and not any(told[2:])


def test_the_rehearsal_knows_what_pretraining_leaves(ofa: list[str], tmp_path: Path, cache: Path) -> None:
    wrong = ["stages.0.techniques=[{use: distil/tinybert, layers: [[3, 4]]}]", "student.layers=[0, 1]"]
    with pytest.raises(ValueError, match=r"maps layers 1-2 to 1-4, got \(3, 4\)"):
        compress(Recipe.read("prune-ofa", [*ofa, *SMALL, *wrong]), tmp_path / "student")
    with pytest.raises(ValueError, match="the teacher's layers are 0 to 1"):
        compress(Recipe.read("prune-ofa", [*ofa, *SMALL, "student.layers=[0, 3]"]), tmp_path / "student")
    assert not cache.exists()


def test_a_corpus_without_a_seed_takes_the_recipes(ofa: list[str]) -> None:
    chains = [
        keys(Recipe.read("prune-ofa", [*ofa, f"seed={seed}", f"corpus.seed={own}"]), [["a text"]])
        for seed, own in ((0, 0), (7, 0), (0, "null"), (7, "null"), (0, 7))
    ]
    assert chains[0] == chains[1] == chains[2] and chains[3] == chains[4] and not set(chains[0]) & set(chains[3])


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("corpus.held_out=100000", "at least twice corpus.held_out"),
        ("corpus.texts.0.text=words", "no column 'words'"),
        ("student.start=somewhere", "leave one of them out"),
        ("pretraining.0.updates=0", "greater than 0"),
        ("pretraining.0.teacher=fine-tuned", "'start'"),
        ("corpus=null", "pretraining needs a corpus"),
    ],
)
def test_bad_input_is_one_error(setting: str, complaint: str, ofa: list[str]) -> None:
    with pytest.raises(ValueError, match=complaint):
        pretrained(Recipe.read("prune-ofa", [*ofa, setting]), Accelerator(cpu=True))


def test_a_corpus_of_blank_texts_is_refused(ofa: list[str], tmp_path: Path) -> None:
    (tmp_path / "blank.csv").write_text('text\n" "\n"\t"\n', encoding="utf-8")
    recipe = Recipe.read("prune-ofa", [*ofa, f"corpus.texts=[{{dataset: {tmp_path / 'blank.csv'}}}]"])
    with pytest.raises(ValueError, match="none that is not blank"):
        pretrained(recipe, Accelerator(cpu=True))


def test_runs_that_begin_alike_share_stages(ofa: list[str], tmp_path: Path) -> None:
    """The second run differs in its last stage only, and trains that alone."""
    share = tmp_path / "stages"
    compress(Recipe.read("prune-ofa", ofa), tmp_path / "one", share=share)
    first = {path: path.stat().st_mtime_ns for path in share.glob("*/done.pt")}
    compress(Recipe.read("prune-ofa", [*ofa, "stages.1.lr=0.001"]), tmp_path / "two", share=share)
    assert len(first) == 1 and {path: path.stat().st_mtime_ns for path in share.glob("*/done.pt")} == first
    compress(Recipe.read("prune-ofa", [*ofa, "stages.1.lr=0.001"]), tmp_path / "alone")
    one, two, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "alone"))
    assert all(torch.equal(two[name], alone[name]) for name in two)
    assert not all(torch.equal(one[name], two[name]) for name in two)
