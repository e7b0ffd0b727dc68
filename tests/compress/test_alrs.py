"""The loss-driven learning rate against a run worked out by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.recipe import Choice, TrainRecipe
from compress.regularise.alrs import ALRS, has_stopped, lowered
from compress.supervised import Supervised
from compress.technique import Run, Technique
from compress.train import train
from tests.compress.toy import examples


def rates(losses: list[float], technique: ALRS, *, updates: int = 3) -> list[float]:
    """The rate after each epoch of `updates` updates whose mean loss is as given."""
    run = Run(nn.Linear(1, 1), {"it": technique}, steps=updates * len(losses))
    run.prepare()
    run.batches, found = [{}], []
    for mean in losses:
        for at in range(updates):
            run.terms = {"one": torch.tensor(mean / 2), "two": torch.tensor(mean / 2 + (at - 1) * 0.1)}
            run.step += 1
            technique.after_update(run)
        found.append(run.schedule(run.progress))
    return found


def test_the_rate_falls_where_the_loss_has_stopped() -> None:
    found = rates([1.0, 0.5, 0.495, 0.3, 0.299], ALRS(epochs=5, warmup=0))
    assert found == pytest.approx([1, 1, 0.9, 0.9, 0.81])


def test_a_loss_that_rises_keeps_its_rate() -> None:
    assert rates([0.30, 0.40], ALRS(epochs=2, warmup=0)) == [1, 1]
    assert not has_stopped(0.3, 0.4, rel_tol=0.02, abs_tol=0.02)
    assert has_stopped(0.3, 0.31, rel_tol=0.02, abs_tol=0.02)


@pytest.mark.parametrize(("decay", "decays"), [(0.9, 88), (0.8, 42)])
def test_a_constant_loss_stops_the_run(decay: float, decays: int) -> None:
    found = rates([0.5] * 100, ALRS(epochs=100, decay=decay, warmup=0), updates=1)
    assert [rate > 0 for rate in found] == [at < decays for at in range(100)]
    assert lowered(1.2e-4, 0.8, 1e-4) == 0


def test_nothing_falls_in_the_warmup() -> None:
    assert rates([1.0, 1.0, 1.0, 1.0], ALRS(epochs=4, warmup=0.6)) == pytest.approx([0.25 / 0.6, 0.5 / 0.6, 0.9, 0.81])


class Watch(Technique):
    def __init__(self, stop: int) -> None:
        self.stop, self.rates = stop, []

    def after_update(self, run: Run) -> None:
        self.rates.append(run.optimizer.param_groups[0]["lr"])
        if run.step == self.stop:
            raise KeyboardInterrupt


def trained(student: Any, folder: Path, *, stop: int = 0) -> tuple[Tensor, list[float]]:
    torch.manual_seed(0)
    alrs, watch = ALRS(epochs=6, abs_tol=10.0, rel_tol=10.0, decay=0.5), Watch(stop)
    run = Run(copy.deepcopy(student), {"supervised": Supervised(), "alrs": alrs, "watch": watch}, steps=12)
    recipe = TrainRecipe(lr=1e-3, checkpoint=1, keep="last")
    train(run, examples(), recipe, folder=folder, evaluate=lambda _: 0.0, title="")
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), watch.rates


@pytest.mark.parametrize("stop", [4, 5])
def test_a_resumed_run_goes_on_at_its_rate(stop: int, student: Any, tmp_path: Path) -> None:
    """Stopped at the end of an epoch, and within one."""
    whole, went = trained(student, tmp_path / "whole")
    assert went[2::2] == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4, 6.25e-5])
    with pytest.raises(KeyboardInterrupt):
        trained(student, tmp_path / "stopped", stop=stop)
    again, rest = trained(student, tmp_path / "stopped")
    assert rest == went[stop - 1 :] and torch.equal(again, whole)


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"decay": 1.0}, {"decay": 0}, {"floor": -1}, {"warmup": 1.0}])
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], student: Any) -> None:
    (technique,) = techniques((Choice(use="regularise/alrs", **fields),)).values()
    with pytest.raises(ValueError, match="regularise/alrs: epochs of 1 or more"):
        technique.prepare(Run(student, {}, steps=1))
