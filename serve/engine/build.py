"""Compiles the engine: `python -m serve.engine.build`. Installing the package does it where there is a compiler.

Each path has its own flags, so that the library holds code for processors that the one it was built on is not; which
of them runs is decided when it is loaded. Only the standard library is needed, since `setup.py` runs this file alone.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
NAME = "built/libbantam.so"  # below this folder, in one of its own: beside modules it would look like one
LIBRARY = Path(__file__).parent / NAME
FLAGS = "-std=c11 -O3 -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wextra -Wno-unused-parameter".split()
EXACT = ["-ffp-contract=off"]  # no multiplication is fused with an addition: numpy must have the same bits
BITS = "-mbmi -mbmi2 -mpopcnt".split()
AVX2 = "-mavx2 -mfma".split()
AVX512 = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma".split()
TILES = "-mamx-tile -mamx-int8 -mamx-bf16".split()
COMMON: dict[str, tuple[str, list[str]]] = {  # object -> source and flags
    "engine": ("engine.c", []),
    "load": ("load.c", []),
    "wordpiece": ("wordpiece.c", []),
    "scores": ("scores.c", []),
    "plain": ("path_plain.c", []),
    "ngram": ("ngram.c", []),
    "ngram_open": ("ngram_open.c", []),
    "ngram_plain": ("ngram_path_plain.c", EXACT),
}
X86: dict[str, tuple[str, list[str]]] = {
    "avx2": ("path_avx2.c", AVX2),
    "avxvnni": ("path_avxvnni.c", AVX2),
    "avx512": ("path_avx512.c", AVX512),
    "avx512bf16": ("path_avx512.c", [*AVX512, "-mavx512bf16", "-DBF16"]),
    "amx": ("path_amx.c", [*AVX512, "-mavx512bf16", "-DBF16", *TILES]),
    "ngram_avx2": ("ngram_path_avx2.c", [*EXACT, *BITS, "-mavx2"]),
    "ngram_avx512": ("ngram_path_avx512.c", [*EXACT, *BITS, *AVX512]),
}


class CannotBuild(Exception):
    """Why there will be no engine."""


def build(target: Path = LIBRARY, *, flags: tuple[str, ...] = ()) -> Path:
    """Compile the library to `target`, which appears whole or not at all. Raises CannotBuild with the reason.

    The environment's CC names the compiler (default: cc, gcc, clang).
    """
    compiler = _compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    units = COMMON | (X86 if platform.machine() in ("x86_64", "AMD64") else {})
    with tempfile.TemporaryDirectory(prefix="bantam-engine-", dir=target.parent) as folder:
        if "amx" in units and not _knows(compiler, TILES, folder):
            units = {name: unit for name, unit in units.items() if name != "amx"}
            flags = (*flags, "-DWITHOUT_TILES")
        objects = []
        for name, (source, own) in units.items():
            objects.append(f"{folder}/{name}.o")
            _run([*compiler, *FLAGS, *flags, *own, "-c", str(SOURCE / source), "-o", objects[-1]])
        whole = Path(folder, target.name)
        _run([*compiler, "-shared", *flags, *objects, "-o", str(whole), "-lm"])
        os.replace(whole, target)
    return target


def _compiler() -> list[str]:
    if sys.platform == "win32":
        raise CannotBuild("on Windows it is not built")
    given = shlex.split(os.environ.get("CC", ""))
    for found in [given] if given else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(found[0]):
            return found
    raise CannotBuild("there is no C compiler: " + (f"CC is {given[0]}" if given else "no cc, gcc or clang"))


def _knows(compiler: list[str], flags: list[str], folder: str) -> bool:
    """Whether the compiler takes these flags: gcc before 11 and clang before 12 have no tiles."""
    empty = Path(folder, "empty.c")
    empty.write_text("int nothing;\n")
    command = [*compiler, *flags, "-c", str(empty), "-o", f"{folder}/empty.o"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split())[-600:]
        raise CannotBuild(f"{command[0]} failed at {Path(command[-3]).name}: {said}")


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"error: the engine was not built: {error}")
