"""The planning process's end of a worker: start it with its threads set, give orders, end it for good."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Window
from benchmarks.targets import Spec

# Read by the libraries when they are imported, so they must be in the environment before the process starts.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
}


class Remote:
    """One target in a process (group) of its own. It computes only while an order is under way."""

    def __init__(self, spec: Spec, texts: Path) -> None:
        self.spec = spec
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment(spec.threads),
            start_new_session=True,  # so that Ctrl-C reaches the planner alone, which then ends the whole group
            text=True,
        )
        try:
            self.runtime: str = self._order(spec=asdict(spec), texts=str(texts))["runtime"]  # what answers
        except BaseException:
            self.close()
            raise

    def evaluate(self, to: Path, *, chunk: int) -> float:
        """Seconds taken to write the logits [N, C] of all texts to a .npy file."""
        return float(self._order(do="evaluate", to=str(to), chunk=chunk)["seconds"])

    def window(self, rows: list[int], *, batch: int, clients: int, seconds: float) -> Window:
        answer = self._order(do="window", rows=rows, batch=batch, clients=clients, seconds=seconds)
        return Window(**answer["window"])

    def peak_memory(self) -> int | None:
        found: int | None = self._order(do="memory")["peak_memory_bytes"]
        return found

    def close(self) -> None:
        """End the worker and whatever it started; safe to call twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()
        self.log.close()

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.spec.label}: the process ended{self._status()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if answer["ok"]:
            return answer
        message = f"{self.spec.label}: {answer['error'] or answer['kind']}"
        raise ValueError(message) if answer["mendable"] else RuntimeError(f"{message}\n{self._last_words(20)}")

    def _status(self) -> str:
        code = self.process.wait()
        return f" by signal {signal.Signals(-code).name} (out of memory?)" if code < 0 else f" with exit code {code}"

    def _last_words(self, lines: int = 5) -> str:
        self.log.seek(0)
        return "\n".join(self.log.read().decode(errors="replace").strip().splitlines()[-lines:])


def environment(threads: int) -> dict[str, str]:
    """This process's environment with every pool set to `threads` and this package importable."""
    source = str(Path(__file__).resolve().parent.parent)
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    pools = dict.fromkeys(THREADS, str(threads))
    return {**os.environ, **QUIET, **pools, "PYTHONPATH": os.pathsep.join(paths)}
