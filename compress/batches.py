"""Which examples each update sees: length-bucketed, padded to the longest, a pure function of the seed.

Any update of any epoch can be had without those before it, so a resumed run sees what the first would
have seen; and an update holds the same examples whatever the number of processes and micro-batches.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from compress.technique import Batch
from serve.encode import Encoded, WordPieces

BUCKET = 50  # updates whose examples are sorted together: more saves padding, fewer mixes better


class Batches:
    """Training examples as tensors, update by update.

    `size` examples make an update; `rank` of `world` processes takes its share in `accumulate` parts. Each `together`
    examples from the first on are of one update and one part, side by side; with 2, an odd `size` means one less.
    """

    def __init__(
        self,
        pieces: WordPieces,
        encoded: Encoded,
        labels: np.ndarray,
        *,
        size: int,
        together: int = 1,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pieces, self.encoded, self.device = pieces, encoded, device
        self.labels = torch.from_numpy(np.asarray(labels))
        self.lengths = np.array([len(ids) for ids in encoded.ids])
        self.size, self.accumulate, self.seed, self.rank, self.world = size, accumulate, seed, rank, world
        self.together = together
        self.longest = np.maximum.reduceat(self.lengths, np.arange(0, len(self.lengths), together))  # of each group
        self.groups = max(1, size // together)  # of an update
        self.epoch = lru_cache(maxsize=1)(self._epoch)

    def only(self, rows: np.ndarray) -> "Batches":
        """These examples alone, for one process."""
        encoded = Encoded(
            [self.encoded.ids[row] for row in rows],
            [self.encoded.types[row] for row in rows],
            [self.encoded.truncated[row] for row in rows],
        )
        return Batches(self.pieces, encoded, self.labels.numpy()[rows], size=self.size, device=self.device)

    def __len__(self) -> int:
        """Updates in one epoch; the last may be smaller than the others."""
        return -(-len(self.longest) // self.groups)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """The groups of each update."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.longest))
        rest = order[len(order) // self.groups * self.groups :]
        updates = []
        for start in range(0, len(order) - len(rest), BUCKET * self.groups):
            bucket = order[start : min(start + BUCKET * self.groups, len(order) - len(rest))]
            bucket = bucket[np.argsort(self.longest[bucket], kind="stable")]
            updates += np.split(bucket, len(bucket) // self.groups)
        updates = [updates[i] for i in random.permutation(len(updates))]
        return updates + ([rest] if len(rest) else [])

    def rows(self, step: int) -> np.ndarray:
        """The training rows of update `step`, counted from 0 through all epochs."""
        return self.members(self.epoch(step // len(self))[step % len(self)])

    def members(self, groups: np.ndarray) -> np.ndarray:
        """The rows of these groups; the last group of all may be smaller."""
        rows = (groups[:, None] * self.together + np.arange(self.together)).ravel()
        return rows[rows < len(self.labels)]

    def update(self, step: int) -> list[Batch]:
        """This process's micro-batches of update `step`; none if it has no share of a small last one."""
        mine = self.epoch(step // len(self))[step % len(self)][self.rank :: self.world]
        mine = mine[np.argsort(self.longest[mine], kind="stable")]
        return [self.tensors(self.members(part)) for part in np.array_split(mine, self.accumulate) if len(part)]

    def tensors(self, rows: np.ndarray) -> Batch:
        """Model inputs [B, L], labels [B] and rows [B] on the device."""
        batch = {k: torch.from_numpy(v) for k, v in self.pieces.batch(self.encoded, rows).items()}
        batch["rows"] = torch.from_numpy(rows)
        batch["labels"] = self.labels[batch["rows"]]
        return {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}

    def sorted(self, size: int) -> Iterator[Batch]:
        """Every example once, longest first, for passes without gradients."""
        order = np.argsort(-self.lengths, kind="stable")
        for start in range(0, len(order), size):
            yield self.tensors(order[start : start + size])
