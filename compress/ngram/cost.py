"""`python -m compress.ngram.cost FILE --texts 10000000`: memory, disk and time of counting a vocabulary.

The corpus is as many sentences as asked for, made from the words of FILE: all its words in a random order, cut into
sentences, then all in another order, and so on. Words come as often as in FILE, but their order means nothing: such
n-grams repeat less than people's do, so counting them takes more disk and time.
"""

import argparse
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.read import unlabelled
from compress.ngram.vocabulary import MEMORY, count
from compress.recipe import TextsRecipe
from serve.machine import describe
from serve.ngram.words import characters

BLOCK = 10_000  # sentences made at once


class Shuffled:
    """`size` sentences of `length` words each; `seconds` of processor time went into making them."""

    def __init__(self, texts: list[str], size: int, length: int) -> None:
        self.size, self.length, self.seconds = size, length, 0.0
        known: dict[str, int] = {}
        flat = (known.setdefault(word, len(known)) for text in texts for word in text.split())
        self.ids = np.fromiter(flat, dtype=np.int32)
        self.words = np.array(list(known), dtype=object)
        if len(self.ids) < length:
            raise ValueError(f"sentences need texts of at least {length} words in all, got {len(self.ids)}")

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[str]:
        rng, made = np.random.default_rng(0), 0
        while made < self.size:
            start = time.process_time()
            order = rng.permutation(self.ids)[: len(self.ids) // self.length * self.length]
            self.seconds += time.process_time() - start
            for rows in np.split(order.reshape(-1, self.length), range(BLOCK, len(order) // self.length, BLOCK)):
                start = time.process_time()
                rows = rows[: self.size - made]
                block = [" ".join(row) for row in self.words[rows].tolist()]
                self.seconds += time.process_time() - start
                made += len(block)
                yield from block


def measure(corpus: Shuffled, *, orders: int, rows: int, memory: int, folder: Path | None) -> dict[str, Any]:
    """The report; its peak is that of the whole process so far."""
    table = characters()
    before = _peak()
    wall, processor = time.perf_counter(), time.process_time()
    made = count(
        corpus, orders=orders, rows=rows, characters=table, memory=memory, folder=folder, least=1, progress=True
    )
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "schema": 1,
        "machine": describe(),
        "settings": {"orders": orders, "rows": rows, "memory_bytes": memory, "words_per_text": corpus.length},
        "texts": made.texts,
        "ngrams": made.ngrams,
        "distinct": made.distinct,
        "rows": len(made.keys),
        "least_count": int(made.counts[-1]),
        "peak_memory_bytes": _peak(),
        "peak_memory_before_bytes": before,
        "disk_bytes": made.spilled,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "processor_seconds_making_texts": corpus.seconds,
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="parquet, csv, tsv or jsonl")
    parser.add_argument("--column", default="text")
    parser.add_argument("--texts", type=int, default=10_000_000)
    parser.add_argument("--words", type=int, default=20, help="of each text")
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", type=int, default=MEMORY, metavar="BYTES")
    parser.add_argument("--folder", type=Path, help="for what does not fit in memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("compress").setLevel(logging.INFO)
    try:
        source = TextsRecipe(dataset=options.file, text=options.column)
        corpus = Shuffled([text for text in unlabelled(source) if text], options.texts, options.words)
        report = measure(corpus, orders=options.orders, rows=options.rows, memory=options.memory, folder=options.folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is left on disk", file=sys.stderr)
        return 130
    text = json.dumps(report, indent=2)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
