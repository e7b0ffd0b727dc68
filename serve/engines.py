"""Runtimes that turn feeds into logits: one function each, with one signature."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.encode import Encoded, Feeds
from serve.encoders import AnyEncoder
from serve.errors import ArtefactError, BackendError

Logits = NDArray[np.float32]
Engine = Callable[[Feeds], Logits]

SPARSE = 0.5  # share of zeros from which `openvino_sparse` compresses a weight


def onnxruntime(path: Path, *, device: str, threads: int) -> Engine:
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads wait faster but burn the CPU that other workers need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"device {device!r} needs onnxruntime's {provider}, and this build has only "
            f"{', '.join(ort.get_available_providers())}; install onnxruntime-gpu in its place or use device 'cpu'"
        )
    if device == "cuda":
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime's own errors share no narrower base
        raise ArtefactError(f"onnxruntime cannot load {path}: {' '.join(str(error).split())[:300]}") from error
    if provider not in session.get_providers():  # it falls back to the CPU without an error
        raise BackendError(f"device {device!r}: {provider} could not start; check the driver and the CUDA libraries")
    outputs = [session.get_outputs()[0].name]

    def run(feeds: Feeds) -> Logits:
        result: Logits = session.run(outputs, feeds)[0]
        return result

    return run


def openvino(path: Path, *, device: str, threads: int, callers: int = 1, sparse: float = 1.0) -> Engine:
    """`threads` for each of as many `callers` at once; more of them wait for each other.

    `sparse`: weights with at least this share of zeros are kept compressed, see `openvino_sparse`; 1 for none.
    """
    # Importing openvino 2026.4 reports to Google Analytics unless a file in the user's home says no, and there is no
    # switch; where its telemetry package cannot be imported it uses a stub. Goes once an environment variable exists.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as ov
    except ModuleNotFoundError as error:
        raise BackendError("runtime 'openvino' is not installed; run: pip install 'bantam[openvino]'") from error
    if device != "cpu":
        raise BackendError(f"runtime 'openvino' runs on the CPU here, got device {device!r}; use 'onnxruntime'")
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads * callers,
        "NUM_STREAMS": callers,
        "PERFORMANCE_HINT": "LATENCY",
        # The default silently becomes bf16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinning puts every worker process on the same first core.
        "ENABLE_CPU_PINNING": False,
    }
    if sparse < 1:
        config["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = sparse
    try:
        core = ov.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", config)
    except RuntimeError as error:
        raise ArtefactError(f"openvino cannot load {path}: {' '.join(str(error).split())[:300]}") from error
    mine = threading.local()  # an infer request serves one caller at a time
    alone = threading.Lock()  # requests at once, of shapes that are new, have stood still for good (2026.4)

    def run(feeds: Feeds) -> Logits:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        with alone:
            result: Logits = mine.request.infer(feeds, share_inputs=True)[0]
        return result

    return run


def openvino_sparse(path: Path, *, device: str, threads: int, callers: int = 1) -> Engine:
    """OpenVINO, with INT8 weights of which half are zero kept as non-zeros and a bit mask until they are used.

    It saves memory traffic, not multiplications, and needs AMX (`amx_int8`), integer activations and shapes of whole
    multiples of 64; elsewhere OpenVINO (2026.4) takes the setting and runs its ordinary kernels without a word.
    """
    return openvino(path, device=device, threads=threads, callers=callers, sparse=SPARSE)


def bantam(path: Path, *, device: str, threads: int) -> Engine:
    """Our own engine, see `serve.engine`: for INT8 encoders of the BERT family."""
    try:
        from serve.engine.runtime import bantam as opened
    except ModuleNotFoundError as error:
        raise BackendError("runtime 'bantam' is not in this installation: a Bento holds no engine") from error
    return opened(path, device=device, threads=threads)


ENGINES: dict[str, Callable[..., Engine]] = {
    "bantam": bantam,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-sparse": openvino_sparse,
}
DEVICES = ("cpu", "cuda")
AUTO = "auto"  # the quickest on this host, see `serve.choice`
REFERENCE = "onnxruntime"  # what runs every file


def open_engine(runtime: str, path: Path, *, device: str, threads: int, callers: int = 1) -> Engine:
    """An engine that `callers` threads can use at once. Only OpenVINO must know: others run in the calling thread."""
    if callers > 1 and runtime.startswith("openvino"):
        return ENGINES[runtime](path, device=device, threads=threads, callers=callers)
    return ENGINES[runtime](path, device=device, threads=threads)


def once(engine: Engine, pieces: AnyEncoder, encoded: Encoded) -> Logits:
    """Logits [texts, labels] from one run of all texts, as they are given."""
    ragged = getattr(engine, "ragged", None)
    if ragged is None:
        return engine(pieces.batch(encoded, range(len(encoded))))
    types = encoded.types if "token_type_ids" in pieces.inputs else None
    result: Logits = ragged(encoded.ids, types)
    return result


def answer(engine: Engine, pieces: AnyEncoder, encoded: Encoded, batch: int) -> Logits:
    """Logits [texts, labels]: texts of like length run together, `batch` at most, since padding is work thrown away,
    unless the engine needs none.
    """
    if hasattr(engine, "ragged"):
        return once(engine, pieces, encoded)
    order = np.argsort(encoded.lengths(), kind="stable")
    cuts = [order[start : start + batch] for start in range(0, len(order), batch)]
    parts = [engine(pieces.batch(encoded, rows.tolist())) for rows in cuts]
    if any(len(part) != len(rows) for part, rows in zip(parts, cuts, strict=True)):
        raise BackendError(f"the model gave logits of shapes {[part.shape for part in parts]} for {len(order)} texts")
    logits = np.concatenate(parts)
    return logits[np.argsort(order)]
