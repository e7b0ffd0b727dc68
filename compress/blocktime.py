"""What heads and neurons cost on this machine: the exported form of one block, timed for every width of a grid.

A block of h heads and f neurons takes norm + attention(h) + ffn(f) milliseconds; each part is the difference of two
files that have it and have it not. Files come from the project's own exporter with random weights and, for INT8, any
ranges: neither changes the time. One thread. Measured once for a machine, its versions and a shape, then cached.

Times at widths between those of the grid are interpolated; noise that would make a wider block faster is levelled.
"""

import copy
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoModelForSequenceClassification

from compress.anatomy import anatomy
from compress.export import qdq
from compress.export.calibrate import ort_session
from compress.export.graph import products
from compress.export.onnx import to_onnx
from compress.progress import say
from compress.recipe import digest
from compress.teacher import alone
from compress.widths import FIELD, HEADS, Keep, shrink
from serve import cache
from serve.machine import describe

INPUTS = ("input_ids", "attention_mask")
WORDS = 64
REPEATS, SECONDS = 15, 60.0  # runs of each file; fewer, but three, where they would take longer than that together
NEURONS = 8  # steps of the grid of FFN widths
HEADS_AT_MOST = 16  # finer grids of heads are thinned

Widths = Sequence[tuple[int, int]]  # (heads, neurons) of each block


@dataclass(frozen=True)
class Setting:
    """How the exported model will be run."""

    length: int = 128  # word pieces
    batch: int = 32  # texts
    precision: Literal["int8", "fp32"] = "int8"


@dataclass(frozen=True)
class Costs:
    """Milliseconds."""

    norm: float  # of a block without heads and neurons: its two normalisations
    attention: tuple[tuple[int, float], ...]  # (heads, time beyond `norm`), ascending
    ffn: tuple[tuple[int, float], ...]

    def heads(self, count: int) -> float:
        return float(np.interp(count, *zip(*self.attention, strict=True)))

    def neurons(self, count: int) -> float:
        return float(np.interp(count, *zip(*self.ffn, strict=True)))

    def stack(self, widths: Widths) -> float:
        return sum(self.norm + self.heads(heads) + self.neurons(neurons) for heads, neurons in widths)


def costs(model: nn.Module, setting: Setting, accelerator: Accelerator) -> Costs:
    """What blocks of `model`'s full shape cost here: from the cache, or measured now (seconds to a minute)."""
    key = digest({"machine": machine(), "shape": shape(model), "setting": asdict(setting)})
    path = cache.folder() / "costs" / f"{key}.json"
    with alone(path, accelerator):
        if not path.exists() and accelerator.is_main_process:
            part = path.with_suffix(".part")
            part.write_text(json.dumps(asdict(measured(model, setting))), encoding="utf-8")
            part.replace(path)
    read = json.loads(path.read_text(encoding="utf-8"))
    return Costs(read["norm"], *(tuple(map(tuple, read[name])) for name in ("attention", "ffn")))


def machine() -> dict[str, Any]:
    """What a time depends on besides the shape."""
    found = describe()
    named = {name: found[name] for name in ("cpu", "family", "model", "flags")}
    return named | {"versions": {name: found["versions"][name] for name in ("onnxruntime", "torch", "transformers")}}


def full_widths(config: Any) -> tuple[int, int]:
    """(heads, neurons) of a block that nothing was cut from."""
    neurons = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return config.num_attention_heads, neurons


def shape(model: nn.Module) -> dict[str, Any]:
    config = model.config
    act = getattr(config, "hidden_act", None) or config.activation
    return {
        "family": config.model_type,
        "width": config.hidden_size,
        "full": full_widths(config),
        "activation": str(act),
    }


def measured(model: nn.Module, setting: Setting) -> Costs:
    heads, neurons = full_widths(model.config)
    head_grid = sorted({round(i * heads / min(heads, HEADS_AT_MOST)) for i in range(min(heads, HEADS_AT_MOST) + 1)})
    neuron_grid = sorted({0, min(32, neurons), *(round(i * neurons / NEURONS) for i in range(1, NEURONS + 1))})
    say(
        f"prune/structured: timing blocks of up to {heads} heads and {neurons} neurons on this machine "
        f"({setting.batch} x {setting.length} word pieces, {setting.precision}, one thread), once"
    )
    stacks: list[Widths] = [(), [(0, 0)]]
    stacks += [[(h, 0)] for h in head_grid[1:]] + [[(0, f)] for f in neuron_grid[1:]]
    found = times(model, stacks, setting)
    nothing, norm, *rest = found
    beyond = [max(t - norm, 0.0) for t in rest]  # too small a block to be told from none may seem to cost less
    attention = rising([0.0, *beyond[: len(head_grid) - 1]])
    ffn = rising([0.0, *beyond[len(head_grid) - 1 :]])
    return Costs(
        max(norm - nothing, 0.0),
        tuple(zip(head_grid, attention, strict=True)),
        tuple(zip(neuron_grid, ffn, strict=True)),
    )


def rising(values: Sequence[float]) -> list[float]:
    """The nearest values, in the mean square, that never fall (pool adjacent violators)."""
    pools: list[list[float]] = []  # sum, count
    for value in values:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + count]
    return [total / count for total, count in pools for _ in range(int(count))]


def times(model: nn.Module, stacks: Sequence[Widths], setting: Setting) -> list[float]:
    """Milliseconds that each stack of blocks takes from word pieces to logits: the fastest of some runs.

    Runs of all files take turns, so that a busy moment of the machine hits them alike.
    """
    random = np.random.default_rng(0)
    ids = random.integers(5, WORDS, size=(setting.batch, setting.length))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = [file(model, widths, setting, folder / str(at)) for at, widths in enumerate(stacks)]
        sessions = [ort_session(path) for path in files]
        first = [run(session, feed) for session in sessions]
        repeats = int(np.clip(SECONDS * 1000 / sum(first), 3, REPEATS))
        runs = [[run(session, feed) for session in sessions] for _ in range(repeats)]
    return [float(t) for t in np.min(runs, axis=0)]


def run(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    """Milliseconds of processor time: a session of one thread works in the caller's, and others may share the core."""
    start = time.thread_time()
    session.run(["logits"], feed)
    return (time.thread_time() - start) * 1000


def file(model: nn.Module, widths: Widths, setting: Setting, folder: Path) -> Path:
    """A model of `model`'s family and width with such blocks and random weights, as it would be exported.

    Its tables of words and positions are as small or large as need be: they are no part of a block's time.
    """
    config = copy.deepcopy(model.config)
    for field in (FIELD, HEADS):
        if hasattr(config, field):
            delattr(config, field)
    config.vocab_size, config.num_labels = WORDS, 2
    config.max_position_embeddings = max(config.max_position_embeddings, setting.length + 2)
    setattr(config, anatomy(model).depth, len(widths))
    with torch.random.fork_rng(devices=[]):
        plain = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    shrink(plain, [Keep(tuple(range(heads)), tuple(range(neurons))) for heads, neurons in widths])
    fp32 = to_onnx(plain, folder / "model.onnx", inputs=INPUTS)
    if setting.precision == "fp32":
        return fp32
    int8 = folder / "int8.onnx"
    qdq.write(fp32, int8, {p.activation: qdq.Grid(0.05, 128) for p in products(onnx.load(fp32).graph)})
    fp32.unlink()
    return int8
