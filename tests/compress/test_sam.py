"""SAM and delta-SAM against quadratics, whose perturbations and curvatures are known, and what they leave behind."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.perturb import displaced, norm
from compress.prune.magnitude import MagnitudePruning
from compress.quantise.qat import QAT
from compress.recipe import Choice, TrainRecipe
from compress.regularise.delta_sam import DeltaSAM, curvature, example_losses, shares
from compress.regularise.sam import SAM, ascent
from compress.supervised import Supervised, task_loss
from compress.technique import Run, Step, Technique
from compress.train import train
from tests.compress.toy import examples


class Bowl(Technique):
    """L = w' diag(1, 10) w / 2."""

    def loss(self, step: Step) -> Tensor:
        w = step.run.model.weight[0]
        return (w * w * torch.tensor([1.0, 10.0])).sum() / 2


def test_sam_of_a_bowl_has_its_closed_form() -> None:
    """At (1, 1) with rho 0.1: eps = 0.1 (1, 10) / sqrt(101), and the gradient at (1, 1) + eps."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.fill_(1)
    run = Run(model, {"bowl": Bowl(), "sam": SAM(rho=0.1)}, steps=1)
    run.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.batches, run.rows = [{"rows": torch.arange(4)}], 4
    run.backward()
    assert (ascent([model.weight.grad], 0.1) * model.weight.grad)[0].tolist() == pytest.approx(
        [0.009950, 0.099504], abs=1e-6
    )
    run.techniques["sam"].before_update(run)
    assert model.weight.grad[0].tolist() == pytest.approx([1.009950, 10.995037], abs=1e-5)
    assert model.weight.tolist() == [[1.0, 1.0]]
    assert run.terms["bowl"].item() == pytest.approx(5.5)  # at the weights, not where the gradient was taken
    assert run.cost["backward"] == 8


class Centres(nn.Module):
    """Logits whose squares are l_i = c_i / 2 |w - a_i|^2; the input names the example."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(30))
        self.a, self.c = torch.randn(4, 30), torch.tensor([1.0, 2.0, 4.0, 9.0])

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        at = input_ids[:, 0]
        return SimpleNamespace(
            logits=(self.c[at] / 2).sqrt()[:, None] * (self.w - self.a[at]).norm(dim=1, keepdim=True)
        )


def four() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(4)[:, None], "labels": torch.zeros(4), "rows": torch.arange(4)}


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    ("power", "expected"),
    [(1.0, [0.0625, 0.125, 0.25, 0.5625]), (2.0, [1 / 102, 4 / 102, 16 / 102, 81 / 102]), (0.0, [0.25] * 4)],
)
def test_examples_weigh_by_their_curvature(power: float, expected: list[float], noise: float) -> None:
    """The second difference of c / 2 |w - a|^2 is c |z|^2 for every z."""
    torch.manual_seed(0)
    technique = DeltaSAM(noise=noise, power=power)
    run = Run(Centres(), {"it": technique}, steps=1, kind="regression")
    run.prepare()
    run.batches = [four()]
    before = run.model.w.detach().clone()
    technique.before_backward(run)
    assert technique.shares[0].tolist() == pytest.approx(expected, rel=1e-2)
    assert torch.equal(run.model.w, before) and run.model.training
    assert run.cost == {"student": 12}


def test_scores_are_second_differences_over_the_noise() -> None:
    assert curvature(torch.tensor([1.0]), torch.tensor([1.5]), torch.tensor([1.3]), 0.1).item() == pytest.approx(80)
    assert shares(torch.zeros(5), 2.0).tolist() == pytest.approx([0.2] * 5)
    assert shares(torch.tensor([1e-30, 3e-30]), 1.0).tolist() == [0.5, 0.5]


def gradient(student: Any, *more: Technique) -> Tensor:
    """That which the optimiser would get, dropout off."""
    run = Run(copy.deepcopy(student).eval(), {str(i): t for i, t in enumerate((Supervised(), *more))}, steps=1)
    run.prepare()
    run.optimizer = torch.optim.SGD([*run.model.parameters()], lr=0)
    data = examples()
    run.batches, run.rows = data.update(0), 8
    for technique in run.techniques.values():
        technique.before_backward(run)
    run.backward()
    for technique in run.techniques.values():
        technique.before_update(run)
    return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])


def test_without_a_radius_gradients_are_those_of_plain_training(student: Any) -> None:
    plain = gradient(student)
    assert torch.allclose(gradient(student, SAM(rho=0)), plain, atol=1e-6)
    assert torch.allclose(gradient(student, DeltaSAM(rho=0)), plain, atol=1e-6)
    assert not torch.allclose(gradient(student, SAM()), plain, atol=1e-3)


def test_delta_sam_of_examples_alike_is_sam(student: Any) -> None:
    sam = gradient(student, SAM())
    assert torch.allclose(gradient(student, DeltaSAM(power=0)), sam, atol=1e-5)
    assert not torch.allclose(gradient(student, DeltaSAM(power=2)), sam, atol=1e-3)


def test_delta_sam_climbs_the_reweighted_loss(student: Any) -> None:
    """Oracle: the weighted loss written out, a step up its gradient, the gradient of the mean loss there."""
    technique = DeltaSAM(power=2)
    torch.manual_seed(1)
    found = gradient(student, technique)
    (batch,) = examples().update(0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model = copy.deepcopy(student).eval()
    torch.manual_seed(1)
    weights_B, params = shares_of(technique, model, batch), list(model.parameters())
    losses_B = nn.functional.cross_entropy(model(**inputs).logits, batch["labels"], reduction="none")
    up = torch.autograd.grad((weights_B * losses_B).sum(), params)
    length = torch.cat([g.flatten() for g in up]).norm()
    with torch.no_grad():
        for p, g in zip(params, up, strict=True):
            p += 0.05 * g / length
    task_loss(model(**inputs).logits, batch["labels"]).backward()
    assert torch.allclose(found, torch.cat([p.grad.flatten() for p in params]), atol=1e-5)


def shares_of(technique: DeltaSAM, model: Any, batch: dict[str, Tensor]) -> Tensor:
    run = Run(model, {"it": technique}, steps=1)
    technique.prepare(run)
    run.batches = [batch]
    technique.before_backward(run)
    return technique.shares[0]


def test_scores_are_taken_without_dropout(student: Any) -> None:
    (batch,) = examples().update(0)
    found = []
    for training in (True, False):
        torch.manual_seed(0)
        found.append(shares_of(DeltaSAM(), student.train(training), batch))
        assert student.training == training
    assert torch.equal(*found) and found[0].std() > 0.01


def test_an_example_without_a_label_is_the_teachers() -> None:
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    found = example_losses(logits, torch.tensor([1, -100, 2, -100]), teacher)
    log_p, log_q = logits.log_softmax(-1), teacher.log_softmax(-1)
    expected = [-log_p[0, 1], (log_q[1].exp() * (log_q[1] - log_p[1])).sum(), -log_p[2, 2]]
    assert torch.allclose(found[:3], torch.stack(expected))
    assert example_losses(logits, torch.tensor([1, -100, 2, -100]), None)[[1, 3]].tolist() == [0, 0]
    scores = example_losses(torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, float("nan")]), torch.tensor([[0.0], [1]]))
    assert scores.tolist() == [0.25, 4.0]


def test_displaced_weights_come_back_to_their_bits() -> None:
    weights = [nn.Parameter(torch.randn(50, 7)), nn.Parameter(torch.randn(9, 3))]
    before = [w.detach().clone() for w in weights]
    rows = torch.sparse_coo_tensor(torch.tensor([[4, 1, 4]]), torch.ones(3, 3), (9, 3), check_invariants=False)
    assert norm([torch.full((2, 2), 2.0), rows.coalesce()]).item() == pytest.approx((16 + 3 * 4 + 3 * 1) ** 0.5)

    def broken_off() -> None:
        with displaced(weights, [torch.full((50, 7), 1e-3), rows], 2.0):
            assert torch.allclose(weights[0] - before[0], torch.tensor(2e-3), atol=1e-6)
            assert (weights[1] - before[1]).sum(1).round().tolist() == [0, 6, 0, 0, 12, 0, 0, 0, 0]
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


class Still(Technique):
    """Keeps the raw weights of the update, before and after what the others do with its gradient."""

    def before_backward(self, run: Run) -> None:
        self.before = [w.detach().clone() for w in run.model.parameters()]

    def before_update(self, run: Run) -> None:
        assert all(torch.equal(a, b) for a, b in zip(self.before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["regularise/sam", "regularise/delta-sam"])
def test_only_the_optimiser_moves_weights(name: str, student: Any, tmp_path: Path) -> None:
    """Under masks and fake quantisation, too; each update passes the student and its gradients as often as it says."""
    (technique,) = techniques((Choice(use=name),)).values()
    chosen = [Supervised(), MagnitudePruning(final=0.5, last=0.5, every=0.25), QAT(), technique, Still()]
    run = Run(student, {str(i): it for i, it in enumerate(chosen)}, steps=6)
    train(run, examples(), TrainRecipe(lr=1e-3), folder=tmp_path, evaluate=lambda _: 0.0, title="")
    forwards = {"regularise/sam": 2, "regularise/delta-sam": 5}[name]
    assert (run.cost["student"], run.cost["backward"]) == (forwards * 48, 2 * 48)


@pytest.mark.parametrize("name", ["regularise/sam", "regularise/delta-sam"])
def test_a_resumed_run_ends_where_it_would_have(name: str, student: Any, tmp_path: Path) -> None:
    class Halt(Technique):
        def after_update(self, run: Run) -> None:
            if run.step == self.at:
                raise KeyboardInterrupt

    def trained(folder: Path, at: int) -> Tensor:
        torch.manual_seed(0)
        halt = Halt()
        halt.at = at
        chosen = {"supervised": Supervised(), "halt": halt, **techniques((Choice(use=name),))}
        run = Run(copy.deepcopy(student), chosen, steps=6)
        recipe = TrainRecipe(lr=1e-3, checkpoint=1)
        train(run, examples(), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    whole = trained(tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", 4)
    assert torch.equal(trained(tmp_path / "stopped", 0), whole)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("regularise/sam", {"rho": -0.1}, "rho is a radius"),
        ("regularise/delta-sam", {"rho": -0.1}, "rho and power of 0 or more"),
        ("regularise/delta-sam", {"noise": 0}, "noise above 0"),
        ("regularise/delta-sam", {"power": -1}, "rho and power of 0 or more"),
    ],
)
def test_fields_that_cannot_be_are_refused(name: str, fields: dict[str, Any], message: str, student: Any) -> None:
    (technique,) = techniques((Choice(use=name, **fields),)).values()
    with pytest.raises(ValueError, match=message):
        technique.prepare(Run(student, {}, steps=1))
