"""The map that pruning stacks on a weight: W -> W * m."""

import torch
from torch import Tensor, nn


class Mask(nn.Module):
    """Masked entries get no gradient, since it reaches the raw weight through the product."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)  # bool, of the weight's shape

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.keep, weight, 0)
