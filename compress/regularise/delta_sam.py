"""Sharpness-aware minimisation whose one perturbation is drawn towards the examples that a perturbation hits hardest.

Zhou, Liu, Zhang, Chen 2022, "Sharpness-Aware Minimization with Dynamic Reweighting",
https://arxiv.org/abs/2112.08772, section 3. A perturbation for each example would be better than one for all and cost
as many backwards; weights of the examples in the loss of the ascent imitate it.

Established is that examples whose gradient changes fastest near the weights count more in the ascent, and that this
is told by their losses under Gaussian noise on the weights, three forwards. Our reconstruction: the very formula of
`curvature` and of `shares` with its `power`, the size of the noise, that scores are taken in fp32 without dropout, and
that the descent weighs all examples alike.

An example's loss is that of its own label, or without one the KL divergence from the teacher. The ascent climbs the
whole objective of the stage + sum_i (w_i - 1/B) l_i, which is the reweighted loss where the objective is the task's,
and plain SAM for any objective where the weights are alike. Weights compare the examples of one micro-batch.

When it helps: where SAM does and examples differ much, as with noisy labels.

When it does not help: where SAM does not; it costs three more forwards an update and noise as long as the weights.
Fake quantisation rounds away a part of what the noise does: take more of it.

Shapes: B examples, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.perturb import displaced, norm
from compress.regularise.sam import descend
from compress.technique import Run, Step, Technique

ALIKE = 1e-12  # scores below count as no curvature


def curvature(at_B: Tensor, plus_B: Tensor, minus_B: Tensor, sigma: float) -> Tensor:
    """h_i = |l_i(W + z) + l_i(W - z) - 2 l_i(W)| / sigma^2, about |z' H_i z| / sigma^2."""
    return (plus_B + minus_B - 2 * at_B).abs() / sigma**2


def shares(scores_B: Tensor, power: float) -> Tensor:
    """w_i = h_i^power / sum_j h_j^power; all alike for power 0, which is SAM, and where nothing is curved."""
    if (scores_B < ALIKE).all():
        return torch.full_like(scores_B, 1 / len(scores_B))
    raised_B = (scores_B / scores_B.max()) ** power
    return raised_B / raised_B.sum()


def example_losses(logits_BC: Tensor, labels_B: Tensor, teacher_BC: Tensor | None) -> Tensor:
    """[B]: cross-entropy or squared error; of examples without a label KL(teacher || student), or squared distance."""
    logits_BC = logits_BC.float()
    if labels_B.is_floating_point():
        labelled_B = ~labels_B.isnan()
        own_B = (logits_BC.squeeze(-1) - labels_B.nan_to_num()).square()
    else:
        labelled_B = labels_B != -100
        own_B = F.cross_entropy(logits_BC, labels_B, reduction="none")
    if teacher_BC is None:
        return own_B.masked_fill(~labelled_B, 0.0)
    if labels_B.is_floating_point():
        taught_B = (logits_BC - teacher_BC.float()).squeeze(-1).square()
    else:
        log_p, log_q = logits_BC.log_softmax(-1), teacher_BC.float().log_softmax(-1)
        taught_B = (log_q.exp() * (log_q - log_p)).sum(-1)
    return torch.where(labelled_B, own_B, taught_B)


@dataclass
class DeltaSAM(Technique):
    rho: float = 0.05  # radius, 0.01-0.1
    noise: float = 5e-3  # sigma, as a share of the root mean square of the weights, 1e-3 to 1e-2
    power: float = 1.0  # of the scores: 0 is SAM, 1 or 2
    kinds: ClassVar = ("classification", "regression")

    def prepare(self, run: Run) -> None:
        if not (self.rho >= 0 and self.noise > 0 and self.power >= 0):
            raise ValueError(
                "regularise/delta-sam: rho and power of 0 or more and noise above 0 must hold, "
                f"got rho {self.rho}, power {self.power}, noise {self.noise}"
            )
        self.weights = [weight for weight in run.model.parameters() if weight.requires_grad]
        self.shares: list[Tensor] = []  # of each micro-batch while an ascent is to be climbed

    def before_backward(self, run: Run) -> None:
        training = run.model.training
        run.model.eval()
        try:
            self.shares = [shares(self.scores(Step(run, batch)), self.power) for batch in run.batches]
        finally:
            run.model.train(training)

    @torch.no_grad()
    def scores(self, step: Step) -> Tensor:
        """[B]: curvature of each example's loss, from three forwards in fp32."""
        sigma = self.noise * float(norm(self.weights)) / sum(w.numel() for w in self.weights) ** 0.5
        noise = [torch.randn_like(weight) for weight in self.weights]
        model = step.run.model
        at_B = self.losses(step, step.forward(model))
        with displaced(self.weights, noise, sigma):
            plus_B = self.losses(step, step.forward(model))
        with displaced(self.weights, noise, -sigma):
            minus_B = self.losses(step, step.forward(model))
        return curvature(at_B, plus_B, minus_B, sigma)

    def losses(self, step: Step, output: Any) -> Tensor:
        labels_B = step.batch["labels"]
        unlabelled = labels_B.isnan() if labels_B.is_floating_point() else labels_B == -100
        taught = "teacher" in step.run.needs and bool(unlabelled.any())
        return example_losses(output.logits, labels_B, step.teacher.logits if taught else None)

    def loss(self, step: Step) -> Tensor | None:
        """sum_i (w_i - 1/B) l_i while the ascent is climbed, and nothing in the descent."""
        if not self.shares:
            return None
        (shares_B,) = (w for w, batch in zip(self.shares, step.run.batches, strict=True) if batch is step.batch)
        return ((shares_B - 1 / len(shares_B)) * self.losses(step, step.student)).sum()

    def before_update(self, run: Run) -> None:
        self.shares = []
        descend(run, self.rho)
