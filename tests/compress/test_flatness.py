"""Probes of flatness against a bowl, whose answers are known."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.flatness import filter_normalised, hessian_product, noise_rise, probes, sharpness, top_eigenvalue
from compress.supervised import task_loss
from tests.compress.toy import examples


@pytest.fixture
def bowl() -> Any:
    """L = w' diag(1, 10) w / 2 at (1, 1), in two parts."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.ones(1, 2))

    def losses() -> Iterator[Tensor]:
        yield weight[0, 0] ** 2 / 2
        yield 10 * weight[0, 1] ** 2 / 2

    return losses, [weight]


def test_a_step_up_a_bowl(bowl: Any) -> None:
    """rho sqrt(101) + rho^2 / 2 x 1001 / 101."""
    assert sharpness(*bowl, 0.1) == pytest.approx(1.054542, abs=1e-5)
    assert bowl[1][0].tolist() == [[1.0, 1.0]]


def test_the_largest_eigenvalue_of_a_bowl(bowl: Any) -> None:
    assert top_eigenvalue(*bowl) == pytest.approx(10, abs=1e-4)


def test_noise_on_one_row_of_a_bowl_raises_it_by_its_trace(bowl: Any) -> None:
    """E[rise] = r^2 |w|^2 tr(H) / (2 x 2) = 5.5 r^2."""
    rises = noise_rise(*bowl, radii=(0.02, 0.1), draws=4000)
    assert rises[0.02] == pytest.approx(5.5 * 0.02**2, rel=0.05) and rises[0.1] == pytest.approx(5.5 * 0.1**2, rel=0.05)


def test_noise_is_as_long_as_the_rows_that_it_moves() -> None:
    weight = torch.randn(5, 3, 2) * torch.tensor([0.0, 1, 2, 3, 4])[:, None, None]
    direction = filter_normalised(weight)
    assert torch.allclose(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    assert filter_normalised(torch.randn(7)).tolist() == [0.0] * 7


def test_a_product_of_a_model_is_that_of_its_whole_hessian(student: Any) -> None:
    """Oracle: torch's own Hessian, of the classifier's weights."""
    student.eval()
    (batch,) = examples().update(0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    weight = student.classifier.weight
    with torch.no_grad():
        pooled = student.bert(**inputs).pooler_output

    def whole(w: Tensor) -> Tensor:
        return task_loss(pooled @ w.T + student.classifier.bias, batch["labels"])

    hessian = torch.autograd.functional.hessian(whole, weight.detach()).view(32, 32)
    vector = torch.randn_like(weight)
    found = hessian_product(lambda: iter([task_loss(student(**inputs).logits, batch["labels"])]), [weight], [vector])
    assert torch.allclose(found[0].flatten(), hessian @ vector.flatten(), atol=1e-6)


def test_all_probes_of_an_encoder(student: Any) -> None:
    student.eval()
    (batch,) = examples().update(0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    before = [w.detach().clone() for w in student.parameters()]
    found = probes(lambda: iter([task_loss(student(**inputs).logits, batch["labels"])]), student)
    assert list(found["noise_rise"]) == ["0.01", "0.02", "0.05", "0.1"] and found["sharpness"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
