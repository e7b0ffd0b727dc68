"""DistilBERT on a corpus: what is masked, what the three terms are, and which student comes out."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoTokenizer, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from compress import corpus, masked
from compress.anatomy import blocks
from compress.corpus import Corpus
from compress.distil.distilbert import DistilBERT
from compress.masked import MaskedLM
from compress.pipeline import compress
from compress.pretrain import REPORT, pretrained
from compress.prune.layers import LayerDrop
from compress.recipe import Recipe
from compress.students.truncated import Truncated
from compress.technique import Run, Step
from serve.runtime import Session

LENGTH, VOCABULARY, SPECIAL = 32, 60, np.array([0, 1, 2, 3, 4])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder(toy: Path) -> MaskedLM:
    """Of four layers, with a head."""
    torch.manual_seed(0)
    return masked.load(str(toy / "encoder"))[0]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four texts of 12 word pieces, every second one padded from the tenth on; every real position is asked for."""
    generator = torch.Generator().manual_seed(3)
    ids, mask = torch.randint(5, 31, (4, 12), generator=generator), torch.ones(4, 12, dtype=torch.long)
    mask[::2, 9:] = 0
    positions = mask.flatten().nonzero().squeeze(-1)
    labels = torch.where(torch.arange(len(positions)) % 5 == 0, ids.flatten()[positions], -100)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "positions": positions,
        "labels": labels,
        "rows": torch.arange(4),
    }


def value_of(technique: DistilBERT, student: nn.Module, teacher: nn.Module, batch: dict[str, Any]) -> float:
    run = Run(student.eval(), {"it": technique}, steps=1, teacher=teacher.eval(), rows=len(batch["rows"]))
    run.prepare()
    return technique.loss(Step(run, batch)).item()


def half(model: MaskedLM) -> MaskedLM:
    student = copy.deepcopy(model)
    Run(student, {"it": LayerDrop(strategy="spread", drop=2)}, steps=1).prepare()
    with torch.no_grad():
        blocks(student)[0].output.dense.weight.mul_(1.5)
    return student


SOFT = DistilBERT(a_ce=1, a_mlm=0, a_cos=0)


# --- masks


def zipf(rows: int = 400) -> np.ndarray:
    """Sequences in which word piece 5 + k comes about in proportion to 1 / (1 + k), between special ones."""
    share = 1 / np.arange(1, VOCABULARY - 4)
    ids = np.random.default_rng(0).choice(np.arange(5, VOCABULARY), (rows, LENGTH), p=share / share.sum())
    ids[:, 0], ids[:, -1] = 2, 3
    return ids


def rates(smoothing: float, share: float, repeats: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """How often each word piece was seen, and its share that was masked, over many batches."""
    ids, random = zipf(), np.random.default_rng(1)
    odds_V = corpus.odds(ids, SPECIAL, VOCABULARY, smoothing)
    seen, taken = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    for _ in range(repeats):
        for start in range(0, len(ids), 20):
            part = ids[start : start + 20]
            chosen = corpus.drawn(part, odds_V, share, random)
            assert chosen.sum() == math.ceil(share * part.size)
            seen += np.bincount(part.ravel(), minlength=VOCABULARY)
            taken += np.bincount(part[chosen], minlength=VOCABULARY)
    assert not taken[SPECIAL].any()
    return seen[5:], taken[5:] / seen[5:]


def test_masks_without_smoothing_are_alike_for_all_word_pieces() -> None:
    seen, rate = rates(0.0, 0.15)
    expected = 0.15 * LENGTH / (LENGTH - 2)  # special ones are counted, and never masked
    assert (abs(rate - expected) < 4 * np.sqrt(expected * (1 - expected) / seen)).all()


def test_masks_go_to_rare_word_pieces() -> None:
    """Where few are drawn, a rate is in proportion to count ** -0.7: a line of that slope, by least squares."""
    seen, rate = rates(0.7, 0.02, 40)
    assert np.polyfit(np.log(seen), np.log(rate), 1)[0] == pytest.approx(-0.7, abs=0.05)


def test_no_more_is_masked_than_there_is() -> None:
    ids = np.array([[2, 7, 3], [2, 3, 3]])
    odds_V = corpus.odds(ids, SPECIAL, VOCABULARY, 0.7)
    assert corpus.drawn(ids, odds_V, 0.9, np.random.default_rng(0)).tolist() == [[False, True, False], [False] * 3]


def test_every_position_is_asked_and_masked_ones_have_labels(toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy / "encoder")
    rows = corpus.sequences(["the fine film was so dull"] * 60, tokenizer, 16)
    options = {"masked": 0.13, "size": 4, "smoothing": 0.7}
    some, every = (Corpus(rows, tokenizer, every=e, **options).update(1)[0] for e in (False, True))
    assert every["positions"].tolist() == list(range(4 * 16))
    assert len(some["positions"]) == 9 == math.ceil(0.13 * 64)
    assert torch.equal(every["input_ids"], some["input_ids"])
    there = every["labels"] != -100
    assert torch.equal(every["positions"][there], some["positions"])
    assert torch.equal(every["labels"][there], some["labels"])


# --- the three terms


def test_the_loss_is_the_sum_of_its_terms(encoder: MaskedLM, batch: dict[str, Tensor]) -> None:
    """Oracle: torch's own losses, token by token, on the outputs of transformers' whole model."""
    student = half(encoder)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    s, t = (model.lm.eval()(**inputs, output_hidden_states=True) for model in (student, encoder))
    soft, cosine, labels = [], [], torch.full_like(batch["input_ids"], -100)
    for row, at in batch["attention_mask"].nonzero().tolist():
        p, q = (F.log_softmax(out.logits[row, at] / 2, -1) for out in (t, s))
        soft.append((p.exp() * (p - q)).sum())
        cosine.append(1 - F.cosine_similarity(s.hidden_states[-1][row, at], t.hidden_states[-1][row, at], dim=0))
    labels.view(-1)[batch["positions"]] = batch["labels"]
    mlm = student.lm(**inputs, labels=labels).loss
    expected = 5 * 4 * torch.stack(soft).mean() + 2 * mlm + torch.stack(cosine).mean()
    assert value_of(DistilBERT(), student, encoder, batch) == pytest.approx(expected.item(), rel=1e-4)


def test_a_copy_of_the_teacher_is_left_with_the_loss_of_masked_word_pieces(
    encoder: MaskedLM, batch: dict[str, Tensor]
) -> None:
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["positions"]] = batch["labels"]
    mlm = encoder.lm.eval()(batch["input_ids"], batch["attention_mask"], labels=labels).loss.item()
    twin = copy.deepcopy(encoder)
    assert value_of(DistilBERT(), twin, encoder, batch) == pytest.approx(2 * mlm, rel=1e-5)
    assert value_of(DistilBERT(a_mlm=0), twin, encoder, batch) == pytest.approx(0, abs=1e-5)


def test_soft_targets_do_not_see_padding(encoder: MaskedLM, batch: dict[str, Tensor]) -> None:
    more = {name: F.pad(batch[name], (0, 4)) for name in ("input_ids", "attention_mask")}
    positions = more["attention_mask"].flatten().nonzero().squeeze(-1)
    student = half(encoder)
    short, padded = (value_of(SOFT, student, encoder, b) for b in (batch, {**batch, **more, "positions": positions}))
    assert padded == pytest.approx(short, rel=1e-5)


def test_soft_targets_are_a_mean_over_tokens(encoder: MaskedLM, batch: dict[str, Tensor]) -> None:
    student, whole, total = half(encoder), 0.0, 0
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: batch[name][rows] for name in ("input_ids", "attention_mask", "rows")}
        positions = part["attention_mask"].flatten().nonzero().squeeze(-1)
        labels = torch.full_like(positions, -100)
        whole += len(positions) * value_of(SOFT, student, encoder, {**part, "positions": positions, "labels": labels})
        total += len(positions)
    assert whole / total == pytest.approx(value_of(SOFT, student, encoder, batch), rel=1e-5)


# --- the student


def test_six_of_twelve_layers_are_the_papers() -> None:
    model = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=12, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )
    kept = [id(blocks(model)[i]) for i in (0, 2, 4, 7, 9, 11)]
    Run(model, {"it": LayerDrop(strategy="spread", drop=6)}, steps=1).prepare()
    assert [id(block) for block in blocks(model)] == kept


def test_without_token_types_and_pooler_the_student_has_the_papers_size() -> None:
    """66,362,880, which transformers' own DistilBERT has, too."""
    with torch.device("meta"):
        ours, theirs = Truncated(layers=6).build(BertModel(BertConfig())), DistilBertModel(DistilBertConfig())
    extra = [ours.pooler, ours.embeddings.token_type_embeddings]
    size = sum(p.numel() for p in ours.parameters()) - sum(p.numel() for m in extra for p in m.parameters())
    assert size == sum(p.numel() for p in theirs.parameters()) == 66_362_880


# --- the whole line


@pytest.fixture
def settings(toy: Path, toy_settings: list[str]) -> list[str]:
    """The recipe distilbert-corpus at toy size: two of four layers."""
    stage = ["updates=40", "lr=0.003", "batch_size=8", "accumulate=2", "evaluations=1", "precision=fp32"]
    return [
        *toy_settings,
        "teacher.epochs=2",
        f"corpus.texts=[{{dataset: {toy / 'reviews.csv'}}}]",
        "corpus.max_length=16",
        "corpus.held_out=16",
        "pretraining.1.techniques.1.drop=2",
        *(f"pretraining.{number}.{value}" for number in (0, 1) for value in stage),
        "pretraining.0.updates=120",
        "student.layers=2",
        "stages.0.epochs=1",
        "stages.0.evaluations=1",
        "export.int8=[static]",
    ]


def test_the_recipe_distils_half_of_the_layers_on_a_corpus(settings: list[str], tmp_path: Path) -> None:
    recipe = Recipe.read("distilbert-corpus", settings)
    made = compress(recipe, tmp_path / "student")
    folder = pretrained(recipe, Accelerator(cpu=True))
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    whole, half = report["perplexity_before"], report["perplexity"]
    assert whole < 34 and half < 1.05 * whole  # words are drawn at random: no model gets below 32
    assert set(report["history"][-1]) >= {"loss/distil/distilbert"}
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    assert json.loads((made.root / "config.json").read_text())["num_hidden_layers"] == 2
    assert Session(made).predict(["a fine film"]).scores.shape == (1, 2)


def test_layers_that_pretraining_will_have_dropped_are_refused_before_it(settings: list[str], tmp_path: Path) -> None:
    recipe = Recipe.read("distilbert-corpus", [*settings, "student.layers=4"])
    with pytest.raises(ValueError, match="keeps 1 to 2 layers of this teacher, got 4"):
        compress(recipe, tmp_path / "student")
    assert not (tmp_path / "cache" / "pretrained").exists()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("corpus.smoothing=-0.7", "greater than or equal to 0"),
        ("pretraining.1.predict=some", "'masked' or 'all'"),
    ],
)
def test_bad_input_is_one_error(setting: str, complaint: str, settings: list[str]) -> None:
    with pytest.raises(ValueError, match=complaint):
        Recipe.read("distilbert-corpus", [*settings, setting])
