"""Examples that need no tokenizer: rows of word pieces, and the class that pads them."""

from typing import Any

import numpy as np

from compress.batches import Batches
from serve.encode import Encoded


class Pieces:
    """Stands for `serve.encode.WordPieces` where texts are word pieces already."""

    def batch(self, encoded: Encoded, rows: Any) -> dict[str, np.ndarray]:
        longest = max(len(encoded.ids[row]) for row in rows)
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(encoded.ids[row])] = encoded.ids[row]
            mask[at, : len(encoded.ids[row])] = 1
        return {"input_ids": ids, "attention_mask": mask}


def examples(count: int = 48, **options: Any) -> Batches:
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 64, size=rng.integers(3, 12)) for _ in range(count)]
    labels = np.array([row[0] % 2 for row in ids])
    if options.get("together") == 2:
        labels = rng.random(count // 2).astype(np.float32).repeat(2)  # scores of pairs
    return Batches(Pieces(), Encoded(ids, [], []), labels, **{"size": 8} | options)
