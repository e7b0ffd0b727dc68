"""Quantisation-aware training: int8 is simulated on every linear layer, and exported with the very same integers.

Zafrir, Boudoukh, Izsak, Wasserblat 2019, "Q8BERT: Quantized 8Bit BERT", https://arxiv.org/abs/1910.06188,
section 2 (fake quantisation, straight-through estimator, moving ranges); range freezing from Kurtic et al. 2022,
"The Optimal BERT Surgeon", https://arxiv.org/abs/2203.07259.

Ours: weights per output channel instead of per tensor, activations affine uint8, embedding rows each with their own
scale. LayerNorm, softmax, GELU, sums and attention's own products stay float, as in both codes. Put it after the
techniques that mask weights, so that what is quantised is what is sparse: q(W m).

When it helps: a task or a sparse student on which post-training INT8 loses points.

When it does not help: where post-training INT8 already answers as fp32 does; the export measures both. Train in fp32
where the last digits count: bf16 autocast rounds the simulated integers times their scale once more.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.anatomy import anatomy
from compress.export.graph import TABLE_ROWS
from compress.technique import Run, Technique
from compress.weights import stack

SMALLEST = 1e-8  # scale of what is all zeros


def weight_scale(weight_OI: Tensor, limit: int) -> Tensor:
    """Symmetric, one scale [O] an output channel: the largest magnitude falls on `limit`."""
    return (weight_OI.detach().abs().amax(1) / limit).clamp(min=SMALLEST)


def activation_grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Affine uint8: scale and zero point of the 256 values over [low, high], widened to hold 0 exactly."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=SMALLEST)
    return scale, (-low / scale).round().clamp(0, 255).int()


class RoundWeight(torch.autograd.Function):
    """W -> s round(W / s), straight through: nothing is clipped where s comes from W's own largest magnitudes."""

    @staticmethod
    def forward(_: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return (weight * scale.reciprocal()).round_().mul_(scale)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class RoundInput(torch.autograd.Function):
    """x -> (clip(round(x / s) + z, 0, 255) - z) s; the gradient is zero where it was clipped.

    The bits of torch's own fake_quantize_per_tensor_affine, in passes that are vectorised on CPUs: a tenth of its time.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        integers = (x.float() * scale.reciprocal()).round_().add_(zero)
        context.save_for_backward(integers)
        context.dtype = x.dtype
        return integers.clamp(0, 255).sub_(zero).mul_(scale)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (integers,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, integers, -0.5, 255.5).to(context.dtype), None, None


class FakeQuantWeight(nn.Module):
    """W -> q s with q = round(W / s) in [-limit, limit]; the gradient passes as if nothing were rounded."""

    scale: Tensor

    def __init__(self, outputs: int, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("scale", torch.ones(outputs))  # of the latest forward

    def forward(self, weight: Tensor) -> Tensor:
        self.scale.copy_(weight_scale(weight, self.limit))
        return RoundWeight.apply(weight, self.scale[:, None])


class FakeQuantInput(nn.Module):
    """x -> (q - z) s on a moving range of real tokens; outside the range the gradient is zero."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.takers = 0  # layers that take in the same tensor
        self.given: tuple[Tensor, Tensor, int] | None = None  # what came in last, its image, takers still to come
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def observe(self, x: Tensor, padding_BL: Tensor | None) -> None:
        x = x.detach()
        low, high = x.amin(-1).float(), x.amax(-1).float()  # each vectorised, while aminmax is not
        if padding_BL is not None and low.shape == padding_BL.shape:  # padding must not stretch the range
            low, high = low.masked_fill(padding_BL, torch.inf), high.masked_fill(padding_BL, -torch.inf)
        keep = torch.where(self.seen, self.decay, 0.0)
        self.low.copy_(torch.lerp(low.amin(), self.low, keep))
        self.high.copy_(torch.lerp(high.amax(), self.high, keep))
        self.seen.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Layers that share an input share its image; the last of them lets go of it."""
        image, left = None, self.takers
        if self.given is not None and self.given[0] is x:
            _, image, left = self.given
        if image is None:
            image = RoundInput.apply(x, *activation_grid(self.low, self.high))
        self.given = (x, image, left - 1) if left > 1 else None
        return image


def fake_quantise_rows(rows: Tensor) -> Tensor:
    """Embedding rows [..., D], each int8 with its own scale; straight-through."""
    scale = (rows.detach().abs().amax(-1, keepdim=True) / 127).clamp(min=SMALLEST)
    return rows + ((rows / scale).round() * scale - rows).detach()


@dataclass
class QAT(Technique):
    limit: Literal[64, 127] = 127  # of weights; 64 for CPUs without VNNI, whose int16 sums would saturate
    decay: float = 0.99  # of the moving ranges; 1 / (1 - decay) updates should be under a twentieth of the run
    freeze: float = 0.5  # progress from which activation ranges stay as they are
    embeddings: bool = True  # large tables are INT8 in the file in any case; this trains with it

    def prepare(self, run: Run) -> None:
        if not (0 <= self.decay < 1 and 0 < self.freeze <= 1):
            raise ValueError(
                "quantise/qat: decay must be in [0, 1) and freeze in (0, 1], "
                f"got decay {self.decay} and freeze {self.freeze}"
            )
        self.run, self.padding = run, None
        self.handles: list[Any] = [run.model.register_forward_pre_hook(self.remember, with_kwargs=True)]
        self.weights: dict[str, FakeQuantWeight] = {}
        self.inputs: dict[str, FakeQuantInput] = {}
        shared: dict[str, FakeQuantInput] = {}
        for name, layer in run.model.named_modules():
            if isinstance(layer, nn.Linear):
                where = input_of(run.model, name)
                first = where not in shared
                if first:
                    shared[where] = run.own(FakeQuantInput(self.decay))
                self.quantise(name, layer, shared[where], observes=first)
            elif self.embeddings and isinstance(layer, nn.Embedding) and layer.num_embeddings > TABLE_ROWS:
                self.handles.append(layer.register_forward_hook(lambda _m, _i, rows: fake_quantise_rows(rows)))

    def quantise(self, name: str, layer: nn.Linear, quantiser: FakeQuantInput, *, observes: bool) -> None:
        """Stack the map of the weight, hook that of the input; of layers that share an input one observes it."""

        def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            if observes and module.training and self.run.progress < self.freeze:
                quantiser.observe(args[0], self.padding)
            return (quantiser(args[0]),)

        _, self.weights[name] = stack(layer, lambda w: FakeQuantWeight(len(w), self.limit))
        self.inputs[name] = quantiser
        quantiser.takers += 1
        self.handles.append(layer.register_forward_pre_hook(hook))

    def remember(self, _model: nn.Module, _args: Any, given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        self.padding = None if mask is None else mask == 0

    def finish(self, run: Run) -> None:
        for handle in self.handles:
            handle.remove()
        run.facts["quantisation"] = {name: self.record(run.model.get_submodule(name), name) for name in self.weights}

    @torch.no_grad()
    def record(self, layer: nn.Module, name: str) -> dict[str, Any]:
        """What the exporter must use, and never derive again: scales [O] of the weight, grid of the input."""
        layer.weight  # noqa: B018  (a forward of the stack brings its scale up to date)
        quantiser = self.inputs[name]
        scale, zero = activation_grid(quantiser.low, quantiser.high)
        weight = self.weights[name].scale.detach().cpu().clone()
        return {"weight_scale": weight, "scale": float(scale), "zero": int(zero), "seen": bool(quantiser.seen)}


def input_of(model: nn.Module, name: str) -> str:
    """A name for what a linear layer takes in: query, key and value of a block take the same."""
    parts = anatomy(model)
    for part in (parts.query, parts.key, parts.value):
        if name.endswith(f".{part}"):
            return name.removesuffix(part)
    return name
