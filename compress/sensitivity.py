"""How much the network's answer moves with each layer's output: to first order, from random directions of the logits.

For a small change d of a layer's output the logits move by J d. With v standard normal, g = J^T v has E[g g^T] = J^T J:
one backward pass for v . logits samples the Gauss-Newton matrix without labels, and unlike the loss's own gradient
it does not vanish where the network is sure. What is kept of g is its square, as a product of one factor a token and
one an output, so that the cost of d is about sum_to s_t w_o d_to^2. (Kronecker factors, Martens, Grosse 2015,
https://arxiv.org/abs/1503.05671, keep the outputs' covariance too; tokens' shares of it are ours.)

Shapes: T tokens that are not padding, O outputs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.technique import NOT_INPUTS, Batch


@dataclass
class Sensitivity:
    """Of one layer: the two factors, each of mean 1, and the mean of all squares, by which layers compare."""

    tokens: list[Tensor]  # [T] of each batch
    outputs: Tensor  # [O]
    mean: float


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    layers: Sequence[str],
    *,
    floor: float,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> dict[str, Sensitivity]:
    """Of each layer by its dotted name; `total` sums over processes, each of which has its share of `batches`.

    `floor` in [0, 1] is what of each factor is the same for all: 0 takes squares as they are, 1 makes all alike.
    `model` is left as it was, its gradients too; it is to be in evaluation mode.
    """
    generator = torch.Generator().manual_seed(0)
    tokens: dict[str, list[Tensor]] = {name: [] for name in layers}
    outputs = {name: torch.zeros(len(model.get_submodule(name).bias)) for name in layers}  # type: ignore[arg-type]
    for batch in batches:
        real = batch["attention_mask"].flatten().bool()
        for name, squares_TO in gradients(model, batch, layers, generator):
            kept_TO = squares_TO.flatten(0, -2)[real]
            tokens[name].append(kept_TO.mean(1))
            outputs[name] = outputs[name].to(kept_TO.device) + kept_TO.sum(0)
    return {name: factored(tokens[name], outputs[name], floor, total) for name in layers}


def gradients(
    model: nn.Module, batch: Batch, layers: Sequence[str], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Squares of d (v . logits) / d output [B, L, O] of each layer, for one random v."""
    gates: dict[str, Tensor] = {}
    with torch.enable_grad(), ExitStack() as hooks:
        for name in layers:

            def open_gate(_: nn.Module, __: object, output: Tensor, name: str = name) -> Tensor:
                gates[name] = torch.zeros_like(output, requires_grad=True)
                return output + gates[name]

            hooks.callback(model.get_submodule(name).register_forward_hook(open_gate).remove)
        logits = model(**{key: value for key, value in batch.items() if key not in NOT_INPUTS}).logits.float()
        direction = torch.randn(logits.shape, generator=generator).to(logits.device)
        found = torch.autograd.grad((logits * direction).sum(), [gates[name] for name in layers])
    yield from ((name, gradient.float().square()) for name, gradient in zip(layers, found, strict=True))


def factored(tokens: Sequence[Tensor], outputs: Tensor, floor: float, total: Callable[[Tensor], Tensor]) -> Sensitivity:
    """`tokens` are means over outputs, `outputs` sums over tokens."""
    count = total(outputs.new_tensor(float(sum(len(batch) for batch in tokens))))
    mean_O = total(outputs) / count
    mean = mean_O.mean().clamp(min=torch.finfo(mean_O.dtype).tiny)  # a layer that nothing reads

    def even(values: Tensor) -> Tensor:
        return floor + (1 - floor) * values / mean

    return Sensitivity([even(batch) for batch in tokens], even(mean_O), float(mean))
