"""Pruning against the papers' schedules, exact counts, and what must never change."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.catalogue import techniques
from compress.patterns import BLOCKS, keep_largest, masks, pruned_count, two_of_four
from compress.prune.magnitude import MagnitudePruning, cubic, selections
from compress.prune.rewind import cycles, saw_tooth
from compress.recipe import Choice, TrainRecipe
from compress.technique import Run
from compress.train import train
from compress.weights import linears
from tests.compress.toy import examples


@pytest.mark.parametrize(
    ("progress", "sparsity"),
    [(0.01, 0.0529), (0.05, 0.2439), (0.1, 0.4392), (0.2, 0.7056), (0.3, 0.8424), (0.5, 0.9), (1, 0.9)],
)
def test_sparsity_rises_as_prune_once_for_all_has_it(progress: float, sparsity: float) -> None:
    assert cubic(progress, 0, 0.5, 0, 0.9) == pytest.approx(sparsity, abs=5e-5)


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        (0.9, (0.700, 0.784, 0.841, 0.875, 0.893, 0.899, 0.900)),
        (0.97, (0.700, 0.814, 0.890, 0.936, 0.960, 0.969, 0.970)),
    ],
)
def test_sparsity_rises_as_gmp_star_has_it(final: float, expected: tuple[float, ...]) -> None:
    found = [cubic(epoch / 30, 2 / 30, 26 / 30, 0.7, final) for epoch in range(2, 27, 4)]
    assert found == pytest.approx(expected, abs=6e-4)
    assert cubic(1.9 / 30, 2 / 30, 26 / 30, 0.7, final) == 0


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.005, 0.5), (0.01, 1.0204), (0.25, 1.0204), (0.5, 1.0204), (0.75, 0.5102), (1, 0)]
)
def test_learning_rate_is_rewound_as_prune_once_for_all_has_it(progress: float, factor: float) -> None:
    assert saw_tooth(progress, warmup=0.01, begin=0, end=0.5, every=0.01) == pytest.approx(factor, abs=5e-5)


def test_learning_rate_starts_again_with_each_cycle_of_gmp_star() -> None:
    found = [cycles(epoch / 30, first=2 / 30, every=4 / 30, low=0.1) for epoch in (0, 1, 2, 4, 5.999, 6, 10, 14, 26)]
    assert found == pytest.approx([1, 0.55, 1, 0.55, 0.1, 1, 1, 1, 1], abs=1e-3)


@pytest.mark.parametrize("steps", [7, 100, 333])
def test_every_selection_point_is_passed_once(steps: int) -> None:
    points = [selections(step / steps, 0.1, 0.8, 0.05) for step in range(steps + 1)]
    assert points == sorted(points)
    assert points[0] == 0 and points[-1] == 15  # 0.10, 0.15, ..., 0.80


@pytest.mark.parametrize("pattern", BLOCKS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("together", [True, False])
def test_a_mask_drops_exactly_the_smallest_blocks(pattern: str, sparsity: float, together: bool) -> None:
    """Oracle: numpy's sort over blocks cut out one by one."""
    torch.manual_seed(0)
    weights = [torch.randn(32, 16).abs(), 3 * torch.randn(16, 24).abs()]
    found = masks(weights, sparsity, pattern, together=together)
    rows, columns = BLOCKS[pattern]
    blocks = [
        (at, o, i, weight[o : o + rows, i : i + columns].numpy().mean())
        for at, weight in enumerate(weights)
        for o in range(0, weight.shape[0], rows)
        for i in range(0, weight.shape[1], columns)
    ]
    for group in [blocks] if together else [[b for b in blocks if b[0] == at] for at in (0, 1)]:
        ranked = sorted(group, key=lambda block: block[3])
        dropped = int(np.floor(sparsity * len(ranked) + 1e-9))
        for rank, (at, o, i, _) in enumerate(ranked):
            assert found[at][o : o + rows, i : i + columns].float().mean() == (rank >= dropped)


def test_ties_are_dropped_to_the_exact_count() -> None:
    (keep,) = keep_largest([torch.ones(10)], 0.7)
    assert keep.sum() == 3
    assert [pruned_count(s, 10) for s in (0.7, 0.3, 0.29, 0.0)] == [7, 3, 2, 0]


def test_two_of_every_four_stay() -> None:
    """Oracle: every group of four, one by one."""
    weight = torch.randn(8, 16).abs()
    keep = two_of_four(weight)
    for row, start in itertools.product(range(8), range(0, 16, 4)):
        group = weight[row, start : start + 4]
        assert set(group[keep[row, start : start + 4]].tolist()) == set(group.sort().values[2:].tolist())


def sparsities(model: nn.Module) -> list[float]:
    return [(layer.weight == 0).float().mean().item() for _, layer in linears(model)]


def trained(model: Any, *chosen: Choice, folder: Path, steps: int = 40, **options: Any) -> Run:
    run = Run(model, techniques((Choice(use="supervised"), *chosen)), steps=steps)
    recipe = TrainRecipe(**{"lr": 1e-2, "evaluations": 1, "precision": "fp32", "weight_decay": 0.1} | options)
    train(run, examples(), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return run


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "4x4", "16x4", "2:4"])
def test_a_pruned_student_has_the_sparsity_that_was_asked_for(pattern: str, student: Any, tmp_path: Path) -> None:
    run = trained(student, Choice(use="prune/magnitude", final=0.75, pattern=pattern, every=0.1), folder=tmp_path)
    assert sparsities(run.model) == [0.5 if pattern == "2:4" else 0.75] * 12


def test_global_ranking_reaches_its_sparsity_over_all_layers(student: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        for _, layer in linears(student):
            layer.weight.mul_(torch.rand(()) + 0.1)
    run = trained(student, Choice(use="prune/magnitude", final=0.6, scope="global"), folder=tmp_path)
    zeros = sum(int((layer.weight == 0).sum()) for _, layer in linears(run.model))
    assert zeros == int(0.6 * sum(layer.weight.numel() for _, layer in linears(run.model)))
    assert np.ptp(sparsities(run.model)) > 0.1


class Watch(MagnitudePruning):
    """Remembers the pattern after every update."""

    def after_update(self, run: Run) -> None:
        super().after_update(run)
        if not hasattr(self, "seen"):
            self.seen: list[tuple[float, torch.Tensor]] = []
        self.seen.append((run.progress, torch.cat([mask.keep.flatten() for _, mask in self.pruned])))


@pytest.mark.parametrize("regrow", [True, False])
def test_the_pattern_is_locked_after_the_last_selection(regrow: bool, student: Any, tmp_path: Path) -> None:
    watch = Watch(final=0.5, end=0.4, last=0.6, every=0.05, regrow=regrow)
    run = Run(student, {"supervised": techniques((Choice(use="supervised"),))["supervised"], "it": watch}, steps=40)
    recipe = TrainRecipe(lr=5e-2, evaluations=1, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda _: 0.0, title="")
    tail = [keep for progress, keep in watch.seen if progress >= 0.6]
    assert all(torch.equal(keep, tail[0]) for keep in tail)
    pairs = list(itertools.pairwise(keep for _, keep in watch.seen))
    came_back = sum(int((later & ~earlier).sum()) for earlier, later in pairs)
    assert (came_back > 0) == regrow


def test_locked_zeros_survive_adam_and_weight_decay(student: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        for _, layer in linears(student):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.8)
    before = [layer.weight == 0 for _, layer in linears(student)]
    values = [layer.weight.clone() for _, layer in linears(student)]
    run = trained(student, Choice(use="prune/lock"), folder=tmp_path)
    after = [layer.weight for _, layer in linears(run.model)]
    assert all(torch.equal(zero, weight == 0) for zero, weight in zip(before, after, strict=True))
    assert not any(torch.equal(old, new) for old, new in zip(values, after, strict=True))


def test_no_sparsity_is_plain_training(student: Any, tmp_path: Path) -> None:
    import copy

    weights = []
    for chosen in ((), (Choice(use="prune/magnitude", final=0.0),)):
        torch.manual_seed(0)
        run = trained(copy.deepcopy(student), *chosen, folder=tmp_path / str(len(chosen)))
        weights.append(torch.cat([p.detach().flatten() for _, p in sorted(run.model.named_parameters())]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"final": 1.0}, "initial <= final < 1"),
        ({"final": -0.1}, "initial <= final < 1"),
        ({"initial": 0.95}, "initial <= final < 1"),
        ({"begin": 0.6}, "begin < end"),
        ({"last": 0.4}, "end <= last"),
        ({"every": 0}, "every must be above 0"),
        ({"pattern": "3x3"}, "one of unstructured, 4x1"),
        ({"pattern": "32x4"}, "one of unstructured, 4x1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(fields: dict[str, Any], message: str, student: Any) -> None:
    (technique,) = techniques((Choice(use="prune/magnitude", **fields),)).values()
    with pytest.raises(ValueError, match=message):
        technique.prepare(Run(student, {}, steps=1))


def test_a_pattern_must_divide_the_weights(student: Any) -> None:
    odd = nn.Linear(16, 18)
    next(iter(student.bert.encoder.layer)).intermediate.dense = odd
    with pytest.raises(ValueError, match=r"16x4 must divide the shape of .*intermediate.dense, which is \[18, 16\]"):
        MagnitudePruning(pattern="16x4").prepare(Run(student, {}, steps=1))


def test_locking_a_dense_model_is_refused(student: Any) -> None:
    (technique,) = techniques((Choice(use="prune/lock"),)).values()
    with pytest.raises(ValueError, match=r"only 0.0% of this one's weights are zero"):
        technique.prepare(Run(student, {}, steps=1))
