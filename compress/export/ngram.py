"""A trained n-gram student becomes its two files: the one that our own code maps, and the same integers as ONNX.

Rows are rounded to 8 bits with a scale for each column, so that a text's sum stays a whole number (`serve.ngram`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compress.export import parity
from compress.export.choose import AT_MOST, INT8, Exported, Log
from compress.export.gate import Candidate, Judge
from compress.export.kernels import kernels
from compress.export.ngram_onnx import to_onnx
from serve.manifest import Encoder, Model
from serve.measures import RANKED
from serve.ngram import file
from serve.runtime import Session

if TYPE_CHECKING:
    from compress.data.load import Examples
    from compress.ngram.reading import Reading
    from compress.recipe import ExportRecipe

FILE = Path("ngrams.safetensors")
BATCH = 32  # texts a run of the ONNX file


def encoder(reading: "Reading") -> Encoder:
    return Encoder(kind="ngram", file=FILE.as_posix(), max_length=reading.max_length)


def export_ngrams(
    model: Any,
    reading: "Reading",
    staging: Path,
    *,
    kind: Literal["classification", "regression"],
    selection: "Examples",
    metric: str,
    options: "ExportRecipe",
    log: Log,
) -> Exported:
    """Write both files into `staging`. Raises ValueError where they do not say what `model` says."""
    packed = quantised(model, reading)
    file.write(staging / FILE, packed)
    (staging / INT8).parent.mkdir(exist_ok=True)
    to_onnx(packed, staging / INT8)
    chosen = selection.drawn(AT_MOST, seed=0, ranked=metric in RANKED)
    texts = chosen.texts
    reference = parity.torch_logits(model, reading, texts)
    judge = Judge(staging, encoder(reading), kind, metric, texts, chosen.labels, reference, options.max_drop)
    found = kernels(staging / INT8)
    described = Model(
        path=INT8.as_posix(),
        precision="int8",
        method="ngram",
        batch=BATCH,
        integer_kernels=found.integer,
        float_kernels=found.float,
    )
    tried = Candidate("ngram", described, (staging / FILE).stat().st_size)
    judge.weigh(tried, parity.INT8)
    tried.refused = tried.refused or differing(judge, described)
    if tried.refused:
        raise ValueError(f"the exported file does not say what the trained model says: {tried.refused}")
    log(f"export: {len(reading.keys):,} n-grams, {metric} {tried.metric:.4f}, {tried.size / 1e6:.1f} MB")
    return Exported({"int8": tried.model}, "int8", [tried.plain(chosen=True)])


def quantised(model: Any, reading: "Reading") -> file.Model:
    """The student as it is served: rows in the slots of their keys, in 8 bits."""
    table = model.table_VD.detach().cpu().numpy()
    scale = np.maximum(np.abs(table).max(0), np.finfo(np.float32).tiny) / 127
    rows = np.zeros((len(reading.lookup.keys) + 1, table.shape[1]), np.int8)
    rows[reading.slots] = np.clip(np.rint(table / scale), -127, 127)
    weights = {
        f"{name}_{what}": getattr(getattr(model, name), what).detach().cpu().numpy().astype(np.float32)
        for name in ("dense", "out")
        for what in ("weight", "bias")
    }
    return file.Model(
        rows=rows,
        keys=reading.lookup.keys,
        scale=scale.astype(np.float32),
        displacement=reading.lookup.displacement,
        tags=reading.lookup.tags(),
        characters=reading.characters,
        orders=reading.orders,
        inputs=reading.inputs,
        activation=model.activation,
        multipliers=reading.lookup.multipliers,
        **weights,
    )


def differing(judge: Judge, model: Model) -> str | None:
    """Why our own code and the ONNX file are not one model, or None."""
    artefact = judge.session(model).artefact
    logits = [Session(artefact, runtime=runtime).logits(judge.texts) for runtime in ("onnxruntime", "bantam")]
    return parity.FP32.refusal(parity.compare(*logits, judge.kind))
