"""What peers are given of an artefact: a folder in the form of the Hugging Face Hub, and how to run the model in it.

N-grams have no such form: of these the folder says only where they are, and where our code is that runs them.
"""

from __future__ import annotations

import json
from pathlib import Path

from serve.artefact import Artefact

SOURCE = Path(__file__).parents[2]


def bundle(artefact: Artefact, folder: Path) -> Path:
    """`folder` with the served ONNX file, configuration and tokenizer linked into it, or what it says of n-grams.

    ValueError for a task that peers do not have.
    """
    manifest = artefact.manifest
    model = manifest.models[manifest.served]
    if manifest.task.kind != "classification" or manifest.task.inputs != 1:
        raise ValueError("peers are compared on the classification of single texts; this artefact does something else")
    folder.mkdir(parents=True)
    if is_ngram(artefact):
        told: dict[str, object] = {"artefact": str(artefact.root.resolve()), "source": str(SOURCE)}
        (folder / "peer.json").write_text(json.dumps(told), encoding="utf-8")
        return folder
    (folder / "model_quantized.onnx").symlink_to(artefact.path(manifest.served).resolve())
    for name in manifest.files:
        if "/" not in name and not name.endswith((".md", ".safetensors")):
            (folder / name).symlink_to((artefact.root / name).resolve())
    told = {
        "labels": manifest.task.labels,
        "inputs": manifest.encoder.inputs,
        "max_length": manifest.encoder.max_length,
        "pad_id": manifest.encoder.pad_id,
        "group": model.batch,
    }
    (folder / "peer.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def is_ngram(artefact: Artefact) -> bool:
    return artefact.manifest.encoder.kind == "ngram"
