"""How much the loss reacts when a head or a neuron is switched off, to first order.

Michel, Levy, Neubig 2019, "Are Sixteen Heads Really Better than One?", https://arxiv.org/abs/1905.10650, section 4.1:
the expected |d loss / d gate| of a gate that multiplies the head's context vector; the same for a gate on each
activated FFN neuron (as in MiniDisc, https://arxiv.org/abs/2205.14570). Rows are divided by their L2 norm, as both do.

Shapes: B batch, N blocks, H heads, F neurons (of the widest block; what a narrower one has not scores 0).
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from compress.technique import Batch
from compress.widths import gates, widths

SMALLEST = 1e-17  # added to norms, as in MiniDisc's code

Loss = Callable[[nn.Module, Batch], Tensor]


def importance(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, *, per_example: bool, normalise: bool = True
) -> tuple[Tensor, Tensor]:
    """Scores [N, H] of heads and [N, F] of neurons, in float32; `model` is left as it was.

    `loss(model, batch)` is a mean over the batch. `per_example` sums the absolute value of each example's gradient
    (Michel et al.), else that of each batch's (MiniDisc's code). The model is in evaluation mode meanwhile. Raises
    ValueError when there are no batches.
    """
    total: tuple[Tensor, ...] = ()
    training = model.training
    model.eval()
    try:
        for batch in batches:
            found = _gradients(model, batch, loss, per_example)
            total = tuple(a + b for a, b in zip(total, found, strict=True)) if total else found
    finally:
        model.train(training)
    if not total:
        raise ValueError("importance needs at least one batch of examples")
    heads, neurons = (normalised(scores) if normalise else scores for scores in total)
    return heads, neurons


def _gradients(model: nn.Module, batch: Batch, loss: Loss, per_example: bool) -> tuple[Tensor, ...]:
    """|d loss / d gate| on one batch, summed over its examples where each has its own gates."""
    now, count, like = widths(model), len(batch["input_ids"]), next(model.parameters())
    example = (count,) if per_example else ()
    xi, nu = (
        torch.ones(len(now), *example, max(column), device=like.device, requires_grad=True)
        for column in zip(*now, strict=True)
    )
    with torch.enable_grad(), gates(model, xi, nu):
        found = torch.autograd.grad(loss(model, batch), (xi, nu), materialize_grads=True)
    if not per_example:
        return tuple(g.abs() for g in found)
    return tuple(g.abs().sum(1) * count for g in found)  # the mean over B examples divided each by B


def normalised(scores: Tensor) -> Tensor:
    """Each row divided by its L2 norm."""
    return scores / (scores.norm(dim=1, keepdim=True) + SMALLEST)
