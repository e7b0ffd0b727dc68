"""Prune one linear layer and set what stays of it so that its outputs change least: least squares on given inputs.

A layer y = W x + b is fitted to targets: minimise sum |y - W x - b|^2 over the weights that stay, with a little ridge
towards the weights it came with. All that this takes of the inputs is their Gram matrix. Which weights go is chosen by
the Optimal Brain Surgeon (Hassibi, Stork 1993, "Second order derivatives for network pruning", eq. 5): setting w_q to
zero and the rest to their new best costs w_q^2 / (2 [H^-1]_qq), with H of the inputs. A block costs the sum of its
weights' prices, that is as if H^-1 were diagonal within it. Prices change as weights go, so they are taken anew in
a few rounds, each followed by an exact fit; Optimal Brain Compression (Frantar, Singh, Alistarh 2022,
https://arxiv.org/abs/2208.11580) takes a round for every weight.

Shapes: O outputs, I inputs; J is I and one more for the bias, whose input is 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.patterns import BLOCKS, masks


@dataclass
class Sums:
    """What least squares need to know of a layer's inputs x and targets y, summed over tokens."""

    gram: Tensor  # x x^T, [J, J]
    cross: Tensor  # x y^T, [J, O]

    @classmethod
    def none(cls, outputs: int, inputs: int, device: torch.device) -> "Sums":
        """Before any token."""
        return cls(torch.zeros(inputs + 1, inputs + 1, device=device), torch.zeros(inputs + 1, outputs, device=device))

    def add(self, inputs_TI: Tensor, targets_TO: Tensor, weights_T: Tensor | None = None) -> None:
        """`weights_T` is how much each token counts (default: 1)."""
        inputs_TJ = torch.cat([inputs_TI, inputs_TI.new_ones(len(inputs_TI), 1)], 1)
        weighted_TJ = inputs_TJ if weights_T is None else inputs_TJ * weights_T[:, None]
        self.gram += weighted_TJ.T @ inputs_TJ
        self.cross += weighted_TJ.T @ targets_TO


def sparsities(final: float, rounds: int, begun: float = 0.0) -> list[float]:
    """Sparsity after each round from `begun` on: every one leaves the same share of what the round before left."""
    share = (1 - final) / (1 - begun)
    return [1 - (1 - begun) * share ** (number / rounds) for number in range(1, rounds)] + [final]


@torch.no_grad()
def prune_and_fit(
    weight_OI: Tensor,
    bias_O: Tensor,
    sums: Sums,
    keep_OI: Tensor,
    wanted: Sequence[float],
    pattern: str,
    *,
    damping: float,
    worth_O: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, bias and mask after a round for each sparsity in `wanted`; weights that `keep_OI` drops stay gone.

    No sparsity in `wanted` is below that of `keep_OI`.

    `worth_O` is how much an error of each output counts (default: 1): it decides which weights go, since each output's
    own fit is the best at any worth. `damping` is the ridge, as a share of the inputs' mean square. Raises ValueError
    where inputs are not finite.
    """
    O, I = weight_OI.shape  # noqa: E741
    rows = BLOCKS.get(pattern, (1, 4))[0]  # outputs that share their inputs
    ridge = damping * sums.gram.diagonal()[:I].mean()
    gram_JJ, cross_JO = sums.gram.clone(), sums.cross.clone()
    gram_JJ.diagonal()[:I] += ridge
    cross_JO[:I] += ridge * weight_OI.T
    gram_JJ.diagonal()[I] = gram_JJ[I, I].clamp(min=1)  # no token at all leaves the bias alone
    if not (torch.isfinite(gram_JJ).all() and torch.isfinite(cross_JO).all()):
        raise ValueError("a layer's inputs or outputs are not finite: train with a lower lr, or in fp32")

    everything = torch.ones(O // rows, I, dtype=torch.bool, device=weight_OI.device)
    held = everything if bool(keep_OI.all()) else keep_OI[::rows]
    fit_OJ, spread_OI = best(gram_JJ, cross_JO, held, prices=True)
    for number, sparsity in enumerate(wanted, 1):
        price_OI = fit_OJ[:, :I].square() / spread_OI
        if worth_O is not None:
            price_OI *= worth_O[:, None]
        price_OI.masked_fill_(~keep_OI, -1)  # what is gone goes first again
        (keep_OI,) = masks([price_OI], sparsity, pattern, together=False)
        fit_OJ, spread_OI = best(gram_JJ, cross_JO, keep_OI[::rows], prices=number < len(wanted))
    return fit_OJ[:, :I].contiguous(), fit_OJ[:, I].contiguous(), keep_OI


def best(gram_JJ: Tensor, cross_JO: Tensor, keep_GI: Tensor, *, prices: bool) -> tuple[Tensor, Tensor]:
    """Least squares [O, J] on what each of G groups of outputs keeps, and [H^-1]_qq [O, I] where `prices` are asked."""
    J, O = cross_JO.shape  # noqa: E741
    rows = O // len(keep_GI)
    fit_OJ = cross_JO.new_zeros(O, J)
    spread_OI = cross_JO.new_ones(O, J - 1)
    for group, kept in supports(keep_GI):
        outputs = torch.cat([torch.arange(g * rows, (g + 1) * rows, device=kept.device) for g in group])
        factor, failed = torch.linalg.cholesky_ex(gram_JJ[kept[:, None], kept])
        if failed:
            raise ValueError("a layer's inputs depend on one another too much to be fitted: raise damping")
        solved = torch.cholesky_solve(cross_JO[kept[:, None], outputs], factor)
        fit_OJ[outputs[:, None], kept] = solved.T
        if prices:
            spread_OI[outputs[:, None], kept[:-1]] = torch.cholesky_inverse(factor).diagonal()[:-1]
    return fit_OJ, spread_OI


def supports(keep_GI: Tensor) -> Iterator[tuple[list[int], Tensor]]:
    """(groups, inputs that they keep and the bias's): all groups at once where they keep the same."""
    bias = keep_GI.new_tensor([keep_GI.shape[1]], dtype=torch.long)
    together = (
        [list(range(len(keep_GI)))] if bool((keep_GI == keep_GI[0]).all()) else [[g] for g in range(len(keep_GI))]
    )
    for groups in together:
        yield groups, torch.cat([keep_GI[groups[0]].nonzero().flatten(), bias])
