"""Bantam's own engine as a runtime of `serve.engines`.

An artefact's INT8 file is turned into the engine's file once a user and machine: BANTAM_CACHE or ~/.cache/bantam holds
it under the hash of what it was made from, workers map it together, and one that is killed and started again maps the
same pages. Before it is put there each part of it has answered random texts as onnxruntime does, see `rehearsal`.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve import cache
from serve.encode import Feeds
from serve.engine import file
from serve.engine.library import PATH, Compiled
from serve.engine.network import Declined
from serve.engine.reading import network
from serve.engine.rehearsal import rehearse
from serve.errors import BackendError

Logits = NDArray[np.float32]
Rows = Sequence[NDArray[Any]]
SLOW = "plain"  # the path in plain C
# What makes a model file, besides its sources.
CODE = ("graph.py", "parts.py", "heads.py", "reading.py", "network.py", "file.py")


class Engine:
    """Callable with padded feeds as every engine; `ragged` takes texts of any lengths as they are.

    Answers are [texts, outputs]. Where the model answers each token (`compiled.each_token`), a call gives
    [texts, longest, outputs] with zeros at the padding, and `ragged` [tokens of all texts, outputs].
    """

    def __init__(self, compiled: Compiled, threads: int = 1) -> None:
        self.compiled, self.threads = compiled, threads
        self._pool = ThreadPoolExecutor(threads, "bantam-engine") if threads > 1 else None

    def __call__(self, feeds: Feeds) -> Logits:
        ids = feeds["input_ids"]
        mask = feeds.get("attention_mask", np.ones_like(ids)).astype(bool)
        types = feeds.get("token_type_ids")
        lengths = mask.sum(1)
        cuts = np.cumsum(lengths)[:-1]
        parts = np.split(ids[mask], cuts) if len(ids) else []
        answers = self.ragged(parts, None if types is None else np.split(types[mask], cuts) if len(ids) else [])
        if not self.compiled.each_token:
            return answers
        padded = np.zeros((*ids.shape, self.compiled.outputs), np.float32)
        padded[mask] = answers
        return padded

    def ragged(self, ids: Rows, types: Rows | None) -> Logits:
        """Answers to word pieces, one row of them a text."""
        if types is not None and self.compiled.types == 1:
            types = None
        if self._pool is None or len(ids) < 2:
            return self.compiled.run(ids, types)
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        ends, out = np.cumsum(lengths), self.compiled.room(lengths)
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, self.threads) / self.threads) + 1
        work, at = [], 0
        for low, high in pairwise(np.unique([0, *cuts, len(ids)])):
            rows = self.compiled.rows(lengths[low:high])
            kinds = None if types is None else types[low:high]
            work.append(self._pool.submit(self.compiled.run, ids[low:high], kinds, out=out[at : at + rows]))
            at += rows
        for one in work:
            one.result()
        return out


def bantam(path: Path, *, device: str, threads: int) -> Engine:
    """The engine for an artefact's INT8 ONNX file. Raises BackendError with the reason where it declines."""
    try:
        if device != "cpu":
            raise Declined(f"it runs on the CPU, not on {device!r}")
        compiled = opened(path)
        if compiled.path == SLOW and not os.environ.get(PATH):
            raise Declined("this processor has no AVX2, and without it onnxruntime is quicker")
        return Engine(compiled, threads)
    except Declined as declined:
        raise BackendError(f"runtime 'bantam' does not run {path.name}: {declined}") from None


def why_not(path: Path) -> str | None:
    """Why the engine declines an ONNX file, or None where it runs it."""
    try:
        opened(path)
    except Declined as declined:
        return str(declined)
    return None


def opened(path: Path, *, code_path: str | None = None, timed: bool = False) -> Compiled:
    """The model of an ONNX file, from the cache or made for it. Raises Declined with the reason."""
    config = config_of(path)
    target = _cache() / "engine" / f"{_key(path, config)}.bantam"
    try:
        return Compiled(_map(target), path=code_path, timed=timed)
    except (OSError, ValueError):  # not there, or damaged
        pass
    found = network(path, config)
    data = file.pack(found)
    rehearse(path, found, Compiled(_aligned(data), path=code_path))
    try:
        _put(target, data)
        return Compiled(_map(target), path=code_path, timed=timed)
    except OSError:  # nowhere to keep it: this process has a copy of its own
        return Compiled(_aligned(data), path=code_path, timed=timed)


def config_of(path: Path) -> Path:
    """The artefact's config.json, which lies beside the file or above it."""
    for folder in path.parents[:3]:
        if (folder / "config.json").is_file():
            return folder / "config.json"
    raise Declined("there is no config.json, which tells the heads and the activation")


def _key(path: Path, config: Path) -> str:
    found = hashlib.sha256()
    here = Path(__file__).parent
    for one in (path, config, *(here / name for name in CODE)):
        with one.open("rb") as opened_file:
            found.update(hashlib.file_digest(opened_file, "sha256").digest())
    return found.hexdigest()[:32]


def _map(path: Path) -> NDArray[np.uint8]:
    with path.open("rb") as opened_file:
        data = np.frombuffer(mmap.mmap(opened_file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    if not file.intact(data):
        raise ValueError(f"{path} is damaged")
    return data


def _put(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as opened_file:
            opened_file.write(data)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _aligned(data: bytes) -> NDArray[np.uint8]:
    room = np.zeros(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return room[start : start + len(data)]


def _cache() -> Path:
    try:
        return cache.folder()
    except RuntimeError:
        raise Declined("this user has no home to keep its model file in: set BANTAM_CACHE to a folder") from None
