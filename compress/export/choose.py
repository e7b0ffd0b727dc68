"""Export a trained model, try the INT8 files asked for, refuse those that fail a gate, keep the best of the others.

Those whose metric is within the noise of the best count as equal, and the fastest of them on this host is chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import nn

from compress.export import parity
from compress.export.gate import Candidate, Judge, candidate, worth
from compress.export.int8 import CANDIDATES, Source
from compress.export.onnx import to_onnx
from serve import trial
from serve.artefact import Encoder, Model
from serve.encode import Text, WordPieces
from serve.manifest import Embedding
from serve.measures import RANKED, interval
from serve.runtime import Session

if TYPE_CHECKING:
    from compress.data.load import Examples
    from compress.recipe import ExportRecipe

FP32, INT8 = Path("onnx/model.onnx"), Path("onnx/model_quantized.onnx")
STATIC = Path("onnx/model_static.onnx")  # kept beside a dynamic file: runtimes other than onnxruntime are slow on that
AT_MOST = 1000  # selection texts that gates and metrics look at
TOLERANCE = 0.002  # of the metric: at least this much counts as equal

Log = Callable[[str], None]


@dataclass
class Exported:
    models: dict[str, Model]  # "fp32", "int8" where a file passed, "int8-static" where another one was faster
    served: str
    candidates: list[dict[str, Any]]  # every file tried, with figures and the reason of a refusal


def export_models(
    model: nn.Module,
    staging: Path,
    *,
    encoder: Encoder,
    pieces: WordPieces,
    kind: Literal["classification", "regression", "embedding"],
    calibration: list[Text],
    selection: "Examples",
    metric: str,
    options: "ExportRecipe",
    log: Log,
    record: Mapping[str, Mapping[str, Any]] | None = None,
    embedding: Embedding | None = None,
) -> Exported:
    """Write onnx/model.onnx and, where one passes, onnx/model_quantized.onnx into `staging`.

    `record` is what quantise/qat left in the run's facts; with it a file of those very integers is tried first.
    `embedding` is what the manifest will say of vectors. `staging` already holds the tokeniser. `calibration` are
    training texts, `selection` is the split that chooses.
    Raises ValueError where even the fp32 file does not say what `model` says.
    """
    unknown = [name for name in options.int8 if name not in CANDIDATES]
    if unknown:
        raise ValueError(f"export.int8 must be among {', '.join(CANDIDATES)}; got {', '.join(unknown)}")
    chosen = selection.drawn(AT_MOST, seed=0, ranked=metric in RANKED)
    texts = chosen.texts
    _full_length(model, pieces, texts)
    reference = parity.torch_logits(model, pieces, texts)
    judge = Judge(staging, encoder, kind, metric, texts, chosen.labels, reference, options.max_drop, embedding)
    to_onnx(model, staging / FP32, inputs=encoder.inputs, opset=options.opset)
    fp32 = candidate("fp32", staging, staging / FP32, precision="fp32", method="export")
    sessions = {"fp32": judge.weigh(fp32, parity.FP32)}
    if fp32.refused:
        raise ValueError(f"the exported fp32 file does not say what the trained model says: {fp32.refused}")
    encoded = pieces.encode(calibration[: options.calibration])
    feeds = [pieces.batch(encoded, [row]) for row in range(len(encoded))]
    found = [fp32]
    limits = parity.VECTORS if kind == "embedding" else parity.INT8
    for name in dict.fromkeys(("qat", *options.int8) if record else options.int8):
        log(f"export: making INT8 file: {name}")
        path = staging / FP32.parent / f"{name}.onnx"
        made = CANDIDATES[name](Source(model, staging / FP32, feeds, kind, record or {}), path)
        tried = candidate(name, staging, path, precision="int8", method=made.method, batch=made.batch)
        tried.facts.update(made.notes)
        sessions[name] = None if tried.refused else judge.weigh(tried, limits, fp32.metric)
        found.append(tried)
    _time(found, sessions, texts)
    for tried in found:
        log(f"export: {_line(tried, metric)}")
    return _settle(found, judge, log)


def choose(passed: Sequence[Candidate], judge: Judge) -> Candidate:
    """The fastest of those whose metric is within half a standard error, or TOLERANCE, of the best."""
    best = max(passed, key=lambda tried: worth(judge.metric, tried.metric))
    logits = judge.session(best.model).logits(judge.texts)
    bounds = interval(judge.metric, logits, judge.labels, texts=judge.texts, resamples=500)
    tolerance = np.fmax(TOLERANCE, 0.5 * (bounds["high"] - bounds["low"]) / (2 * 1.96))
    floor = worth(judge.metric, best.metric) - tolerance
    return max((tried for tried in passed if worth(judge.metric, tried.metric) >= floor), key=_pace)


def _full_length(model: nn.Module, pieces: WordPieces, texts: Sequence[Text]) -> None:
    """ValueError unless the model has as many positions as texts are cut to."""
    words = "a " * pieces.max_length
    try:
        parity.torch_logits(model, pieces, [(words, words) if isinstance(texts[0], tuple) else words])
    except (IndexError, RuntimeError):  # from a lookup, or from adding what a slice cut short
        raise ValueError(
            f"task.max_length is {pieces.max_length}, more than the model has positions for; make it smaller"
        ) from None


def _time(found: Sequence[Candidate], sessions: dict[str, Session | None], texts: Sequence[Text]) -> None:
    speeds = trial.speeds({name: session for name, session in sessions.items() if session}, texts)
    for tried in found:
        tried.speed = speeds.get(tried.name, {})


def _settle(found: list[Candidate], judge: Judge, log: Log) -> Exported:
    """Move the best INT8 file into its place, keep a static one beside it, and delete the others."""
    fp32, *tried = found
    passed = [one for one in tried if not one.refused]
    chosen = choose(passed, judge) if passed else fp32
    models = {"fp32": fp32.model}
    for one in tried:
        path = judge.staging / one.model.path
        if one is chosen:
            path.replace(judge.staging / INT8)
            models["int8"] = one.model.model_copy(update={"path": INT8.as_posix()})
        elif one.name == "static" and one in passed:
            path.replace(judge.staging / STATIC)
            models["int8-static"] = one.model.model_copy(update={"path": STATIC.as_posix()})
        else:
            path.unlink()
    if tried and not passed:
        log("export: WARNING: every INT8 file was refused, so the fp32 file is served")
    elif _pace(chosen) < _pace(fp32):
        log("export: WARNING: on this host the INT8 file is slower than fp32; it is served for its size")
    served = "fp32" if chosen is fp32 else "int8"
    return Exported(models, served, [one.plain(chosen=one is chosen) for one in found])


def _pace(tried: Candidate) -> float:
    """Texts a second: the geometric mean over the sizes of a call."""
    return float(np.exp(np.mean(np.log(list(tried.speed.values())))))


def _line(tried: Candidate, metric: str) -> str:
    if tried.refused:
        return f"{tried.name} REFUSED: {tried.refused}"
    speed = ", ".join(f"{rate:.0f} texts/s in calls of {size}" for size, rate in tried.speed.items())
    return (
        f"{tried.name}: {metric} {tried.metric:.4f}, {speed}, {tried.size / 1e6:.1f} MB, "
        f"{tried.model.integer_kernels} integer and {tried.model.float_kernels} float products, "
        f"groups of {tried.model.batch}"
    )
