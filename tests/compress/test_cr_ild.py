"""CR-ILD against closed forms: what mixing may change, what it may not, and when consistency counts."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.anatomy import blocks, embeddings
from compress.catalogue import TECHNIQUES
from compress.distil import cr_ild
from compress.distil.cr_ild import CRILD, Features, attention_loss, consistency_loss, ild_loss, mix, union
from compress.distil.tinybert import attention_scores
from compress.hooks import record, rewrite
from compress.technique import Run, Step
from tests.compress.conftest import tiny_bert
from tests.compress.families import FAMILIES, texts, tiny


def drawn(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(cr_ild, "mixing", lambda: share)


def value_of(technique: CRILD, student: nn.Module, teacher: nn.Module, batch: dict[str, Any], at: int = 0) -> Tensor:
    """The term on one batch when `at` tenths of the run are done, dropout off."""
    run = Run(student.eval(), {"it": technique}, steps=10, step=at, teacher=teacher.eval(), rows=len(batch["rows"]))
    run.prepare()
    return technique.loss(Step(run, batch))


def features(*, batch: int = 4, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(batch, 2, 5, 5, generator=generator), torch.randn(batch, 5, 8, generator=generator))


def entropy(scores_BHLL: Tensor) -> float:
    """Mean over rows; torch's own formula."""
    return torch.distributions.Categorical(logits=scores_BHLL).entropy().mean().item()


def last_scores(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    attention = blocks(model)[-1].attention.self
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    state = model(**inputs, output_hidden_states=True).hidden_states[-2]
    return attention_scores(attention.query(state), attention.key(state), heads=2)


@pytest.mark.parametrize(
    ("masks", "expected"), [(("1100", "1111"), "1111"), (("1100", "1110"), "1110"), (("1000", "0011"), "1011")]
)
def test_a_mixed_text_is_as_long_as_the_longer(masks: tuple[str, str], expected: str) -> None:
    found = union(torch.tensor([[int(c) for c in mask] for mask in masks]))
    assert found.tolist() == [[int(c) for c in expected]] * 2


def test_a_batch_is_mixed_with_its_reverse() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    assert mix(x, 0.75).tolist() == [0.75 + 1, 2, 3 + 0.25]  # the one in the middle with itself
    shares = [cr_ild.mixing() for _ in range(400)]
    assert 0.5 <= min(shares) < 0.51 and 0.99 < max(shares) < 1  # the greater half of a uniform draw
    assert sum(shares) / 400 == pytest.approx(0.75, abs=0.03)


def test_attention_is_compared_over_real_keys_and_queries() -> None:
    """Oracle: the rows and columns that are padded, cut out."""
    mine, theirs = features(batch=1), features(batch=1, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    student, target = (x.scores[:, :, :3, :3] for x in (mine, theirs))
    expected = -(target.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    found = attention_loss(mine.scores, theirs.scores, mask)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    shifted = mine.scores + torch.randn(1, 2, 5, 1)  # of a row: the softmax does not see it
    assert attention_loss(shifted, theirs.scores, mask).item() == pytest.approx(found.item(), rel=1e-5)


def test_a_student_that_is_its_teacher_is_left_with_the_entropy() -> None:
    target = features()
    scores = target.scores.clone().requires_grad_()
    loss = ild_loss(Features(scores, target.hidden), target, torch.ones(4, 5))
    loss.backward()
    assert loss.item() == pytest.approx(entropy(target.scores), rel=1e-6)
    assert scores.grad.abs().max() < 1e-7


def test_a_copy_of_the_teacher_scores_the_entropy_of_its_attention(teacher: Any, batch: Any) -> None:
    """Nothing is mixed, so the model's own attention is the oracle; the projection begins as the identity."""
    batch = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    loss = value_of(CRILD(mixup=False), copy.deepcopy(teacher), teacher, batch)
    assert loss.item() == pytest.approx(entropy(last_scores(teacher, batch)), rel=1e-5)


def test_an_unmixed_batch_is_consistent_with_itself(
    student: Any, teacher: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lambda = 1, no padding: what consistency adds is the entropy of the student's own attention."""
    batch = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    drawn(monkeypatch, 1.0)
    without, with_it = (value_of(CRILD(w_ic=w), student, teacher, batch, at=5).item() for w in (0.0, 1.0))
    assert with_it - without == pytest.approx(0.5 * entropy(last_scores(student, batch)), rel=1e-5)
    same = features()
    assert consistency_loss(same, same, torch.ones(4, 5), 1.0).item() == pytest.approx(entropy(same.scores))


def test_consistency_weighs_each_text_by_its_share() -> None:
    """By hand, hidden states alone: flat attention over five keys adds ln 5 whatever is mixed."""
    flat = torch.zeros(2, 1, 5, 5)
    mixed, plain = (Features(flat, torch.tensor([a, b]).view(2, 1, 1).expand(2, 5, 3)) for a, b in ((1.0, 3), (0, 7)))
    expected = 0.7 * (1 + 16) / 2 + 0.3 * (36 + 9) / 2 + torch.tensor(5.0).log().item()
    assert consistency_loss(mixed, plain, torch.ones(2, 5), 0.7).item() == pytest.approx(expected, rel=1e-6)


def test_consistency_masks_each_target_by_its_own_length() -> None:
    mixed, plain = features(batch=2), features(batch=2, seed=1)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    changed = Features(plain.scores.clone(), plain.hidden.clone())
    changed.scores[0, :, 2:] = changed.scores[0, :, :, 2:] = 9
    changed.hidden[0, 2:] = 9
    one, other = (consistency_loss(mixed, x, mask, 0.6).item() for x in (plain, changed))
    assert one == pytest.approx(other, rel=1e-6)


def test_consistency_is_nothing_at_the_start(student: Any, teacher: Any, batch: Any, monkeypatch: Any) -> None:
    drawn(monkeypatch, 0.7)
    values = [[value_of(CRILD(w_ic=w), student, teacher, batch, at=at).item() for w in (0.0, 9.0)] for at in (0, 1)]
    assert values[0][0] == values[0][1] and values[1][0] < values[1][1]


def test_texts_that_read_the_same_backwards_do_not_see_the_mixing(
    student: Any, teacher: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.tensor([0, 1, 1, 0])
    batch = {name: value[rows] for name, value in batch.items()}
    found = []
    for share in (0.5, 0.8, 1.0):
        drawn(monkeypatch, share)
        found.append(value_of(CRILD(), student, teacher, batch, at=5).item())
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_mixing_changes_what_other_texts_see(student: Any, teacher: Any, batch: Any, monkeypatch: Any) -> None:
    found = []
    for share in (0.5, 1.0):
        drawn(monkeypatch, share)
        found.append(value_of(CRILD(), student, teacher, batch).item())
    assert abs(found[0] - found[1]) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_embedding_is_mixed(family: str) -> None:
    """What the first block is given, in every family: mixed vectors, and no hook left behind."""
    model = tiny(family)
    with record(embeddings(model)) as plain:
        model(**texts())
    with rewrite(embeddings(model), lambda x: mix(x, 0.7)):
        states = model(**texts(), output_hidden_states=True).hidden_states[0]
    expected = 0.7 * plain[0] + 0.3 * plain[0].flip(0)
    if family == "electra":
        expected = model.base_model.embeddings_project(expected)
    assert torch.allclose(states, expected, atol=1e-6)
    assert not embeddings(model)._forward_hooks


def test_rewriting_keeps_the_rest_of_a_tuple() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x, "rest"

    module = Pair()
    with rewrite(module, lambda x: 2 * x):
        assert module(torch.ones(1)) == (torch.full((1,), 2.0), "rest")
    assert module(torch.ones(1)) == (torch.ones(1), "rest")


def test_only_the_mixed_student_learns(student: Any, teacher: Any, batch: Any) -> None:
    teacher.requires_grad_(False)
    technique = CRILD(w_ic=1.0)
    loss = value_of(technique, student, teacher, batch, at=9)
    loss.backward()
    assert blocks(student)[-1].attention.self.query.weight.grad.abs().sum() > 0
    assert technique.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.classifier.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_narrow_student_is_projected(teacher: Any, batch: Any) -> None:
    technique = CRILD()
    assert value_of(technique, tiny_bert(layers=2, width=8, seed=2), teacher, batch, at=5).isfinite()
    assert technique.project.weight.shape == (16, 8)


def test_training_brings_the_last_layers_together(student: Any, teacher: Any, batch: Any) -> None:
    run = Run(student, {"it": CRILD()}, steps=60, teacher=teacher, rows=4)
    run.prepare()
    optimiser = torch.optim.Adam([*student.parameters(), *run.owned.parameters()], lr=1e-2)
    torch.manual_seed(0)
    losses = []
    for run.step in range(60):
        optimiser.zero_grad()
        losses.append(run.techniques["it"].loss(Step(run, batch)))
        losses[-1].backward()
        optimiser.step()
    floor = entropy(last_scores(teacher, batch))
    assert sum(losses[-5:]).item() / 5 - floor < 0.5 * (sum(losses[:5]).item() / 5 - floor)


def test_bad_input_is_one_error(student: Any, teacher: Any, batch: Any) -> None:
    with pytest.raises(ValueError, match="w_ic must be 0 or more, got -1"):
        value_of(CRILD(w_ic=-1), student, teacher, batch)
    other = tiny("bert")
    with pytest.raises(ValueError, match="last layer has 4 heads, the teacher's 2"):
        value_of(CRILD(), other, teacher, batch)


def test_it_stands_in_the_catalogue() -> None:
    assert TECHNIQUES["distil/cr-ild"] is CRILD
