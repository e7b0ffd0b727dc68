"""Where and with what a report was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("bantam", "torch", "transformers", "onnxruntime", "openvino", "tokenizers", "numpy")
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe() -> dict[str, Any]:
    """Processor, memory, system, versions, load, commit; None for what cannot be read. Names no host and no path."""
    cpu = _cpuinfo()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "family": cpu.get("cpu family"),
        "model": cpu.get("model"),
        "mhz": _float(cpu.get("cpu MHz")),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": flags(),
        "memory_bytes": _memory(),
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.is_file() else None,
        "load_before": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
    }


def flags() -> list[str]:
    """The processor's instructions that matter to a model's speed."""
    cpu = _cpuinfo()
    return [flag for flag in FLAGS if flag in (cpu.get("flags") or cpu.get("Features") or "").split()]


def saturates() -> bool:
    """Whether 8-bit products overflow in the runtimes of others: x86 without VNNI adds two of them in 16 bits."""
    return platform.machine() in ("x86_64", "AMD64") and not {"avx_vnni", "avx512_vnni"} & set(flags())


def processor() -> dict[str, str]:
    """What programs can tell of the processor's kind; the same for all its cores, and at all times."""
    cpu = _cpuinfo()
    names = ("model name", "cpu family", "model", "stepping", "flags", "Features", "CPU implementer", "CPU part")
    return {"architecture": platform.machine()} | {name: cpu[name] for name in names if name in cpu}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source tree that this file lies in, "+" appended when files differ from it."""
    here = Path(__file__).resolve().parent
    if "site-packages" in here.parts:
        return None
    head = _git(here, "rev-parse", "HEAD")
    return None if head is None else head + ("+" if _git(here, "status", "--porcelain", "-uno") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _float(text: str | None) -> float | None:
    return None if text is None else float(text)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
