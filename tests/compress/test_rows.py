"""Oracles: torch's EmbeddingBag and its SparseAdam; dense AdamW where every row is touched."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.recipe import TrainRecipe
from compress.rows import AdamW, by_rows, means, values
from compress.supervised import Supervised
from compress.technique import Run
from compress.train import adamw, clipped_step

V, D = 50, 8


def bags(seed: int, texts: int = 7, longest: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (texts,), generator=generator)
    return torch.randint(0, V, (int(lengths.sum()),), generator=generator), lengths


def reference(table: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(ids, table, lengths.cumsum(0) - lengths, mode="mean", sparse=True)


def table(seed: int = 0) -> nn.Parameter:
    return by_rows(nn.Parameter(torch.randn(V, D, generator=torch.Generator().manual_seed(seed))))


@pytest.mark.parametrize("seed", range(5))
def test_means_and_their_gradient_are_those_of_an_embedding_bag(seed: int) -> None:
    ours, theirs = table(), table()
    ids, lengths = bags(seed)
    mean, expected = means(ours, ids, lengths), reference(theirs, ids, lengths)
    assert torch.equal(mean[lengths == 0], torch.zeros(int((lengths == 0).sum()), D))
    assert torch.allclose(mean, expected, atol=1e-6)
    (mean**2).sum().backward()
    (expected**2).sum().backward()
    assert ours.grad.is_sparse and torch.allclose(ours.grad.to_dense(), theirs.grad.to_dense(), atol=1e-6)
    assert ours.grad._nnz() == len(ids.unique())


def test_a_step_moves_touched_rows_as_sparse_adam_does_and_no_others() -> None:
    ours, theirs = table(), table()
    mine = AdamW([{"params": [ours], "weight_decay": 0.5, "eps": 1e-12}], lr=0.1)
    other = torch.optim.SparseAdam([theirs], lr=0.1, eps=1e-12)
    for seed in range(6):
        before = ours.detach().clone()
        ids, lengths = bags(seed)
        (means(ours, ids, lengths) ** 2).sum().backward()
        other.zero_grad()
        (reference(theirs, ids, lengths) ** 2).sum().backward()
        mine.step()
        other.step()
        touched = torch.zeros(V, dtype=torch.bool).index_fill(0, ids, True)
        assert torch.equal(ours[~touched], before[~touched]) and (ours[touched] != before[touched]).any()
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_with_every_row_touched_it_is_dense_adamw() -> None:
    ours, dense = table(), nn.Parameter(table().detach().clone())
    mine, other = AdamW([{"params": [ours]}], lr=0.1), torch.optim.AdamW([dense], lr=0.1, weight_decay=0)
    everything = torch.arange(V), torch.ones(V, dtype=torch.long)
    for _ in range(4):
        (means(ours, *everything) ** 2).sum().backward()
        other.zero_grad()
        (dense**2).sum().backward()
        mine.step()
        other.step()
    assert torch.allclose(ours, dense, atol=1e-5)


def test_gradients_of_micro_batches_add() -> None:
    together, apart = table(), table()
    first, second = bags(1), bags(2)
    both = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    (means(together, *both) ** 2).sum().backward()
    for part in (first, second):
        (means(apart, *part) ** 2).sum().backward()
    optimisers = [AdamW([{"params": [one]}], lr=0.1) for one in (together, apart)]
    assert torch.allclose(values(together.grad), values(apart.grad), atol=1e-5)
    for one in optimisers:
        one.step()
    assert torch.allclose(together, apart, atol=1e-5)


def test_the_loop_gives_tables_no_decay_and_clips_them_with_the_rest() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = table(), nn.Linear(D, 2)

    network = Network()
    optimiser = adamw(Run(network, {"supervised": Supervised()}, 1), TrainRecipe(lr=0.1, weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in (network.table, network.out.weight, network.out.bias)] == [0, 0.3, 0]
    before = network.table.detach().clone()
    ids, lengths = bags(3)
    (100 * network.out(means(network.table, ids, lengths))).sum().backward()
    whole = torch.cat([network.table.grad.to_dense().flatten(), *(p.grad.flatten() for p in network.out.parameters())])
    clipped_step(optimiser, list(network.parameters()), 1.0)
    state = optimiser.state[network.table]
    assert torch.allclose(state["exp_avg"].norm(), 0.1 * (whole[: V * D].norm() / whole.norm()), rtol=1e-4)
    assert (network.table != before).any()


def test_moments_survive_a_checkpoint() -> None:
    ours, other = table(), table()
    mine = AdamW([{"params": [ours]}], lr=0.1)
    (means(ours, *bags(1)) ** 2).sum().backward()
    mine.step()
    again = AdamW([{"params": [other]}], lr=0.1)
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    with torch.no_grad():
        other.copy_(ours)
    for one, optimiser in ((ours, mine), (other, again)):
        (means(one, *bags(2)) ** 2).sum().backward()
        optimiser.step()
    assert torch.equal(ours, other)
