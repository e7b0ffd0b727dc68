"""GET /info: text-embeddings-inference's keys, and what only Bantam knows."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from serve import machine
from serve.answering import Answering
from serve.manifest import Task
from serve.runtime import Session
from serve.settings import Settings

POOLING = {"mean": "mean", "first": "cls"}  # in the words of text-embeddings-inference


def info(session: Session, answering: Answering, settings: Settings) -> dict[str, Any]:
    manifest = session.artefact.manifest
    model = manifest.models[session.model]
    return {
        "model_id": manifest.name,
        "model_sha": manifest.files[model.path].sha256,
        "model_dtype": model.precision,
        "model_type": _model_type(manifest.task),
        "max_concurrent_requests": settings.max_connections,
        "max_input_length": manifest.encoder.max_length,
        "max_client_batch_size": settings.max_texts,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_queued_tokens": settings.max_queued_tokens,
        "auto_truncate": False,
        "version": version_here(),
        "task": manifest.task.model_dump(),
        "model": session.model,
        "method": model.method,
        "batch": session.batch,
        "runtime": session.runtime,
        "rates": session.choice.rates,  # texts a second of the runtimes that were tried, in calls of 1 and of 32
        "declined": session.choice.declined,  # why others were not
        "batching": answering.batcher.packer.describe() if answering.batcher else None,  # None: texts do not wait
        "tokenizer": session.pieces.tokenizer,
        "device": session.device,
        "instruction_set": machine.flags(),
        "engine_path": session.engine_path,  # which of our code paths runs, where it is our code
        "threads": session.threads,
        "parallel": settings.parallel,
        "workers": settings.workers,
        "files": {path: entry.sha256 for path, entry in manifest.files.items()},
    }


def _model_type(task: Task) -> dict[str, Any]:
    if task.embedding:
        return {"embedding": {"pooling": POOLING[task.embedding.pooling]}}
    return {
        "classifier": {
            "id2label": {str(at): label for at, label in enumerate(task.labels)},
            "label2id": {label: at for at, label in enumerate(task.labels)},
        }
    }


def version_here() -> str:
    """The version of Bantam that runs."""
    try:
        return version("bantam")
    except PackageNotFoundError:  # inside a Bento only this package is there
        return "unknown"
