"""Runs Bantam artefacts: in process, over HTTP, as a Bento. Imports neither torch nor transformers."""

import os
from importlib import import_module
from typing import Any

# These must be set before the first import of the library they concern. Word pieces are cut on the caller's thread:
# one thread a worker is what is promised and what benchmarks count.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

__all__ = ["Artefact", "Session", "Settings", "create_app", "load"]

_HOMES = {
    "Artefact": "serve.artefact",
    "Session": "serve.runtime",
    "Settings": "serve.settings",
    "create_app": "serve.app",
    "load": "serve.artefact",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import serve` alone costs nothing, so that `bantam --help` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'serve' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
