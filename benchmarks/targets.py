"""What is measured: a `Spec` names it, `open_target` brings it to life inside the process that measures it.

Every target maps texts to logits [N, C], tokenisation included, and can tokenise alone. torch gets
the same tokeniser and arrays as the server, whole batches padded to their longest text, scaled
dot-product attention and inference mode: what a careful user would run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from serve import machine, trial
from serve.artefact import Artefact, load
from serve.encode import Text
from serve.encoders import open_encoder
from serve.engines import AUTO
from serve.ngram.encode import NGrams
from serve.runtime import Session

TORCH_FILES = ("model.safetensors", "config.json")


@dataclass(frozen=True)
class Spec:
    """One target, as plain values that travel to its process."""

    target: str  # "teacher", or the artefact's name, with " (HTTP)" for the service
    root: str  # the artefact's folder
    runtime: str  # "torch", one of serve.engines, or "auto" for the service, later "auto: " and what it chose
    precision: str  # "fp32", "bf16", "int8"
    device: str  # "cpu", "cuda"
    threads: int
    model: str = ""  # key of the manifest's models; "" for torch
    transport: str = "process"  # or "http"

    @property
    def label(self) -> str:
        return f"{self.target} {self.runtime} {self.precision}"

    def answered_by(self, runtime: str) -> Spec:
        """This target, once what answers is known."""
        return replace(self, runtime=f"{AUTO}: {runtime}") if self.runtime == AUTO else self


class Target(Protocol):
    runtime: str  # what answers

    def logits(self, texts: Sequence[Text]) -> NDArray[Any]: ...
    def window(self, texts: Sequence[Text], *, batch: int, clients: int, seconds: float) -> measure.Window: ...
    def peak_memory(self) -> int | None: ...
    def close(self) -> None: ...


def open_target(spec: Spec, texts: Sequence[Text] = ()) -> Target:
    """Checksums were verified once by the process that planned the run, so only sizes are looked at here.

    The manifest's group size was found with onnxruntime; any other runtime finds its own on `texts`.
    """
    artefact = load(Path(spec.root), verify=False)
    if spec.transport == "http":
        from benchmarks.http import Service

        return Service(artefact, threads=spec.threads)
    if spec.runtime == "torch":
        return Torch(artefact, precision=spec.precision, device=spec.device, threads=spec.threads)
    served = Served(artefact, model=spec.model, runtime=spec.runtime, device=spec.device, threads=spec.threads)
    if spec.runtime != "onnxruntime" and texts:
        served.session.batch = trial.best_group(served.session, texts)
    return served


def size_bytes(spec: Spec, artefact: Artefact) -> int:
    """Bytes on disk of all that the target needs: weights with embeddings, tokeniser, configuration."""
    files = artefact.manifest.files
    if spec.runtime in ("bantam", f"{AUTO}: bantam") and artefact.manifest.encoder.kind == "ngram":
        return files[artefact.manifest.encoder.file].size  # the whole model: the ONNX file is for other runtimes
    if spec.runtime != "torch":
        return artefact.served_size(spec.model)
    return sum(files[name].size for name in (*TORCH_FILES, artefact.manifest.encoder.file))


class InProcess:
    """A target that is called directly."""

    runtime: str

    def logits(self, texts: Sequence[Text]) -> NDArray[Any]:
        raise NotImplementedError

    def tokenise(self, texts: Sequence[Text]) -> None:
        raise NotImplementedError

    def window(self, texts: Sequence[Text], *, batch: int, clients: int, seconds: float) -> measure.Window:
        assert clients == 1, "a target in process has one caller"
        return measure.window(self._label, self.tokenise, texts, batch=batch, seconds=seconds)

    def _label(self, texts: Sequence[Text]) -> NDArray[Any]:
        return np.asarray(self.logits(texts).argmax(1))

    def peak_memory(self) -> int | None:
        return measure.peak_memory()

    def close(self) -> None:
        pass


class Served(InProcess):
    """The artefact through the session that also serves it."""

    def __init__(self, artefact: Artefact, *, model: str, runtime: str, device: str, threads: int) -> None:
        self.session = Session(artefact, model=model, runtime=runtime, device=device, threads=threads)
        self.runtime, self.pieces = self.session.runtime, self.session.pieces

    def logits(self, texts: Sequence[Text]) -> NDArray[Any]:
        return self.session.logits(texts)

    def tokenise(self, texts: Sequence[Text]) -> None:
        if isinstance(self.pieces, NGrams):
            self.pieces.keys(texts)  # all that the session does, which makes no row of each text
        else:
            self.pieces.encode(texts)


class Torch(InProcess):
    """The artefact's torch weights through transformers."""

    runtime = "torch"

    def __init__(self, artefact: Artefact, *, precision: str, device: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(threads)
        self.torch, self.device = torch, device
        model = AutoModelForSequenceClassification.from_pretrained(
            artefact.root, attn_implementation=_attention(artefact.root), dtype=torch.float32, local_files_only=True
        )
        self.model = model.eval().to(device)
        self.bf16 = precision == "bf16"
        self.pieces = open_encoder(artefact)

    def logits(self, texts: Sequence[Text]) -> NDArray[Any]:
        torch = self.torch
        encoded = self.pieces.encode(texts)
        feeds = self.pieces.batch(encoded, range(len(texts)))
        autocast = torch.autocast(self.device, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            tensors = {name: torch.from_numpy(value).to(self.device) for name, value in feeds.items()}
            logits = self.model(**tensors).logits
            return np.asarray(logits.float().cpu())  # waits for the device, so that clocks around this call are true

    def tokenise(self, texts: Sequence[Text]) -> None:
        self.pieces.encode(texts)


def _attention(root: Path) -> str | None:
    """ "sdpa" where transformers has it for this architecture, else its default."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(root, local_files_only=True)
    model = AutoModelForSequenceClassification._model_mapping[type(config)]
    return "sdpa" if getattr(model, "_supports_sdpa", False) else None


def available(device: str) -> tuple[list[str], list[str]]:
    """Runtimes that can use `device`, and notes on those that cannot. ValueError when none can, before any work."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu" or "cuda", got {device!r}')
    _require("torch", "transformers", "onnxruntime")
    if device == "cpu":
        from serve.engine.library import Declined, library

        there, notes = ["torch", "bantam", "onnxruntime"], []
        try:
            library()
        except Declined as declined:
            there.remove("bantam")
            notes.append(f"rows of our own engine are missing: {declined}")
        if machine.version("openvino") is None:
            notes.append("OpenVINO is not installed, so its rows are missing: pip install 'bantam[openvino]'")
        else:
            there += ["openvino", "openvino-sparse"]
        return there, notes
    import onnxruntime
    import torch

    found = {
        "torch": torch.cuda.is_available(),
        "onnxruntime": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    }
    build = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
    providers = f"onnxruntime {onnxruntime.__version__} has {', '.join(onnxruntime.get_available_providers())}"
    if not any(found.values()):
        raise ValueError(
            f"--device cuda finds nothing to run on: {build}; {providers}. On a machine with an NVIDIA GPU install "
            "a CUDA build of torch and onnxruntime-gpu; elsewhere run with --device cpu"
        )
    missing = [f"no {name} rows on CUDA: {build}; {providers}" for name, works in found.items() if not works]
    return [name for name, works in found.items() if works], missing


def _require(*packages: str) -> None:
    missing = [name for name in packages if machine.version(name) is None and name != "onnxruntime"]
    if missing:
        raise ValueError(f"bench needs {' and '.join(missing)}: pip install 'bantam[bench]'")
