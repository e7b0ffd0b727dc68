"""Run a model as if it were narrower, for the length of a `with` block: `compress.widths.shrink` without the cut.

The weights stay whole and get gradients only where they are used, so that many widths can share one set of weights.
What a forward pass costs is that of the narrow model. Maps stacked on weights and hooks on layers act as ever.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.anatomy import Anatomy, anatomy, blocks
from compress.widths import Keep, own_bias, widths


@contextmanager
def narrowed(model: nn.Module, keep: Sequence[Keep], *, biases: bool = True) -> Iterator[None]:
    """Forward passes inside use these units and no others, in the order given.

    `biases` says whether an attention without heads, or an FFN without neurons, still adds the bias of its output.
    """
    row = anatomy(model)
    with ExitStack() as stack:
        for block, (heads, neurons), kept in zip(blocks(model), widths(model), keep, strict=True):
            if kept.heads != tuple(range(heads)):
                _narrow_attention(stack, block, row, kept.heads, heads)
            if kept.neurons != tuple(range(neurons)):
                _narrow_ffn(stack, block, row, kept.neurons)
            for name, units in ((row.attention_out, kept.heads), (row.ffn_out, kept.neurons)):
                if not units and not biases:
                    out = block.get_submodule(name)
                    _set(stack, out, "forward", _everywhere(torch.zeros_like(out.bias)))
        yield


def _narrow_attention(stack: ExitStack, block: nn.Module, row: Anatomy, heads: tuple[int, ...], of: int) -> None:
    attention, out = block.get_submodule(row.attention), block.get_submodule(row.attention_out)
    width = out.in_features // of
    columns = [head * width + i for head in heads for i in range(width)]
    units = torch.tensor(columns, dtype=torch.long, device=out.bias.device)
    _set(stack, out, "forward", _inputs(out, units))
    if not heads:
        inside = row.attention_out.startswith(f"{row.attention}.")
        _set(stack, attention, "forward", _no_heads(out if inside else nn.Identity()))
        return
    for name in (row.query, row.key, row.value):
        layer = block.get_submodule(name)
        _set(stack, layer, "forward", _outputs(layer, units))
    _set(stack, attention, row.heads, len(heads))
    _set(stack, attention, row.size, len(units))
    if row.shared_bias:
        hooked = hasattr(attention, "bias_heads")
        before = attention.bias_heads if hooked else list(range(of))
        _set(stack, attention, "bias_heads", [before[head] for head in heads])
        if not hooked:
            stack.callback(attention.register_forward_pre_hook(own_bias).remove)


def _narrow_ffn(stack: ExitStack, block: nn.Module, row: Anatomy, neurons: tuple[int, ...]) -> None:
    inner, out = block.get_submodule(row.ffn_in), block.get_submodule(row.ffn_out)
    units = torch.tensor(neurons, dtype=torch.long, device=out.bias.device)
    _set(stack, inner, "forward", _outputs(inner, units) if neurons else torch.zeros_like)
    _set(stack, out, "forward", _inputs(out, units))


def _outputs(layer: nn.Linear, units: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: F.linear(x, layer.weight.index_select(0, units), layer.bias.index_select(0, units))


def _inputs(layer: nn.Linear, units: Tensor) -> Callable[[Tensor], Tensor]:
    """`layer` on inputs that are narrow already; its bias for every token where there are none."""
    if len(units):
        return lambda x: F.linear(x, layer.weight.index_select(1, units), layer.bias)
    return _everywhere(layer.bias)


def _everywhere(bias_D: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: bias_D.expand(*x.shape[:-1], -1)


def _no_heads(out: nn.Module) -> Callable[..., tuple[Tensor, None]]:
    """A context of zeros, as masked heads give it, so that what watches the inputs of layers sees nothing odd."""

    def forward(x: Tensor | None = None, *_: Any, **given: Any) -> tuple[Tensor, None]:
        return out(torch.zeros_like(given["query"] if x is None else x)), None

    return forward


def _set(stack: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute until the stack closes."""
    if name in vars(module):
        stack.callback(setattr, module, name, getattr(module, name))
    else:
        stack.callback(delattr, module, name)
    setattr(module, name, value)
