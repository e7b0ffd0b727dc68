"""How the answer hangs on each token and output, against the whole Jacobian."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compress.sensitivity import sensitivity
from compress.technique import NOT_INPUTS

NAMES = [
    "bert.encoder.layer.0.attention.self.value",
    "bert.encoder.layer.0.intermediate.dense",
    "bert.encoder.layer.1.output.dense",
]


def squares(model: Any, batch: dict[str, Tensor], name: str) -> Tensor:
    """sum_c (d logit_c / d output)^2 [tokens that are not padding, O], by torch's Jacobian."""
    layer, shape = model.get_submodule(name), None
    inputs = {key: value for key, value in batch.items() if key not in NOT_INPUTS}

    def answer(change: Tensor) -> Tensor:
        handle = layer.register_forward_hook(lambda _m, _i, output: output + change)
        try:
            return model(**inputs).logits
        finally:
            handle.remove()

    shape = (*batch["input_ids"].shape, layer.out_features)
    jacobian = torch.autograd.functional.jacobian(answer, torch.zeros(shape))  # [B, C, B, L, O]
    return jacobian.square().sum((0, 1)).flatten(0, 1)[batch["attention_mask"].flatten().bool()]


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_the_mean_squares_of_the_jacobian(name: str, student: Any, batch: dict[str, Tensor]) -> None:
    expected = squares(student.eval(), batch, name)
    found = sensitivity(student, [batch] * 800, NAMES, floor=0.0)[name]
    assert found.mean == pytest.approx(expected.mean().item(), rel=0.1)
    tokens = torch.stack(found.tokens).mean(0)
    torch.testing.assert_close(tokens, expected.mean(1) / expected.mean(), rtol=0.3, atol=0.02)
    torch.testing.assert_close(found.outputs, expected.mean(0) / expected.mean(), rtol=0.3, atol=0.02)


def test_only_the_first_token_counts_where_the_head_reads_no_other(student: Any, batch: dict[str, Tensor]) -> None:
    found = sensitivity(student.eval(), [batch], NAMES, floor=0.0)
    (tokens,) = found["bert.encoder.layer.1.output.dense"].tokens
    first = torch.tensor([0, 9, 21, 30])  # texts of 9, 12, 9 and 12 pieces
    assert (tokens[first] > 0).all()
    tokens[first] = 0
    assert not tokens.any()


def test_a_floor_lifts_what_hardly_counts(student: Any, batch: dict[str, Tensor]) -> None:
    bare, lifted = (sensitivity(student.eval(), [batch], NAMES, floor=floor)[NAMES[-1]] for floor in (0.0, 0.25))
    torch.testing.assert_close(lifted.tokens[0], 0.25 + 0.75 * bare.tokens[0])
    torch.testing.assert_close(lifted.outputs, 0.25 + 0.75 * bare.outputs)
    assert bare.tokens[0].mean().item() == pytest.approx(1)
    even = sensitivity(student.eval(), [batch], NAMES, floor=1.0)[NAMES[-1]]
    assert torch.equal(even.outputs, torch.ones(16))


def test_the_model_is_left_as_it_was(student: Any, batch: dict[str, Tensor]) -> None:
    sensitivity(student.eval().requires_grad_(False), [batch], NAMES, floor=0.0)
    assert all(p.grad is None and not p.requires_grad for p in student.parameters())
    assert not any(m._forward_hooks for m in student.modules())
