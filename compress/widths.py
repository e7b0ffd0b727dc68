"""Narrower blocks: fewer attention heads and FFN neurons, cut out of the weights for good.

Exact, since what is cut contributed W[:, j] * 0 when masked: the head width and its 1 / sqrt(dh) stay, the biases of
the attention's and the FFN's output stay. Without heads (or neurons) that half of a block is LayerNorm(x + bias).

The configuration keeps the full widths, which give the head width, and says what is left as `bantam_widths`:
[[heads, neurons], ...] block by block. transformers does not know that field, so `models.load` reads such a checkpoint.

Shapes: B batch, L tokens, D width, N blocks, H heads, d width of a head, F neurons.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.anatomy import Anatomy, anatomy, blocks, encoder_path, has_blocks

FIELD = "bantam_widths"
HEADS = "bantam_heads"  # beside it where blocks share one bias of the scores: which of its heads each block uses
NOTES = "bantam_"  # fields with this beginning are ours: these two, and what a technique tells the next stage


@dataclass(frozen=True)
class Keep:
    """What stays of one block: positions among what it has now, ascending, counted from 0; () leaves none."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    def __and__(self, other: "Keep") -> "Keep":
        """What both keep."""
        heads, neurons = set(other.heads), set(other.neurons)
        return Keep(tuple(h for h in self.heads if h in heads), tuple(n for n in self.neurons if n in neurons))


class Bias(nn.Module):
    """What is left of an output projection without inputs: its bias [D] for every token."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand_as(x) if self.training else self.bias  # dropout draws for each token


class NoAttention(nn.Module):
    """Stands for an attention without heads, inside of which the output projection may lie as `out`."""

    def __init__(self, out: str | None, bias: Bias) -> None:
        super().__init__()
        self.out = out
        if out is not None:
            self.add_module(out, bias)

    def forward(self, x: Tensor | None = None, *_: Any, **given: Any) -> tuple[Tensor, None]:
        x = given["query"] if x is None else x
        return (x if self.out is None else self.get_submodule(self.out)(x)), None


def widths(model: nn.Module) -> list[tuple[int, int]]:
    """(heads, neurons) that each block has now."""
    row = anatomy(model)
    return [(_heads(block, row), _neurons(block, row)) for block in blocks(model)]


def full(model: nn.Module) -> list[Keep]:
    """Everything that each block has now."""
    return [Keep(tuple(range(heads)), tuple(range(neurons))) for heads, neurons in widths(model)]


@torch.no_grad()
def shrink(model: nn.Module, keep: Sequence[Keep]) -> dict[str, Tensor]:
    """Cut `model` to `keep`, in place; its weights must be plain (`compress.weights.fold`).

    Returns the outputs that are left of the linear layers that lost some but not all, by dotted name. ValueError for
    positions that a block does not have, or that are not ascending.
    """
    row, now = anatomy(model), widths(model)
    if len(keep) != len(now):
        raise ValueError(f"keep must have one entry for each of the {len(now)} blocks, got {len(keep)}")
    for index, (kept, have) in enumerate(zip(keep, now, strict=True)):
        for units, count, what in ((kept.heads, have[0], "heads"), (kept.neurons, have[1], "neurons")):
            if list(units) != sorted(set(units) & set(range(count))):
                raise ValueError(f"block {index}: {what} must be ascending and below {count}, got {list(units)}")
    cut: dict[str, Tensor] = {}
    for index, (block, kept) in enumerate(zip(blocks(model), keep, strict=True)):
        inner = {**_cut_heads(block, row, kept.heads), **_cut_neurons(block, row, kept.neurons)}
        cut |= {f"{encoder_path(model)}.{index}.{name}": outputs for name, outputs in inner.items()}
    _note(model)
    return cut


def restore(model: nn.Module) -> None:
    """Give a freshly built model the widths that its configuration tells, so that a shrunk one's weights fit.

    Which units it keeps says nothing: their weights are about to be loaded. ValueError for more than there is.
    """
    wanted = getattr(model.config, FIELD, None)
    if wanted is None:
        return
    biased = getattr(model.config, HEADS, None)
    shrink(model, [Keep(tuple(range(heads)), tuple(range(neurons))) for heads, neurons in wanted])
    if biased is not None:
        for block, heads in zip(blocks(model), biased, strict=True):
            if heads:
                _share_bias(block.get_submodule(anatomy(model).attention), heads)
        _note(model)


def structure(model: nn.Module) -> dict[str, Any]:
    """Depth, widths and notes as plain values, from which `rebuild` makes a model with the same shapes.

    Nothing for a student that is no encoder, whose shapes never change.
    """
    if not has_blocks(model):
        return {}
    told = {key: value for key, value in vars(model.config).items() if key.startswith(NOTES)}
    heads = told.pop(HEADS, None)
    told.pop(FIELD, None)
    return {"widths": [list(pair) for pair in widths(model)], "heads": heads, "notes": told}


def rebuild(model: nn.Module, wanted: dict[str, Any]) -> None:
    """Cut `model`, which has as many blocks and units or more, to what `structure` told, in place."""
    keep_blocks(model, range(len(wanted["widths"])))
    if wanted["widths"] != structure(model)["widths"] or wanted["heads"]:
        setattr(model.config, FIELD, wanted["widths"])
        if wanted["heads"]:
            setattr(model.config, HEADS, wanted["heads"])
        restore(model)
    for key in structure(model)["notes"]:
        delattr(model.config, key)
    for key, value in wanted.get("notes", {}).items():
        setattr(model.config, key, value)


def keep_blocks(model: nn.Module, kept: Sequence[int]) -> None:
    """Leave the blocks `kept` (counted from 0), in that order and in place; one that comes again is a copy."""
    layers = blocks(model)
    chosen = [layers[i] if i not in kept[:at] else copy.deepcopy(layers[i]) for at, i in enumerate(kept)]
    del layers[:]
    layers.extend(chosen)
    setattr(model.config, anatomy(model).depth, len(chosen))
    for field in (FIELD, HEADS):
        if (told := getattr(model.config, field, None)) is not None:
            setattr(model.config, field, [told[i] for i in kept])


def sized(architecture: type[nn.Module]) -> type[nn.Module]:
    """`architecture`, but built with the widths that its configuration tells, so that transformers can load it."""

    def build(self: nn.Module, config: Any, *args: Any, **given: Any) -> None:
        architecture.__init__(self, config, *args, **given)
        restore(self)

    return type(architecture.__name__, (architecture,), {"__init__": build, "__module__": architecture.__module__})


@contextmanager
def gates(model: nn.Module, xi: Tensor | None = None, nu: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Multiply the context vector of each head by `xi` and each activated neuron by `nu`, inside the `with` block.

    xi [N, H] and nu [N, F], or [N, B, H] and [N, B, F] for gates of each example; H and F are those of the widest
    block, and a narrower one uses the first entries of its row. Not given they are ones, with a gradient to ask for.
    """
    row, now = anatomy(model), widths(model)
    like = next(model.parameters())
    if xi is None:
        xi = torch.ones(len(now), max(h for h, _ in now), device=like.device, requires_grad=True)
    if nu is None:
        nu = torch.ones(len(now), max(f for _, f in now), device=like.device, requires_grad=True)
    with ExitStack() as stack:
        for block, (heads, neurons), xi_l, nu_l in zip(blocks(model), now, xi, nu, strict=True):
            if heads:
                out = block.get_submodule(row.attention_out)
                stack.callback(_gate(out, xi_l[..., :heads], out.in_features // heads).remove)
            if neurons:
                stack.callback(_gate(block.get_submodule(row.ffn_out), nu_l[..., :neurons], 1).remove)
        yield xi, nu


def _gate(layer: nn.Linear, gate: Tensor, repeat: int) -> Any:
    def multiply(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        wide = gate.repeat_interleave(repeat, -1)
        return (args[0] * (wide if wide.ndim == 1 else wide[:, None]).to(args[0].dtype),)

    return layer.register_forward_pre_hook(multiply)


def _heads(block: nn.Module, row: Anatomy) -> int:
    attention = block.get_submodule(row.attention)
    return 0 if isinstance(attention, NoAttention) else int(getattr(attention, row.heads))


def _neurons(block: nn.Module, row: Anatomy) -> int:
    out = block.get_submodule(row.ffn_out)
    return 0 if isinstance(out, Bias) else int(out.in_features)


def _cut_heads(block: nn.Module, row: Anatomy, heads: Sequence[int]) -> dict[str, Tensor]:
    """Outputs that are left of the layers that lost some."""
    attention, out = block.get_submodule(row.attention), block.get_submodule(row.attention_out)
    count = _heads(block, row)
    if len(heads) == count:
        return {}
    if not heads:
        inside = row.attention_out.removeprefix(f"{row.attention}.") if _inside(row) else None
        bias = Bias(out.bias)
        if inside is None:
            block.set_submodule(row.attention_out, bias)
        block.set_submodule(row.attention, NoAttention(inside, bias))
        return {}
    width = out.in_features // count
    units = torch.tensor([head * width + i for head in heads for i in range(width)], device=out.weight.device)
    for name in (row.query, row.key, row.value):
        _keep_outputs(block.get_submodule(name), units)
    _keep_inputs(out, units)
    setattr(attention, row.heads, len(heads))
    setattr(attention, row.size, len(units))
    if row.shared_bias:
        before = getattr(attention, "bias_heads", range(count))
        _share_bias(attention, [before[head] for head in heads])
    return dict.fromkeys((row.query, row.key, row.value), units)


def _inside(row: Anatomy) -> bool:
    return row.attention_out.startswith(f"{row.attention}.")


def _cut_neurons(block: nn.Module, row: Anatomy, neurons: Sequence[int]) -> dict[str, Tensor]:
    out = block.get_submodule(row.ffn_out)
    if len(neurons) == _neurons(block, row):
        return {}
    if not neurons:
        block.set_submodule(row.ffn_out, Bias(out.bias))
        block.set_submodule(row.ffn_in, nn.Identity())
        return {}
    units = torch.tensor(neurons, device=out.weight.device)
    _keep_outputs(block.get_submodule(row.ffn_in), units)
    _keep_inputs(out, units)
    return {row.ffn_in: units}


def _keep_outputs(layer: nn.Linear, units: Tensor) -> None:
    layer.weight = _slice(layer.weight, units, 0)
    layer.bias = _slice(layer.bias, units, 0)
    layer.out_features = len(units)


def _keep_inputs(layer: nn.Linear, units: Tensor) -> None:
    layer.weight = _slice(layer.weight, units, 1)
    layer.in_features = len(units)


def _slice(weight: Tensor, units: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(weight.index_select(dim, units.to(weight.device)), requires_grad=weight.requires_grad)


def _share_bias(attention: nn.Module, heads: Sequence[int]) -> None:
    """Have `attention` take its own heads' part of the bias that all blocks share."""
    if not hasattr(attention, "bias_heads"):
        attention.register_forward_pre_hook(own_bias)
    attention.bias_heads = list(heads)


def own_bias(attention: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, mask, head_mask, bias_1HLL, *rest = args
    return hidden, mask, head_mask, bias_1HLL[:, attention.bias_heads], *rest


def _note(model: nn.Module) -> None:
    """Write the widths into the configuration."""
    row = anatomy(model)
    setattr(model.config, FIELD, [list(pair) for pair in widths(model)])
    if row.shared_bias:
        attentions = [block.get_submodule(row.attention) for block in blocks(model)]
        counts = [heads for heads, _ in widths(model)]
        told = [getattr(a, "bias_heads", list(range(n))) for a, n in zip(attentions, counts, strict=True)]
        setattr(model.config, HEADS, told)
