"""How flat the loss is around a trained model's weights: three probes, on training texts, without dropout.

    python -m compress.flatness out/student [out/other ...]

prints a line of JSON for each artefact: the loss on 512 of its training examples; its mean rise where the weights are
moved by filter-normalised noise (Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the Loss Landscape of Neural
Nets", https://arxiv.org/abs/1712.09913, section 4) of several radii; its rise after one step of length 0.05 up the
gradient (Foret et al. 2021, https://arxiv.org/abs/2010.01412, eq. 2); the largest eigenvalue of its Hessian by power
iteration. Artefacts are plain models, so masks and low ranks are folded. Values compare between models of one
architecture and task only: the last two change where weights are rescaled and the function stays.

A loss is given as a function that yields its parts, which add up to it, so that no batch is too large for memory.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress.perturb import displaced, norm

Losses = Callable[[], Iterator[Tensor]]
RADII = (0.01, 0.02, 0.05, 0.1)  # of the noise, as shares of each row's norm
RHO = 0.05  # length of the step up
DRAWS = 10  # directions of noise
PRODUCTS = 20  # of the Hessian with a vector
EXAMPLES = 512


@torch.no_grad()
def value(losses: Losses) -> float:
    return float(sum(losses()))


def gradient(losses: Losses, weights: Sequence[Tensor]) -> list[Tensor]:
    total = [torch.zeros_like(weight) for weight in weights]
    for part in losses():
        for sum_, found in zip(total, torch.autograd.grad(part, weights, allow_unused=True), strict=True):
            sum_ += 0 if found is None else found
    return total


def hessian_product(losses: Losses, weights: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """H v: the gradient of g' v."""
    total = [torch.zeros_like(weight) for weight in weights]
    with sdpa_kernel(SDPBackend.MATH):  # the quicker ones have no second derivative
        for part in losses():
            found = torch.autograd.grad(part, weights, create_graph=True, allow_unused=True)
            along = sum((g * v).sum() for g, v in zip(found, vector, strict=True) if g is not None)
            for sum_, second in zip(total, torch.autograd.grad(along, weights, allow_unused=True), strict=True):
                sum_ += 0 if second is None else second
    return total


def filter_normalised(weight: Tensor) -> Tensor:
    """A Gaussian direction whose rows have the norms of the weight's rows; 0 for biases and normalisations."""
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    direction = torch.randn_like(weight).flatten(1)
    direction *= weight.flatten(1).norm(dim=1, keepdim=True) / direction.norm(dim=1, keepdim=True)
    return direction.view_as(weight)


def noise_rise(
    losses: Losses, weights: Sequence[Tensor], radii: Sequence[float] = RADII, draws: int = DRAWS
) -> dict[float, float]:
    """Mean of L(w + r d) - L(w) for each radius r, over directions and their opposites, so that slopes cancel."""
    still, rises = value(losses), dict.fromkeys(radii, 0.0)
    for _ in range(draws):
        direction = [filter_normalised(weight.detach()) for weight in weights]
        for radius in radii:
            for sign in (1, -1):
                with displaced(weights, direction, sign * radius):
                    rises[radius] += (value(losses) - still) / (2 * draws)
    return rises


def sharpness(losses: Losses, weights: Sequence[Tensor], rho: float = RHO) -> float:
    """L(w + rho g / |g|) - L(w)."""
    up, still = gradient(losses, weights), value(losses)
    with displaced(weights, up, rho / (norm(up) + 1e-12)):
        return value(losses) - still


def top_eigenvalue(losses: Losses, weights: Sequence[Tensor], products: int = PRODUCTS) -> float:
    """The Hessian's eigenvalue of largest magnitude: v' H v after power iteration from a random vector."""
    vector = [torch.randn_like(weight) for weight in weights]
    found = 0.0
    for _ in range(products):
        length = norm(vector)
        vector = [v / length for v in vector]
        image = hessian_product(losses, weights, vector)
        found = float(sum((v * i).sum() for v, i in zip(vector, image, strict=True)))
        vector = image
    return found


def probes(losses: Losses, model: nn.Module) -> dict[str, Any]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return {
        "loss": value(losses),
        "noise_rise": {f"{radius:g}": rise for radius, rise in noise_rise(losses, weights).items()},
        "sharpness": sharpness(losses, weights),
        "top_eigenvalue": top_eigenvalue(losses, weights),
    }


def of_artefact(folder: Path) -> dict[str, Any]:
    """Probes of a finished encoder on training examples of its own recipe. ValueError for other students and tasks."""
    from compress import evaluate
    from compress.data.load import load
    from compress.embedder import load_for
    from compress.models import pieces_of
    from compress.recipe import Recipe
    from compress.supervised import task_loss
    from compress.technique import NOT_INPUTS
    from serve import artefact

    manifest = artefact.load(folder).manifest
    recipe = Recipe.of(manifest.recipe, str(folder))
    if recipe.student.use == "ngram" or recipe.task.kind == "embedding":
        raise ValueError(f"flatness is measured of encoders that classify or score; {folder} is another student")
    data = load(recipe.task, seed=recipe.split_seed)
    model, _ = load_for(recipe, data, str(folder))
    model.eval()
    examples = data.train.drawn(EXAMPLES, seed=0)
    batches = list(
        evaluate.batches(pieces_of(folder, manifest.encoder), examples, torch.device("cpu"), size=64).sorted(64)
    )

    def losses() -> Iterator[Tensor]:
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}
            yield task_loss(model(**inputs).logits, batch["labels"]) * (len(batch["rows"]) / len(examples))

    torch.manual_seed(0)
    return probes(losses, model)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps({"artefact": name, **of_artefact(Path(name))}), flush=True)
