"""Layer-wise Optimal Brain Surgeon against closed forms, numpy's least squares and an exhaustive search."""

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.anatomy import blocks
from compress.catalogue import techniques
from compress.fit import Sums, prune_and_fit, sparsities
from compress.hooks import record
from compress.patterns import BLOCKS
from compress.recipe import Choice, TrainRecipe
from compress.sensitivity import sensitivity
from compress.technique import NOT_INPUTS, Run, Technique
from compress.train import sample, train
from compress.weights import linears, zeros
from tests.compress.conftest import tiny_bert
from tests.compress.families import FAMILIES, tiny
from tests.compress.toy import examples

TINY = 1e-9  # damping that rounds away


def layer(outputs: int, inputs: int, tokens: int = 500) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sums]:
    """Weight, bias, correlated inputs in double precision, and the moments of the layer's own outputs."""
    generator = torch.Generator().manual_seed(outputs + inputs)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.double)
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.double) @ mix + 0.3
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.double)
    bias = torch.randn(outputs, generator=generator, dtype=torch.double)
    found = Sums.none(outputs, inputs, weight.device)
    found.gram, found.cross = found.gram.double(), found.cross.double()
    found.add(x[: tokens // 2], (x @ weight.T + bias)[: tokens // 2])
    found.add(x[tokens // 2 :], (x @ weight.T + bias)[tokens // 2 :])
    return weight, bias, x, found


def pruned(weight: Any, bias: Any, found: Sums, sparsity: float, pattern: str, rounds: int = 1, **options: Any) -> Any:
    keep, wanted = torch.ones_like(weight, dtype=torch.bool), sparsities(sparsity, rounds)
    return prune_and_fit(weight, bias, found, keep, wanted, pattern, **{"damping": TINY} | options)


def test_a_layer_that_loses_nothing_stays_as_it_is() -> None:
    weight, bias, _, found = layer(3, 8)
    fit, b, keep = pruned(weight, bias, found, 0.0, "unstructured", rounds=3)
    assert keep.all()
    torch.testing.assert_close(fit, weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(b, bias, rtol=1e-6, atol=1e-5)


def test_one_weight_goes_as_the_surgeon_has_it() -> None:
    """Oracle: eq. 5 of Hassibi and Stork, dw = -w_q / [H^-1]_qq H^-1 e_q; and the loss of every other choice."""
    weight, bias, x, found = layer(1, 8)
    fit, b, keep = pruned(weight, bias, found, 1 / 8, "unstructured")
    (gone,) = (~keep[0]).nonzero().flatten().tolist()

    ones = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    whole, inverse = np.append(weight.numpy(), bias.numpy()), np.linalg.inv(ones.T @ ones)
    expected = whole - whole[gone] / inverse[gone, gone] * inverse[:, gone]
    np.testing.assert_allclose(np.append(fit.numpy(), b.numpy()), expected, rtol=1e-5, atol=1e-6)

    target = ones @ whole
    losses = []
    for q in range(8):
        left = np.delete(ones, q, 1)
        losses.append(np.square(left @ np.linalg.lstsq(left, target, rcond=None)[0] - target).sum())
    assert gone == int(np.argmin(losses))


@pytest.mark.parametrize("pattern", [*BLOCKS, "2:4"])
def test_what_stays_is_the_least_squares_fit(pattern: str) -> None:
    """Oracle: numpy's lstsq on the inputs that each output keeps."""
    weight, bias, x, found = layer(32, 16)
    fit, b, keep = pruned(weight, bias, found, 0.5, pattern, rounds=3)
    target = (x @ weight.T + bias).numpy()
    for row in range(len(weight)):
        ones = np.concatenate([x.numpy()[:, keep[row].numpy()], np.ones((len(x), 1))], 1)
        best = np.linalg.lstsq(ones, target[:, row], rcond=None)[0]
        np.testing.assert_allclose(np.append(fit[row, keep[row]].numpy(), b[row].item()), best, rtol=1e-4, atol=1e-5)
    assert not fit[~keep].any()
    assert (~keep).float().mean() == 0.5


def test_a_token_counts_as_often_as_it_is_weighed() -> None:
    """Oracle: numpy's lstsq on rows times the root of their weight."""
    weight, bias, x, _ = layer(4, 8)
    target, counts = x @ weight.T + bias, torch.arange(len(x)).double() % 3
    found = Sums(torch.zeros(9, 9).double(), torch.zeros(9, 4).double())
    found.add(x, target, counts)
    fit, b, keep = pruned(weight, bias, found, 0.5, "unstructured")
    root = counts.sqrt().numpy()[:, None]
    for row in range(4):
        ones = np.concatenate([x.numpy()[:, keep[row].numpy()], np.ones((len(x), 1))], 1)
        best = np.linalg.lstsq(root * ones, root[:, 0] * target[:, row].numpy(), rcond=None)[0]
        np.testing.assert_allclose(np.append(fit[row, keep[row]].numpy(), b[row].item()), best, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_worth_more_keeps_more() -> None:
    weight, bias, x, _ = layer(1, 16)
    weight, bias = weight.repeat(2, 1), bias.repeat(2)
    found = Sums(torch.zeros(17, 17).double(), torch.zeros(17, 2).double())
    found.add(x, x @ weight.T + bias)
    keep = torch.ones(2, 16, dtype=torch.bool)
    worth = torch.tensor([1.0, 1e6]).double()
    _, _, left = prune_and_fit(weight, bias, found, keep, [0.5], "unstructured", damping=TINY, worth_O=worth)
    assert left.sum(1).tolist() == [0, 16]


@pytest.mark.parametrize("what", ["tokens", "outputs"])
def test_what_the_answer_hangs_on_decides_what_stays(
    what: str, student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two factors alone, the other made 1."""

    def one_factor(*arguments: Any, **options: Any) -> dict[str, Any]:
        found = sensitivity(*arguments, **options)
        for one in found.values():
            one.tokens = one.tokens if what == "tokens" else [torch.ones_like(batch) for batch in one.tokens]
            one.outputs = one.outputs if what == "outputs" else torch.ones_like(one.outputs)
        return found

    monkeypatch.setattr("compress.prune.obs.sensitivity", one_factor)
    masks = {}
    for floor in (0.0, 1.0):
        run = surgeon(copy.deepcopy(student), floor=floor, folder=tmp_path / str(floor))
        technique: Any = run.techniques["prune/obs"]
        masks[floor] = torch.cat([mask.keep.flatten() for _, mask in technique.pruned.values()])
    assert 0.01 < (masks[0.0] != masks[1.0]).float().mean() < 0.6


@pytest.mark.parametrize("pattern", BLOCKS)
def test_whole_blocks_go(pattern: str) -> None:
    weight, bias, _, found = layer(32, 16)
    _, _, keep = pruned(weight, bias, found, 0.75, pattern, rounds=2)
    rows, columns = BLOCKS[pattern]
    share = keep.view(32 // rows, rows, 16 // columns, columns).float().mean((1, 3))
    assert set(share.flatten().tolist()) <= {0.0, 1.0}
    assert (~keep).float().mean() == 0.75


def test_inputs_that_are_alike_and_independent_make_it_magnitude_pruning() -> None:
    weight, bias, _, _ = layer(8, 12)
    found = Sums(torch.eye(13).double(), torch.cat([weight.T, bias[None]]))
    fit, b, keep = pruned(weight, bias, found, 0.5, "unstructured", rounds=4)
    assert torch.equal(keep, weight.abs() > weight.abs().flatten().kthvalue(48).values)
    torch.testing.assert_close(fit, weight * keep)
    torch.testing.assert_close(b, bias)


def test_it_breaks_less_than_magnitude_and_more_rounds_no_more_than_one() -> None:
    weight, bias, x, found = layer(24, 16)
    target = x @ weight.T + bias

    def loss(fit: torch.Tensor, b: torch.Tensor) -> float:
        return float((x @ fit.T + b - target).square().sum())

    by_size = weight * (weight.abs() > weight.abs().flatten().kthvalue(24 * 12).values)
    once, often = (loss(*pruned(weight, bias, found, 0.75, "unstructured", rounds=n)[:2]) for n in (1, 6))
    assert often < once < loss(by_size, bias)


def test_what_is_gone_stays_gone() -> None:
    weight, bias, _, found = layer(8, 12)
    first = pruned(weight, bias, found, 0.25, "unstructured")[2]
    fit, _, keep = prune_and_fit(weight, bias, found, first, [0.25, 0.5], "unstructured", damping=TINY)
    assert not (keep & ~first).any()
    assert not fit[~keep].any()


def test_sparsity_of_the_rounds_ends_where_it_was_asked_to() -> None:
    assert sparsities(0.875, 3) == pytest.approx([0.5, 0.75, 0.875])
    assert sparsities(0.3, 1) == [0.3]
    assert sparsities(0.75, 2, begun=0.0) == pytest.approx([0.5, 0.75])
    assert sparsities(0.875, 2, begun=0.5) == pytest.approx([0.75, 0.875])


def test_no_cut_brings_back_what_another_took(student: Any, tmp_path: Path) -> None:
    seen: list[list[torch.Tensor]] = []

    class Watching(Technique):
        def after_update(self, run: Run) -> None:
            masks = [mask.keep.clone() for _, mask in run.techniques["prune/obs"].pruned.values()]  # type: ignore[attr-defined]
            seen.append(masks)

    chosen = techniques((Choice(use="supervised"), Choice(use="prune/obs", final=0.8, cuts=4, end=0.6)))
    run = Run(student, chosen | {"watching": Watching()}, steps=24)
    recipe = TrainRecipe(lr=1e-2, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    shares = [float(torch.cat([keep.flatten() for keep in masks]).float().mean()) for masks in seen]
    assert len(set(shares)) == 4
    for before, after in itertools.pairwise(seen):
        assert not any((new & ~old).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("broken", "says"), [(float("nan"), "not finite"), (float("inf"), "not finite")])
def test_inputs_that_are_not_finite_are_said(broken: float, says: str) -> None:
    weight, bias, _, found = layer(4, 8)
    found.gram[0, 0] = broken
    with pytest.raises(ValueError, match=says):
        pruned(weight, bias, found, 0.5, "unstructured")


def test_inputs_that_are_copies_of_one_another_ask_for_damping() -> None:
    weight, bias, x, _ = layer(4, 8)
    x[:, 1] = x[:, 0]
    found = Sums(torch.zeros(9, 9).double(), torch.zeros(9, 4).double())
    found.add(x, x @ weight.T + bias)
    with pytest.raises(ValueError, match="raise damping"):
        pruned(weight, bias, found, 0.5, "unstructured", damping=-1e-3)
    fit, _, _ = pruned(weight, bias, found, 0.5, "unstructured", damping=0.01)
    assert torch.isfinite(fit).all()


def surgeon(model: Any, *more: Choice, steps: int = 24, folder: Path, **fields: Any) -> Run:
    torch.manual_seed(0)  # of dropout
    chosen = (Choice(use="supervised"), Choice(use="prune/obs", **{"final": 0.75, "rounds": 2} | fields), *more)
    run = Run(model, techniques(chosen), steps=steps)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32", weight_decay=0.1)
    train(run, examples(), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return run


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "4x4", "16x4", "2:4"])
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_pruned_student_has_the_sparsity_that_was_asked_for(
    pattern: str, cuts: int, student: Any, tmp_path: Path
) -> None:
    run = surgeon(student, pattern=pattern, cuts=cuts, end=0.5 if cuts > 1 else 0.0, folder=tmp_path)
    expected = 0.5 if pattern == "2:4" else 0.75
    assert [float((layer.weight == 0).float().mean()) for _, layer in linears(run.model)] == [expected] * 12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_keeps_its_answers_better_than_by_magnitude(family: str) -> None:
    """One cut and no training; at each size a mask by magnitude is the other technique's own."""
    whole = tiny(family, hidden_size=32, intermediate_size=64) if family != "distilbert" else tiny(family, dim=32)
    texts = examples(200, size=32)
    apart = {}
    for use in ("prune/obs", "prune/magnitude"):
        model = copy.deepcopy(whole)
        run = Run(model, techniques((Choice(use=use, final=0.5),)), steps=1)
        run.sample = lambda count: sample(texts, count)
        run.prepare()
        (technique,) = run.techniques.values()
        technique.cut(run, 0.5) if use == "prune/obs" else technique.select(0.5)  # type: ignore[attr-defined]
        assert zeros(run.model) == pytest.approx(0.5, abs=0.01)
        apart[use] = sum(
            float((hidden(model, batch) - hidden(whole, batch)).square().sum()) for batch in sample(texts, 200)
        )
    assert apart["prune/obs"] < 0.7 * apart["prune/magnitude"]


def hidden(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the last block gives, padding left out."""
    with torch.no_grad(), record(blocks(model)[-1]) as seen:
        model.eval()(**{k: v for k, v in batch.items() if k not in NOT_INPUTS})
    return seen[0][batch["attention_mask"].bool()]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(student: Any, tmp_path: Path) -> None:
    """The cut is in the checkpoint: it is not made again."""
    straight = surgeon(copy.deepcopy(student), folder=tmp_path / "straight")

    class Stopping(Technique):
        def after_update(self, run: Run) -> None:
            if run.step == 15:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    chosen = techniques((Choice(use="supervised"), Choice(use="prune/obs", final=0.75, rounds=2)))
    run = Run(copy.deepcopy(student), chosen | {"stopping": Stopping()}, steps=24)
    recipe = TrainRecipe(lr=1e-3, evaluations=1, precision="fp32", weight_decay=0.1, checkpoint=10)
    with pytest.raises(KeyboardInterrupt):
        train(run, examples(), recipe, folder=tmp_path / "broken", evaluate=lambda _: 0.0, title="")

    again = surgeon(copy.deepcopy(student), folder=tmp_path / "broken")
    for a, b in itertools.zip_longest(straight.model.parameters(), again.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"final": 1.0}, r"final must be in \[0, 1\), got 1.0"),
        ({"final": -0.1}, "final must be"),
        ({"pattern": "3x3"}, "pattern must be one of"),
        ({"begin": 0.6, "end": 0.5}, "begin <= end"),
        ({"cuts": 0}, "cuts"),
        ({"rounds": 0}, "rounds"),
        ({"examples": 0}, "examples"),
        ({"damping": 0.0}, "damping must be above 0"),
        ({"floor": 1.5}, "floor in"),
    ],
)
def test_fields_that_cannot_work_are_said_before_training(fields: dict[str, Any], says: str, student: Any) -> None:
    run = Run(student, techniques((Choice(use="prune/obs", **fields),)), steps=10)
    with pytest.raises(ValueError, match=says):
        run.prepare()


def test_a_pattern_that_does_not_divide_a_matrix_is_said(student: Any) -> None:
    run = Run(tiny_bert(layers=1, width=12, seed=0), techniques((Choice(use="prune/obs", pattern="16x4"),)), steps=10)
    with pytest.raises(ValueError, match="16x4 must divide the shape"):
        run.prepare()
