"""GET /info: text-embeddings-inference's keys, and what only Bantam knows."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from serve.runtime import Session
from serve.settings import Settings


def info(session: Session, settings: Settings) -> dict[str, Any]:
    manifest = session.artefact.manifest
    model = manifest.models[session.model]
    return {
        "model_id": manifest.name,
        "model_sha": manifest.files[model.path].sha256,
        "model_dtype": model.precision,
        "model_type": {
            "classifier": {
                "id2label": {str(at): label for at, label in enumerate(session.labels)},
                "label2id": {label: at for at, label in enumerate(session.labels)},
            }
        },
        "max_concurrent_requests": settings.max_waiting,
        "max_input_length": manifest.encoder.max_length,
        "max_client_batch_size": settings.max_texts,
        "auto_truncate": False,
        "version": _version(),
        "task": manifest.task.model_dump(),
        "model": session.model,
        "method": model.method,
        "batch": session.batch,
        "runtime": session.runtime,
        "rates": session.choice.rates,  # texts a second of the runtimes that were tried, in calls of 1 and of 32
        "declined": session.choice.declined,  # why others were not
        "tokenizer": session.pieces.tokenizer,
        "device": session.device,
        "threads": session.threads,
    }


def _version() -> str:
    try:
        return version("bantam")
    except PackageNotFoundError:  # inside a Bento only this package is there
        return "unknown"
