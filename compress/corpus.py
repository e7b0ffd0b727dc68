"""Text without labels as one stream of word pieces, cut into sequences and masked anew each time they are seen.

Devlin, Chang, Lee, Toutanova 2019, "BERT", https://arxiv.org/abs/1810.04805, section 3.1 (which word pieces are
masked, and with what); Liu et al. 2019, "RoBERTa", https://arxiv.org/abs/1907.11692, section 4.1 (dynamic masking)
and 4.2 (sequences that run over the ends of texts, so that nothing is padded, and no next-sentence task); Sanh,
Debut, Chaumond, Wolf 2019, "DistilBERT", https://arxiv.org/abs/1910.01108, whose released code masks rare word pieces
more often.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compress.data.load import NO_LABEL
from compress.data.read import unlabelled
from compress.data.sentences import split
from compress.progress import say
from compress.recipe import CorpusRecipe
from compress.technique import NOT_INPUTS, Batch

CHUNK = 2000  # texts tokenised at once
SHORTEST = 2  # words of a sentence
HELD_OUT = 0x5EED  # stream of random numbers for the masks of what is held out


def read(recipe: CorpusRecipe) -> list[list[str]]:
    """The texts of each dataset, or their sentences; blank ones left out. Raises ValueError where there are none."""
    found = []
    for number, part in enumerate(recipe.texts):
        texts = [text for text in unlabelled(part) if text and not text.isspace()]
        if part.sentences:
            texts = list(split(texts, shortest=SHORTEST))
        if not texts:
            raise ValueError(f"a corpus needs text; column {part.text!r} of {part.dataset} has none that is not blank")
        if part.limit is not None and part.limit < len(texts):
            drawn = np.random.default_rng([recipe.seed, number]).permutation(len(texts))[: part.limit]
            texts = [texts[row] for row in np.sort(drawn)]
        found.append(texts)
    return found


def fingerprint(sources: list[list[str]]) -> str:
    """A name for these texts in this order."""
    sha = hashlib.sha256()
    for texts in sources:
        for text in texts:
            sha.update(text.encode("utf-8", "surrogatepass") + b"\0")
        sha.update(b"\1")
    return sha.hexdigest()[:16]


def sequences(texts: list[str], tokenizer: Any, length: int) -> np.ndarray:
    """Word pieces [S, length]: the texts end to end with a separator between, each row inside [CLS] ... [SEP]."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    small = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    parts = []
    for start in range(0, len(texts), CHUNK):
        rows = backend.encode_batch_fast(texts[start : start + CHUNK], add_special_tokens=False)
        parts.append(np.array([piece for row in rows for piece in (*row.ids, tokenizer.sep_token_id)], dtype=small))
        if start and start % (10 * CHUNK) == 0:
            say(f"corpus: {start:,} of {len(texts):,} texts cut into word pieces")
    stream = np.concatenate(parts)
    inner = length - 2
    rows = stream[: len(stream) // inner * inner].reshape(-1, inner)
    first, last = (np.full((len(rows), 1), i, small) for i in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    return np.hstack([first, rows, last])


class Corpus:
    """Masked sequences, update by update; a pure function of the seed, like `compress.batches.Batches`."""

    def __init__(
        self,
        rows: np.ndarray,
        tokenizer: Any,
        *,
        masked: float,
        size: int,
        smoothing: float | None = None,
        every: bool = False,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sequences, self.masked, self.size, self.seed = rows, masked, size, seed
        self.accumulate, self.rank, self.world, self.device = accumulate, rank, world, device
        self.mask_id, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        self.special, self.every = np.array(tokenizer.all_special_ids), every
        self.odds_V = None if smoothing is None else odds(rows, self.special, self.vocabulary, smoothing)
        self.order = lru_cache(maxsize=1)(self._order)

    def __len__(self) -> int:
        return math.ceil(len(self.sequences) / self.size)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.sequences))

    def rows(self, step: int) -> np.ndarray:
        epoch, at = divmod(step, len(self))
        return self.order(epoch)[at * self.size : (at + 1) * self.size]

    def update(self, step: int) -> list[Batch]:
        rows = self.rows(step)
        random = np.random.default_rng([self.seed, 1, step])
        ids = self.sequences[rows].astype(np.int64)
        chosen = None if self.odds_V is None else drawn(ids, self.odds_V, self.masked, random)
        given, chosen = mask(ids, self.special, self.mask_id, self.vocabulary, self.masked, random, chosen=chosen)
        mine = np.arange(len(rows))[self.rank :: self.world]
        return [
            self.tensors(rows[part], given[part], chosen[part], every=self.every)
            for part in np.array_split(mine, self.accumulate)
            if len(part)
        ]

    def tensors(self, rows: np.ndarray, given: np.ndarray, chosen: np.ndarray, *, every: bool = False) -> Batch:
        """input_ids and attention_mask [B, L], positions and labels [M] of what is to be predicted, rows [B].

        With `every` the positions are all there are, [B L], and the label is -100 where nothing was masked.
        """
        labels = np.where(chosen, self.sequences[rows].astype(np.int64), NO_LABEL)
        asked = np.ones_like(chosen) if every else chosen
        batch = {
            "input_ids": given,
            "attention_mask": np.ones_like(given),
            "positions": np.flatnonzero(asked),
            "labels": labels[asked],
            "rows": rows,
        }
        return {name: torch.from_numpy(value).to(self.device) for name, value in batch.items()}

    def fixed(self) -> Iterator[Batch]:
        """Every sequence once, with the same masks at each call."""
        for number, start in enumerate(range(0, len(self.sequences), self.size)):
            rows = np.arange(start, min(start + self.size, len(self.sequences)))
            random = np.random.default_rng([self.seed, HELD_OUT, number])
            ids = self.sequences[rows].astype(np.int64)
            yield self.tensors(rows, *mask(ids, self.special, self.mask_id, self.vocabulary, self.masked, random))


def odds(ids_BL: np.ndarray, special: np.ndarray, vocabulary: int, smoothing: float) -> np.ndarray:
    """[V]: how often to mask each word piece: its count in `ids_BL` to the power of -smoothing; special ones never."""
    counts_V = np.bincount(ids_BL.ravel(), minlength=vocabulary)
    odds_V: np.ndarray = np.maximum(counts_V, 1.0) ** -smoothing
    odds_V[special] = 0
    return odds_V


def drawn(ids_BL: np.ndarray, odds_V: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """ceil(share B L) positions [B, L] (bool), drawn one by one from the whole batch with these odds, none twice.

    They are those whose waiting times are shortest, where these are exponential and the odds their rates.
    """
    odds_N = odds_V[ids_BL.ravel()]
    waits_N = np.full(odds_N.shape, np.inf)
    np.divide(random.exponential(size=odds_N.shape), odds_N, out=waits_N, where=odds_N > 0)
    chosen = np.zeros(odds_N.shape, dtype=bool)
    chosen[np.argsort(waits_N)[: min(math.ceil(share * len(odds_N)), np.count_nonzero(odds_N))]] = True
    return chosen.reshape(ids_BL.shape)


def mask(
    ids_BL: np.ndarray,
    special: np.ndarray,
    mask_id: int,
    vocabulary: int,
    share: float,
    random: np.random.Generator,
    *,
    chosen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What the model is given [B, L], and which word pieces it is to predict [B, L] (bool).

    `share` of the ordinary word pieces are chosen, unless `chosen` is given; of these 80 % become the mask, 10 % any
    other, 10 % stay. At least one is chosen, so that a loss exists.
    """
    ordinary = ~np.isin(ids_BL, special)
    if chosen is None:
        chosen = (random.random(ids_BL.shape) < share) & ordinary
    if not chosen.any():
        chosen.flat[np.flatnonzero(ordinary)[:1]] = True
    fate = random.random(ids_BL.shape)
    given = np.where(chosen & (fate < 0.8), mask_id, ids_BL)
    return np.where(chosen & (fate >= 0.9), random.integers(0, vocabulary, ids_BL.shape), given), chosen


def scorer(data: Corpus) -> Callable[[nn.Module], float]:
    """A function from a masked language model to minus its mean cross-entropy (nats a word piece) on `data`."""

    @torch.inference_mode()
    def score(model: nn.Module) -> float:
        total, count = 0.0, 0
        for batch in data.fixed():
            logits = model(**{k: v for k, v in batch.items() if k not in NOT_INPUTS}).logits.float()
            total += float(F.cross_entropy(logits, batch["labels"], reduction="sum"))
            count += len(batch["labels"])
        return -total / count

    return score


def perplexity(score: float) -> float:
    """exp of the mean cross-entropy that `scorer` gives with its sign turned."""
    return math.exp(min(-score, 700.0))
