"""HyPe: add fresh noise to what every block takes in, in the one forward that training does anyway.

Yuan, Yuan, Tan, Huang, Huang 2023, "HyPe: Better Pre-trained Language Model Fine-tuning with Hidden Representation
Perturbation", https://arxiv.org/abs/2212.08853, section 3; defaults are those of its code, Yuanhy1997/HyPe.

The paper's uniform noise is U(-sigma, sigma); its code draws U(0, sigma), which shifts every number up: `released` is
that, for reproductions. As in the code, dropout of hidden states is off and that of attention stays as it was.
`intermediate` noise falls on what the feed-forward layer takes in, and not on the residual beside it. Evaluation has no
noise, and no trace stays in the model.

When it helps: small tasks whose runs collapse with some seeds; the paper's gains on large ones are 0.2 points.

When it does not help: noise of 1e-5 is next to nothing beside states of size 1, and dropout goes at the same time:
before a claim compare with `dropout: 0` and no noise. bf16 rounds small noise away wherever a layer multiplies.

Shapes: B batch, L tokens, D width.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.anatomy import anatomy, blocks, has_blocks, part
from compress.technique import Run, Technique


def noise(states_BLD: Tensor, kind: str, sigma: float) -> Tensor:
    """Drawn anew for each number: N(0, sigma^2), U(-sigma, sigma) or U(0, sigma); in fp32."""
    draw = torch.empty_like(states_BLD, dtype=torch.float32)
    if kind == "normal":
        return draw.normal_(0, sigma) if sigma else draw.zero_()
    return draw.uniform_(-sigma if kind == "uniform" else 0, sigma)


def hidden_dropouts(model: nn.Module) -> list[nn.Dropout]:
    """All dropout but that of attention's probabilities."""
    inner = {m for block in blocks(model) for m in block.get_submodule(anatomy(model).attention).modules()}
    return [module for module in model.modules() if isinstance(module, nn.Dropout) and module not in inner]


@dataclass
class HyPe(Technique):
    kind: Literal["uniform", "normal", "released"] = "uniform"
    sigma: float = 1e-5  # 1e-5 to 1e-2
    layers: tuple[int, int] | None = None  # first and last block, counted from 1; None: all
    intermediate: bool = False  # before the feed-forward layer, too
    hidden_dropout: float | None = 0.0  # None: as it is

    def prepare(self, run: Run) -> None:
        self.check(run.model)
        self.checked = self.sigma == 0
        first, last = self.layers or (1, len(blocks(run.model)))
        numbers = range(first - 1, last)
        places = [blocks(run.model)[number] for number in numbers]
        if self.intermediate:
            places += [run.model.get_submodule(part(run.model, number, "ffn_in")) for number in numbers]

        def perturb(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (self.noisy(given[0]), *given[1:]) if module.training else None

        self.handles = [place.register_forward_pre_hook(perturb) for place in places]
        self.before: list[tuple[nn.Dropout, float]] = []
        if self.hidden_dropout is not None:
            self.before = [(module, module.p) for module in hidden_dropouts(run.model)]
            for module, _ in self.before:
                module.p = self.hidden_dropout

    def check(self, model: nn.Module) -> None:
        if not has_blocks(model):
            raise ValueError("regularise/hype puts noise into blocks, and this student has none: leave it out")
        if not self.sigma >= 0 or not 0 <= (self.hidden_dropout or 0) < 1:
            raise ValueError(
                "regularise/hype: sigma of 0 or more and hidden_dropout in [0, 1) must hold, "
                f"got sigma {self.sigma}, hidden_dropout {self.hidden_dropout}"
            )
        first, last = self.layers or (1, 1)
        if not 1 <= first <= last <= len(blocks(model)):
            raise ValueError(
                f"regularise/hype: layers are the first and the last of 1-{len(blocks(model))}, got {first} and {last}"
            )

    def noisy(self, states: Tensor) -> Tensor:
        found = (states.float() + noise(states, self.kind, self.sigma)).to(states.dtype)
        if not self.checked:
            self.checked = True
            if (found != states).float().mean() < 0.5:
                raise ValueError(
                    f"regularise/hype: noise of {self.sigma:g} is rounded away in states of {states.dtype}: "
                    "raise sigma, or train with precision fp32"
                )
        return found

    def finish(self, run: Run) -> None:
        for handle in self.handles:
            handle.remove()
        for module, p in self.before:
            module.p = p
