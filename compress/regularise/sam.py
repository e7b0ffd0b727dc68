"""Sharpness-aware minimisation: step by the gradient at the worst point near the weights, not at the weights.

Foret, Kleiner, Mobahi, Neyshabur 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
https://arxiv.org/abs/2010.01412, section 2 (eq. 2 with p = 2, eq. 3).

The objective is whatever the stage's other techniques make it, so this composes with any of them: the perturbation
moves raw weights under masks and fake quantisation, those of projections that train beside the student too, and both
gradients are of the whole update over all processes. Dropout draws anew at the perturbed point. Losses that are told
are those at the weights themselves.

When it helps: little or noisily labelled data, many epochs, where plain training ends in a sharp minimum.

When it does not help: where twice the updates would have helped as well, for that is what it costs: two forwards and
backwards an update, the teacher's forward too where no cache answers for it. With fake quantisation a small rho may
not reach the next integer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from compress.perturb import displaced, norm
from compress.technique import Run, Technique

TINY = 1e-12  # beside a norm that may be 0


def ascent(gradients: Sequence[Tensor], rho: float) -> Tensor:
    """Eq. 2: eps = scale x gradient, and this is the scale, rho / ||g||, one norm over all weights."""
    return rho / (norm(gradients) + TINY)


@dataclass
class SAM(Technique):
    rho: float = 0.05  # radius, 0.01-0.1

    def prepare(self, run: Run) -> None:
        if not self.rho >= 0:
            raise ValueError(f"regularise/sam: rho is a radius of 0 or more, got {self.rho}")

    def before_update(self, run: Run) -> None:
        descend(run, self.rho)


def descend(run: Run, rho: float) -> None:
    """Eq. 3: from the gradients of an ascent to those of the objective at the point that it leads to."""
    weights = [w for group in run.optimizer.param_groups for w in group["params"] if w.grad is not None]
    gradients = [w.grad for w in weights]
    told = run.terms
    with displaced(weights, gradients, ascent(gradients, rho)):
        run.backward()
    run.terms = told
