"""A virtual environment of its own for each peer, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.remote import THREADS
from serve import cache, machine

SHARED = ("onnxruntime",)  # peers get our version, whatever their files say
KEPT = "BANTAM_CACHE"  # says where things lie, not how we serve
INSTALLED_WITHIN = 1800.0  # seconds
ADDRESS = re.compile(r"\w+://\S+|(?<![\w.])/\S+")  # no report shall name an index or a place of this machine
LIST = (
    "import json, importlib.metadata as m; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)


def prepare(name: str, requirements: Path) -> Path:
    """The folder of programs of an environment with those packages. ValueError where it cannot be made."""
    overrides = "".join(f"{package}=={machine.version(package)}\n" for package in SHARED)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(f"{requirements.read_text(encoding='utf-8')}{overrides}{python}".encode()).hexdigest()[:12]
    folder = cache.folder() / "peers" / f"{name}-{key}"
    done = folder / "complete"
    if not done.is_file():
        print(f"{name}: installing into its own environment", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as forced:
            forced.write(overrides)
            forced.flush()
            install = ("pip", "install", "--quiet", "--python", str(folder / "bin" / "python"))
            _uv(*install, "--requirements", str(requirements), "--overrides", forced.name)
        done.touch()
    return folder / "bin"


def versions(programs: Path) -> dict[str, str]:
    """Every package of an environment, by its name in lower case with hyphens."""
    done = subprocess.run([programs / "python", "-c", LIST], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def variables(programs: Path) -> dict[str, str]:
    """A program's variables: that environment first, nothing of ours, one thread a pool, no reports home."""
    ours = ("BANTAM_", "PYTHON", "VIRTUAL_ENV", "BENTOML", "MLSERVER", "RAY_", "LITSERVE", "INFINITY")
    inherited = {name: value for name, value in os.environ.items() if name == KEPT or not name.startswith(ours)}
    quiet = {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "ORT_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    return {**inherited, **quiet, **dict.fromkeys(THREADS, "1"), "PATH": path}


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    known = dict(os.environ)
    if "PIP_FIND_LINKS" in known:  # wheels that pip is told of are there for uv, too
        known.setdefault("UV_FIND_LINKS", known["PIP_FIND_LINKS"])
    try:
        done = subprocess.run(
            [find_uv_bin(), *arguments], env=known, capture_output=True, text=True, timeout=INSTALLED_WITHIN
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it could not be installed within {INSTALLED_WITHIN:.0f} s") from None
    if done.returncode:
        words = " ".join(ADDRESS.sub("…", done.stderr).split())
        raise ValueError(f"it cannot be installed: {words[-300:]}")
