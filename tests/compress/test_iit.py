"""Interchange interventions: what a swap must leave alone, what it must become, and where its gradient goes."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from compress.anatomy import blocks, encoder_path
from compress.catalogue import techniques
from compress.distil.iit import (
    InterchangeIntervention,
    Swap,
    counterfactual_loss,
    draw,
    interchange,
    late,
    middle,
    multi,
)
from compress.distil.logits import soft_loss
from compress.hooks import record, rewrite, taps
from compress.masked import MaskedLM
from compress.recipe import Choice, TrainRecipe
from compress.students.truncated import Truncated
from compress.technique import NOT_INPUTS, Run, Step
from compress.train import train
from tests.compress.conftest import tiny_bert
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples

WHOLE = torch.ones(4, 12, dtype=torch.long)
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
WIDE = {"max_position_embeddings": 16, "initializer_range": 0.2}


def layers_of(model: nn.Module) -> list[str]:
    return [f"{encoder_path(model)}.{i}" for i in range(len(blocks(model)))]


def changed(model: nn.Module, batch: dict[str, Tensor], at: Sequence[int], swap: Swap, *, below: int = 0) -> Any:
    """(logits, last states) where the source's states, read so many layers `below`, stand in the output of `at`."""
    names, inputs = layers_of(model), {k: v for k, v in batch.items() if k not in NOT_INPUTS}
    with taps(model, names) as seen:
        model(**inputs)
    states = {layer: seen[names[layer - below]][0] for layer in at}
    with ExitStack() as stack:
        for layer, state in states.items():
            change = partial(interchange, states_BLD=state, swap=swap)
            stack.enter_context(rewrite(model.get_submodule(names[layer]), change))
        last = stack.enter_context(record(model.get_submodule(names[-1])))
        return model(**inputs).logits, last[0]


def own_places(where: Callable[[Tensor], Tensor]) -> Swap:
    """Each text takes from itself what stands there already."""
    at_BL = torch.arange(12).expand(4, 12)
    return Swap(torch.arange(4), where(at_BL), at_BL)


def prepared(student: Any, teacher: Any, **fields: Any) -> tuple[InterchangeIntervention, Run]:
    """Dropout off."""
    technique = InterchangeIntervention(**fields)
    run = Run(student.eval(), {"it": technique}, steps=1, teacher=teacher.eval())
    run.prepare()
    return technique, run


# --- hooks


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + 1, "beside"


def test_what_is_rewritten_is_what_follows_and_what_is_recorded() -> None:
    module, x = Pair(), torch.zeros(3)
    with rewrite(module, lambda y: y * 5), record(module) as seen:
        assert module(x)[0].tolist() == [5, 5, 5] and module(x)[1] == "beside"
    assert seen[0].tolist() == [5, 5, 5] and module(x)[0].tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError), rewrite(module, lambda _: 1 / 0):
        raise RuntimeError
    assert not module._forward_hooks


# --- swaps


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_takes_its_own_vectors_answers_as_before(family: str) -> None:
    model, swap = tiny(family), own_places(lambda at: (at > 1) & (at < 7))
    with torch.no_grad():
        expected = model(**texts()).logits
        for at in ([0], [2], [0, 1, 2]):
            assert (changed(model, texts(), at, swap)[0] - expected).abs().max() < 1e-5
        if family != "electra":  # an input of a layer for its output is no interchange
            assert (changed(model, texts(), [1], swap, below=1)[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_takes_all_vectors_answers_as_its_source(family: str) -> None:
    model, inputs = tiny(family), texts() | {"attention_mask": WHOLE}
    swap = draw(WHOLE, 1.0)
    with torch.no_grad():
        plain = model(**inputs).logits
        for layer in range(3):
            assert torch.allclose(changed(model, inputs, [layer], swap)[0], plain[swap.source], atol=1e-5)
    assert (plain[swap.source] - plain).abs().max() > 1e-2


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_text_is_its_own_source(count: int) -> None:
    for _ in range(20):
        source, seen, at = draw(torch.ones(count, 5), 0.3).source, set(), 0
        for _ in range(count):
            seen.add(at)
            at = int(source[at])
        assert len(seen) == count and at == 0  # one cycle through all


def test_a_lone_text_is_its_own_source() -> None:
    assert draw(torch.ones(1, 5), 0.3).source.tolist() == [0]


@pytest.mark.parametrize(("share", "lengths"), [(0.3, (12, 7, 2, 10)), (1.0, (12, 7, 2, 10)), (0.05, (12, 3, 3, 3))])
def test_spans_are_of_real_tokens_and_as_long_as_asked(share: float, lengths: tuple[int, ...]) -> None:
    mask, starts = torch.tensor([[1] * n + [0] * (12 - n) for n in lengths]), set()
    for _ in range(200):
        swap = draw(mask, share)
        for text, (span, place) in enumerate(zip(swap.span, swap.place, strict=True)):
            source = int(swap.source[text])
            at, taken = span.nonzero().flatten().tolist(), place[span].tolist()
            assert len(at) == max(1, int(share * min(lengths[text], lengths[source])))
            assert at == list(range(at[0], at[0] + len(at))) and at[-1] < lengths[text]
            assert taken == list(range(taken[0], taken[0] + len(at))) and taken[-1] < lengths[source]
            starts |= {(text, at[0], lengths[text] - at[-1])}
    assert {start for text, start, _ in starts if text == 0} >= {0}
    assert {rest for text, _, rest in starts if text == 0} >= {1}  # the last token is reached


def test_vectors_move_in_order_and_out_of_place() -> None:
    own = torch.arange(10.0).view(2, 5, 1)
    swap = Swap(
        torch.tensor([1, 0]),
        torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool(),
        torch.tensor([[0, 3, 4, 3, 4], [0, 1, 2, 0, 4]]),
    )
    assert interchange(own, own * 10, swap).flatten().tolist() == [0, 80, 90, 3, 4, 5, 6, 7, 0, 9]
    assert own.flatten().tolist() == list(range(10))


# --- alignments


def test_layers_are_aligned_as_in_the_release() -> None:
    assert multi(6, 12) == [(i, [2 * i, 2 * i + 1]) for i in range(6)]
    assert multi(3, 12) == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9, 10, 11])]
    assert multi(4, 6) == [(0, [0]), (1, [1, 2]), (2, [3]), (3, [4, 5])]
    assert middle(6, 12) == [(3, [6])] and middle(3, 12) == [(1, [6])]
    assert late(6, 12) == [(3, [9]), (4, [10])] and late(3, 12) == [(1, [9]), (2, [10])]
    assert late(1, 12) == [(0, [9])] and late(2, 2) == [(1, [1])]


def test_each_update_draws_one_alignment() -> None:
    teacher = tiny_bert(layers=12, width=16, seed=0)
    technique, run = prepared(Truncated(layers=3).build(teacher), teacher)
    batch, seen = examples().update(0)[0], []
    technique.changed = lambda step, model, names, swap: seen.append(names) or step.forward(model)  # type: ignore[method-assign]
    for _ in range(30):
        technique.loss(Step(run, batch))
    assert {tuple(names) for names in seen[::2]} == {(f"bert.encoder.layer.{i}",) for i in range(3)}
    for student, theirs in zip(seen[::2], seen[1::2], strict=True):
        first = 4 * int(student[0][-1])
        assert theirs == [f"bert.encoder.layer.{first + i}" for i in range(4)]


def test_pairs_of_one_student_layer_change_together(student: Any, teacher: Any) -> None:
    technique, _ = prepared(student, teacher, alignment=((2, 4), (1, 1), (2, 3)))
    at = "bert.encoder.layer."
    assert technique.pairs == [([f"{at}0"], [f"{at}0"]), ([f"{at}1"], [f"{at}3", f"{at}2"])]


# --- losses


def test_answers_at_tokens_count_real_ones_alone() -> None:
    student, teacher, mask = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.tensor([[1, 1, 1], [1, 0, 0]])
    expected = []
    for row, token in ((0, 0), (0, 1), (0, 2), (1, 0)):
        p, q = (x[row, token].div(2).softmax(-1) for x in (teacher, student))
        expected.append(4 * (p * (p / q).log()).sum().item())
    assert counterfactual_loss(student, teacher, mask, 2).item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert counterfactual_loss(student[:, 0], teacher[:, 0], mask, 2) == soft_loss(student[:, 0], teacher[:, 0], 2)


def sentences() -> tuple[Any, Any, dict[str, Tensor]]:
    return tiny_bert(layers=2, width=16, seed=2), tiny_bert(layers=4, width=16, seed=1), examples().update(0)[0]


def tagger(layers: int, seed: int) -> Any:
    torch.manual_seed(seed)
    return BertForTokenClassification(BertConfig(**SIZES, **WIDE, num_hidden_layers=layers, num_labels=5))


def tags() -> tuple[Any, Any, dict[str, Tensor]]:
    batch = examples().update(0)[0]
    return tagger(2, 2), tagger(4, 1), batch | {"labels": batch["input_ids"] % 5}


def masked_lm(layers: int, seed: int) -> MaskedLM:
    torch.manual_seed(seed)
    return MaskedLM(BertForMaskedLM(BertConfig(**SIZES, **WIDE, num_hidden_layers=layers)))


def corpus() -> tuple[Any, Any, dict[str, Tensor]]:
    """As `compress.corpus` has it: answers at the positions that were masked."""
    ids = torch.randint(5, 64, (4, 12), generator=torch.Generator().manual_seed(3))
    positions = torch.tensor([1, 5, 14, 30, 31, 47])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "positions": positions}
    return masked_lm(2, 2), masked_lm(4, 1), batch | {"labels": ids.flatten()[positions], "rows": torch.arange(4)}


@pytest.mark.parametrize("task", [sentences, tags, corpus])
@pytest.mark.parametrize("alignment", ["multi", "middle", "late"])
def test_the_loss_is_that_of_both_changed_runs(task: Any, alignment: Any) -> None:
    """Two swaps each worked out again, in a run of its own, from what was drawn."""
    student, teacher, batch = task()
    technique, run = prepared(student, teacher, a_cf=0.7, a_cfcos=0.4, alignment=alignment)
    mask = batch["attention_mask"]
    for seed in (0, 1):
        torch.manual_seed(seed)
        loss = technique.loss(Step(run, batch))
        torch.manual_seed(seed)
        swap, pairs = draw(mask, 0.3), {"multi": multi, "middle": middle, "late": late}[alignment](2, 4)
        layer, layers = pairs[int(torch.randint(len(pairs), ()))]
        (mine, state), (theirs, its) = changed(student, batch, [layer], swap), changed(teacher, batch, layers, swap)
        if mine.ndim == 3:
            mine, theirs = mine[mask.bool()], theirs[mask.bool()]
        p, q = (theirs / 2).softmax(-1), (mine / 2).softmax(-1)
        expected = 0.7 * 4 * (p * (p.log() - q.log())).sum(-1).mean()
        expected += 0.4 * (1 - F.cosine_similarity(state, its, dim=-1))[mask.bool()].mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4) and expected > 0.01
    assert mine.shape[0] == {"sentences": 8, "tags": int(mask.sum()), "corpus": 6}[task.__name__]


@pytest.mark.parametrize("task", [sentences, tags, corpus])
def test_a_student_that_is_its_teacher_loses_nothing(task: Any) -> None:
    _, teacher, batch = task()
    for alignment in ("multi", "middle", ((1, 1), (4, 4)), "tokens"):
        technique, run = prepared(copy.deepcopy(teacher), teacher, alignment=alignment, share=0.6)
        for _ in range(4):
            assert technique.loss(Step(run, batch)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("detached", [False, True])
def test_below_the_swap_only_the_source_is_taught(detached: bool, teacher: Any, batch: Any) -> None:
    """All vectors of the second layer swapped: the base itself reaches nothing any more."""
    student = tiny_bert(layers=3, width=16, seed=2)
    technique, run = prepared(student, teacher, a_cfcos=0, share=1.0, alignment=((2, 2),))
    step = Step(run, batch | {"attention_mask": WHOLE})
    if detached:
        step.student.taps = {name: state.detach() for name, state in step.student.taps.items()}
    technique.loss(step).backward()
    reached = [
        any(w.grad is not None and w.grad.abs().max() > 1e-7 for w in module.parameters())
        for module in (student.bert.embeddings, *blocks(student))
    ]
    assert reached == [not detached] * 3 + [True]


def test_swapped_tokens_are_another_input(student: Any, teacher: Any, batch: Any) -> None:
    """The control: both networks read the swapped texts, and no vector moves."""
    technique, run = prepared(student, teacher, alignment="tokens", a_cf=1.0, a_cfcos=0.0)
    torch.manual_seed(5)
    loss = technique.loss(Step(run, batch))
    torch.manual_seed(5)
    swap, ids = draw(batch["attention_mask"], 0.3), batch["input_ids"].clone()
    for text in range(4):
        for at in range(12):
            if swap.span[text, at]:
                ids[text, at] = batch["input_ids"][swap.source[text], swap.place[text, at]]
    assert (ids != batch["input_ids"]).any()
    logits = [model(input_ids=ids, attention_mask=batch["attention_mask"]).logits for model in (student, teacher)]
    assert loss.item() == pytest.approx(soft_loss(*logits, 2).item(), rel=1e-5)
    assert not run.tapped[teacher]


def test_each_network_runs_once_more(student: Any, teacher: Any, batch: Any) -> None:
    technique, run = prepared(student, teacher)
    technique.loss(Step(run, batch))
    assert run.cost == {"student": 8, "teacher": 8}


def test_it_teaches_to_answer_alike_when_vectors_are_swapped(tmp_path: Path) -> None:
    """The tagger's share of real tokens on which both changed runs agree, on swaps that training never saw."""
    student, teacher, batch = tags()
    data = [{**b, "labels": b["input_ids"] % 5} for step in range(6) for b in examples().update(step)]

    def agreement(model: nn.Module) -> float:
        found = []
        for seed in range(10):
            torch.manual_seed(1000 + seed)
            swap, (s, t) = draw(batch["attention_mask"], 0.3), multi(2, 4)[seed % 2]
            with torch.no_grad():
                mine, theirs = changed(model, batch, [s], swap)[0], changed(teacher, batch, t, swap)[0]
            found.append((mine.argmax(-1) == theirs.argmax(-1))[batch["attention_mask"].bool()].float().mean().item())
        return sum(found) / len(found)

    before = agreement(student.eval())
    run = Run(student, {"it": InterchangeIntervention()}, steps=120, teacher=teacher.eval().requires_grad_(False))

    class Tags:
        def __len__(self) -> int:
            return len(data)

        def rows(self, step: int) -> Any:
            return data[step % len(data)]["rows"].numpy()

        def update(self, step: int) -> list[dict[str, Tensor]]:
            return [data[step % len(data)]]

    options = TrainRecipe(lr=3e-3, evaluations=1, keep="last", precision="fp32")
    train(run, Tags(), options, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    assert agreement(run.model) > before + 0.2


# --- what cannot be


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alignment": ((1, 5),)}, r"aligns layers 1-2 to 1-4, got \(1, 5\)"),
        ({"alignment": ((0, 1),)}, r"aligns layers 1-2 to 1-4, got \(0, 1\)"),
        ({"alignment": ()}, "at least one pair"),
        ({"alignment": "early"}, "'multi', 'middle', 'late'"),
        ({"share": 0}, "share must be above 0 and up to 1, got 0"),
        ({"share": 1.1}, "share must be above 0"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], message: str, student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match=message):
        Run(student, techniques((Choice(use="distil/iit", **fields),)), steps=1, teacher=teacher).prepare()


def test_states_of_other_widths_are_swapped_but_not_compared(teacher: Any, batch: Any) -> None:
    narrow = tiny_bert(layers=2, width=8, seed=0)
    with pytest.raises(ValueError, match="student has 8, the teacher 16: set a_cfcos to 0"):
        prepared(narrow, teacher)
    technique, run = prepared(narrow, teacher, a_cfcos=0)
    assert technique.loss(Step(run, batch)) > 0


def test_a_student_deeper_than_its_teacher_has_no_layer_each(student: Any, teacher: Any) -> None:
    with pytest.raises(ValueError, match="the student has 4, the teacher 2: take middle or late"):
        prepared(teacher, student)
    prepared(teacher, student, alignment="middle")
