"""HyPe against covariances worked out by hand, and that it leaves nothing behind."""

import copy
import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.catalogue import techniques
from compress.recipe import Choice, TrainRecipe
from compress.regularise import hype
from compress.regularise.hype import HyPe, hidden_dropouts
from compress.supervised import Supervised
from compress.technique import Run
from compress.train import train
from tests.compress.families import FAMILIES, texts, tiny
from tests.compress.toy import examples


class Two(nn.Module):
    """y = W2 (W1 (x + e1) + e2): two blocks that are matrices, as a family of the table names its parts."""

    base_model_prefix = "base"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="bert")
        self.base = nn.Module()
        self.base.encoder = nn.Module()
        self.base.encoder.layer = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
        for block, weight in zip(self.base.encoder.layer, ([[1.0, 2], [0, 1]], [[1.0, 0], [1, 1]]), strict=True):
            block.weight.data = torch.tensor(weight)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.base.encoder.layer:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("kind", "covariance", "shift"),
    [
        ("normal", [[0.06, 0.08], [0.08, 0.12]], [0.0, 0.0]),
        ("uniform", [[0.02, 0.08 / 3], [0.08 / 3, 0.04]], [0.0, 0.0]),
        ("released", [[0.005, 0.02 / 3], [0.02 / 3, 0.01]], [0.2, 0.3]),
    ],
)
def test_noise_spreads_as_the_layers_multiply_it(kind: str, covariance: Any, shift: Any) -> None:
    """v (W2 W1 W1' W2' + W2 W2') with v = sigma^2, sigma^2 / 3 and sigma^2 / 12; only the released noise has a mean."""
    torch.manual_seed(0)
    run = Run(Two(), {"it": HyPe(kind=kind, sigma=0.1, hidden_dropout=None)}, steps=1)
    run.prepare()
    x = torch.tensor([0.3, -0.7])
    y = run.model.train()(x.expand(200_000, 2)).detach()
    still = torch.tensor([[1.0, 2], [1, 3]]) @ x  # W2 W1
    assert torch.allclose(y.T.cov(), torch.tensor(covariance), rtol=0.03)
    assert (y.mean(0) - still).tolist() == pytest.approx(shift, abs=3e-3)


def answer(model: Any) -> Tensor:
    return model(**texts()).logits.detach()


@pytest.mark.parametrize("intermediate", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_in_training_alone_and_leaves_no_trace(family: str, intermediate: bool) -> None:
    """Also: every layer draws for itself, once a forward, twice with `intermediate`."""
    model = tiny(family)
    before, parameters = answer(model), sum(p.numel() for p in model.parameters())
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    technique = HyPe(sigma=1e-2, intermediate=intermediate)
    run = Run(model, {"it": technique}, steps=1)
    run.prepare()
    draws: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        draw = hype.noise
        patch.setattr(hype, "noise", lambda *given: draws.append(draw(*given)) or draws[-1])
        assert torch.equal(answer(model.eval()), before) and not draws
        assert not torch.allclose(answer(model.train()), before, atol=1e-4)
    assert len(draws) == 3 * (1 + intermediate)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(draws))
    run.finish()
    assert torch.equal(answer(run.model), before) and sum(p.numel() for p in run.model.parameters()) == parameters
    assert not [m for m in run.model.modules() if m._forward_pre_hooks]
    assert {name: m.p for name, m in run.model.named_modules() if isinstance(m, nn.Dropout)} == dropouts


@pytest.mark.parametrize("family", FAMILIES)
def test_without_noise_and_dropout_training_answers_as_evaluation(family: str) -> None:
    """Attention's own dropout is spared, so it is turned off here by other means."""
    options = {"attention_dropout": 0.0} if family == "distilbert" else {"attention_probs_dropout_prob": 0.0}
    model = tiny(family, **options)
    before = answer(model)
    assert not torch.allclose(answer(model.train()), before, atol=1e-3)  # hidden dropout is on
    run = Run(model, {"it": HyPe(sigma=0.0)}, steps=1)
    run.prepare()
    assert torch.equal(answer(model.train()), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_attention_is_spared(family: str) -> None:
    options = {"attention_dropout": 0.3} if family == "distilbert" else {"attention_probs_dropout_prob": 0.3}
    model = tiny(family, **options)
    found = hidden_dropouts(model)
    assert {m.p for m in found} <= {0.1, 0.2} and len(found) >= 5
    others = [m for m in model.modules() if isinstance(m, nn.Dropout) and m not in found]
    assert len(others) == 3 and {m.p for m in others} == {0.3}


def test_some_layers_alone_get_noise(student: Any) -> None:
    run = Run(student, {"it": HyPe(layers=(2, 2))}, steps=1)
    run.prepare()
    assert [len(block._forward_pre_hooks) for block in student.bert.encoder.layer] == [0, 1]


def test_noise_that_is_rounded_away_is_no_noise() -> None:
    technique = HyPe()
    technique.checked = False
    with pytest.raises(ValueError, match="rounded away in states of torch.bfloat16"):
        technique.noisy(torch.randn(4, 5, 6).bfloat16() + 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_and_resumes(precision: str, student: Any, tmp_path: Path) -> None:
    """bf16 reaches the states that stay in fp32 between the layers."""

    def trained(folder: Path, steps: int) -> Tensor:
        torch.manual_seed(0)
        chosen = {"supervised": Supervised(), "it": HyPe(sigma=1e-3)}
        autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
        run = Run(copy.deepcopy(student), chosen, steps=6, autocast=autocast)
        recipe = TrainRecipe(lr=1e-3, checkpoint=1, keep="last")
        data = examples()
        if steps < 6:
            data.update = lambda step, update=data.update: update(step) if step < steps else 1 / 0
        train(run, data, recipe, folder=folder, evaluate=lambda _: 0.0, title="")
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    whole = trained(tmp_path / "whole", 6)
    with pytest.raises(ZeroDivisionError):
        trained(tmp_path / "stopped", 3)
    assert torch.equal(trained(tmp_path / "stopped", 6), whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": -1}, "sigma of 0 or more"),
        ({"hidden_dropout": 1.0}, "hidden_dropout in"),
        ({"layers": [0, 1]}, "of 1-2, got 0 and 1"),
        ({"layers": [2, 1]}, "of 1-2, got 2 and 1"),
        ({"layers": [1, 3]}, "of 1-2, got 1 and 3"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], message: str, student: Any) -> None:
    (technique,) = techniques((Choice(use="regularise/hype", **fields),)).values()
    with pytest.raises(ValueError, match=message):
        technique.prepare(Run(student, {}, steps=1))


def test_a_student_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="this student has none"):
        HyPe().prepare(Run(nn.Linear(2, 2), {}, steps=1))
