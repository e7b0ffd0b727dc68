"""Stochastic weight averaging against closed forms of gradient descent, and what a run then delivers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.prune.magnitude import MagnitudePruning
from compress.recipe import Choice, TrainRecipe
from compress.regularise.swa import SWA, held, next_mean, points
from compress.supervised import Supervised
from compress.technique import Run, Technique
from compress.train import train
from compress.weights import linears
from tests.compress.toy import examples


class Numbers(nn.Module):
    """A model that is nothing but its weights."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(values)


def walked(technique: SWA, values: Tensor, gradient: Any, *, steps: int, lr: float) -> tuple[Tensor, Tensor]:
    """The last iterate of plain gradient descent, and the weights that the technique leaves."""
    run = Run(Numbers(values), {"it": technique}, steps=steps)
    run.prepare()
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=lr)
    x = run.model.x
    for _ in range(steps):
        x.grad = gradient(x.detach())
        technique.before_update(run)
        run.optimizer.step()
        last, run.step = x.detach().clone(), run.step + 1
        technique.after_update(run)
    run.finish()
    return last, run.model.x.detach()


def test_the_mean_of_gradient_descent_has_its_closed_form() -> None:
    """q = 1 - eta a; the mean of n points c updates apart is x0 q^(s+c) (1 - q^(cn)) / (n (1 - q^c)) = 0.0217382377."""
    technique = SWA(start=10 / 25, every=3, warmup=0)
    last, mean = walked(technique, torch.ones(1, dtype=torch.float32), lambda x: 2 * x, steps=25, lr=0.1)
    assert int(technique.average.count) == 5
    assert last.item() == pytest.approx(0.8**25, rel=1e-5)
    assert mean.item() == pytest.approx(0.0217382377, rel=1e-6)


def test_averaging_takes_out_noise() -> None:
    """x <- q x + eta noise from its stationary law: variance 0.05263 of an iterate, 0.000991 of 1000 in a row."""
    torch.manual_seed(0)
    begun = torch.randn(20_000) * 0.05263**0.5  # eta^2 / (1 - q^2) with eta = 0.1
    technique = SWA(start=0.0, every=1, warmup=0)
    last, mean = walked(technique, begun, lambda x: x - torch.randn_like(x), steps=1000, lr=0.1)
    assert last.var().item() == pytest.approx(0.05263, rel=0.1)
    assert mean.var().item() == pytest.approx(0.000991, rel=0.1)


def test_one_point_is_that_point_bit_for_bit() -> None:
    torch.manual_seed(0)
    last, mean = walked(SWA(start=0.5, every=5, warmup=0), torch.randn(50), lambda x: x.sin(), steps=10, lr=0.1)
    assert torch.equal(last, mean)


def test_means_of_half_precision_weights_do_not_lose_small_steps() -> None:
    mean = torch.zeros(1)
    for count, value in enumerate([1.0] * 500 + [1.0078125] * 500):
        mean = next_mean(mean, torch.tensor([value], dtype=torch.bfloat16).float(), count)
    assert mean.item() == pytest.approx(1.00390625, abs=1e-5)


def test_points_are_even_and_at_most_one_an_update() -> None:
    at = [step for step in range(1, 1001) if points(step, 1000, 0.5, None) > points(step - 1, 1000, 0.5, None)]
    assert at == list(range(505, 1001, 5))
    assert sum(points(s, 40, 0.5, None) > points(s - 1, 40, 0.5, None) for s in range(1, 41)) == 20
    assert [step for step in range(1, 26) if points(step, 25, 0.4, 3) > points(step - 1, 25, 0.4, 3)] == [
        13, 16, 19, 22, 25,
    ]  # fmt: skip


def test_the_rate_is_held() -> None:
    factors = [held(p, warmup=0.1, begin=0.5, second=0.7) for p in (0, 0.05, 0.1, 0.4999, 0.5, 1)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.7, 0.7])


def flat(model: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Watch(Technique):
    """Keeps the raw weights after each update, and stops where asked to. Stands before the average is put in place."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.seen, self.rates = stop, {}, {}

    def after_update(self, run: Run) -> None:
        self.seen[run.step], self.rates[run.step] = flat(run.model), run.optimizer.param_groups[0]["lr"]
        if run.step == self.stop:
            raise KeyboardInterrupt


def trained(student: Any, folder: Path, *more: Technique, stop: int | None = None, **options: Any) -> tuple[Run, Watch]:
    torch.manual_seed(0)
    watch = Watch(stop)
    chosen = {str(at): it for at, it in enumerate((Supervised(), watch, *more))}
    run = Run(copy.deepcopy(student), chosen, steps=12)
    recipe = TrainRecipe(**{"lr": 1e-2, "evaluations": 4, "precision": "fp32", "checkpoint": 1} | options)
    scores = iter((0.9, 0.8, 0.7, 0.6, 0.5))  # the first evaluation is the best
    train(run, examples(), recipe, folder=folder, evaluate=lambda _: next(scores), title="")
    return run, watch


@pytest.mark.parametrize("keep", ["best", "better", "last"])
def test_the_mean_is_what_a_run_delivers(keep: str, student: Any, tmp_path: Path) -> None:
    """Oracle: the mean of the iterates after updates 7 to 12, taken apart."""
    run, watch = trained(student, tmp_path, SWA(), keep=keep)
    expected = torch.stack([watch.seen[step] for step in range(7, 13)]).mean(0)
    assert torch.allclose(flat(run.model), expected, atol=1e-6)
    assert not torch.allclose(flat(run.model), watch.seen[12], atol=1e-3)
    assert watch.rates[7] == watch.rates[12] == 1e-2


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("stop", [5, 10, 12])
def test_a_resumed_run_delivers_the_same_mean(stop: int, keep: str, student: Any, tmp_path: Path) -> None:
    whole, _ = trained(student, tmp_path / "whole", SWA(), keep=keep)
    with pytest.raises(KeyboardInterrupt):
        trained(student, tmp_path / "stopped", SWA(), keep=keep, stop=stop)
    again, _ = trained(student, tmp_path / "stopped", SWA(), keep=keep)
    assert torch.equal(flat(whole.model), flat(again.model))


def test_the_last_evaluation_sees_the_mean(student: Any, tmp_path: Path) -> None:
    seen: list[Tensor] = []
    run = Run(student, {"supervised": Supervised(), "swa": SWA()}, steps=12)
    recipe = TrainRecipe(lr=1e-2, evaluations=2, precision="fp32")
    train(run, examples(), recipe, folder=tmp_path, evaluate=lambda m: seen.append(flat(m)) or 0.0, title="")
    assert torch.equal(seen[-1], flat(run.model))


def test_without_a_rate_the_mean_is_where_it_began(student: Any, tmp_path: Path) -> None:
    run, watch = trained(student, tmp_path, SWA(lr_b=0.0))
    assert torch.allclose(flat(run.model), watch.seen[6], atol=1e-7)


@pytest.mark.parametrize("first", [True, False])
def test_no_point_is_taken_while_masks_move(first: bool, student: Any, tmp_path: Path) -> None:
    """Pruning ends at 0.75 of 12 updates, so the mean is of the last three; its zeros are those of the mask."""
    prune = MagnitudePruning(final=0.5, end=0.5, last=0.75, every=0.25)
    swa = SWA(start=0.25)
    run, _ = trained(student, tmp_path, *((swa, prune) if first else (prune, swa)))
    assert int(swa.average.count) == 3
    assert all(abs((layer.weight == 0).float().mean() - 0.5) < 0.01 for _, layer in linears(run.model))


def test_a_run_with_nothing_to_average_is_refused(student: Any, tmp_path: Path) -> None:
    run = Run(copy.deepcopy(student), {"swa": SWA(), "prune": MagnitudePruning(last=1.0)}, steps=1)
    run.prepare()
    with pytest.raises(ValueError, match="let them end earlier"):
        run.finish()
    with pytest.raises(ValueError, match="lower every"):
        trained(student, tmp_path, SWA(every=7))


@pytest.mark.parametrize("fields", [{"start": 1.0}, {"start": -0.1}, {"every": 0}, {"lr_b": -1}, {"warmup": 1.0}])
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], student: Any) -> None:
    (technique,) = techniques((Choice(use="regularise/swa", **fields),)).values()
    with pytest.raises(ValueError, match="regularise/swa: start and warmup"):
        technique.prepare(Run(student, {}, steps=1))
