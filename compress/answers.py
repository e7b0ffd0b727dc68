"""A teacher's logits, text by text: what it was asked once is read from disk ever after, in whatever corpus it comes.

A text is known by a 64-bit hash of its word pieces; of a million texts two are mixed up once in forty million corpora.
Each part that is done is a file, so that a stop loses little; in the end one file holds all.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from compress.batches import Batches
from compress.progress import say
from serve.encode import Encoded

PART = 2048  # texts whose logits are kept together
WHOLE = "all.npy"

Answer = Callable[[Batches], np.ndarray]


def logits(
    answer: Callable[[], Answer], data: Batches, folder: Path, accelerator: Accelerator, what: str
) -> np.ndarray:
    """The answers [N, C] to the texts of `data`, in their order. Each of `data.world` processes asks for its share.

    `answer` opens what answers, and is called only where a text is new; `what` says in a line who is asked.
    """
    names = names_of(data.encoded)
    known = read(folder)
    rows = np.unique(names, return_index=True)[1]  # a text that comes twice is asked once
    rows = rows[~np.isin(names[rows], known["name"])] if known is not None else rows
    rows = rows[np.argsort(data.lengths[rows], kind="stable")]  # of one length, so that little is padded
    accelerator.wait_for_everyone()  # all have read what was there
    if len(rows):
        if accelerator.is_main_process:
            say(f"{what}: logits for {len(rows):,} texts")
        ask(answer(), data, rows, names, folder, accelerator, what)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            merge(folder)
        accelerator.wait_for_everyone()
        known = read(folder)
    assert known is not None
    found: np.ndarray = known["logits"][np.searchsorted(known["name"], names)]
    return found


def ask(
    answer: Answer,
    data: Batches,
    rows: np.ndarray,
    names: np.ndarray,
    folder: Path,
    accelerator: Accelerator,
    what: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = np.array_split(rows, -(-len(rows) // PART))
    for at, part in enumerate(parts):
        if at % data.world == data.rank:
            write(folder, names[part], answer(data.only(part)))
            if len(parts) > 1 and accelerator.is_main_process:
                say(f"{what}: part {at + 1:,} of {len(parts):,} is done")


def names_of(encoded: Encoded) -> np.ndarray:
    """A number [N] for each text, of its word pieces and which of a pair's texts they belong to."""
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(np.stack([ids, types]).astype(np.int64).tobytes(), digest_size=8).digest(), "little"
            )
            for ids, types in zip(encoded.ids, encoded.types, strict=True)
        ],
        dtype=np.uint64,
    )


def write(folder: Path, names: np.ndarray, values: np.ndarray) -> None:
    """A file of these answers, there whole or not at all."""
    table = np.zeros(len(names), dtype=[("name", np.uint64), ("logits", np.float32, values.shape[1:])])
    table["name"], table["logits"] = names, values
    put(folder / f"{hashlib.sha256(names.tobytes()).hexdigest()[:16]}.npy", table)


def put(target: Path, table: np.ndarray) -> None:
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, table)
    part.replace(target)


def read(folder: Path) -> np.ndarray | None:
    """All answers there, by rising name; None where there are none."""
    tables = [np.load(path) for path in sorted(folder.glob("*.npy"))]
    if not tables:
        return None
    table = np.concatenate(tables)
    return table[np.unique(table["name"], return_index=True)[1]]


def merge(folder: Path) -> None:
    table = read(folder)
    assert table is not None
    parts = [path for path in folder.glob("*.npy") if path.name != WHOLE]
    put(folder / WHOLE, table)
    for path in parts:
        path.unlink()
