"""The rule of the house: benchmarks -> serve <- compress; serve without torch; the command line imports rooms late."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("serve", "compress", "benchmarks", "bantam")
AT_LEAST = {
    "serve": 10,
    "compress": 20,
    "benchmarks": 5,
    "bantam": 2,
}  # files; fewer means that we look in the wrong place
HEAVY = frozenset({"torch", "transformers", "optimum", "accelerate", "datasets", "onnx", "neural_compressor"})
FORBIDDEN = {
    "serve": HEAVY | {"compress", "benchmarks", "bantam"},
    "compress": frozenset({"benchmarks"}),
    "benchmarks": frozenset({"compress"}),
    "bantam": frozenset(),
}
ONLY_INSIDE_FUNCTIONS = {
    "serve": frozenset({"openvino", "opentelemetry", "pyarrow"}),  # extras
    "compress": frozenset(),
    "benchmarks": HEAVY | {"openvino", "matplotlib"},
    "bantam": HEAVY | {"serve", "compress", "benchmarks", "onnxruntime", "bentoml", "numpy"},
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(top-level package, whether the import stands inside a function); imports for type checkers do not count."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            yield (node.module or "").split(".")[0], inside
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        else:
            inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside)

    return walk(tree, False)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    found = files(room)
    assert len(found) >= AT_LEAST[room]
    wrong = []
    for path in found:
        for package, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if package in FORBIDDEN[room] or (package in ONLY_INSIDE_FUNCTIONS[room] and not inside):
                wrong.append(f"{path.relative_to(ROOT)} imports {package}" + ("" if inside else " at its top"))
    assert wrong == []


def test_the_import_reader_sees_what_it_must() -> None:
    source = "import torch.nn\nif TYPE_CHECKING:\n    import onnx\ndef f(self):\n    from serve.x import y\n"
    assert list(imports(ast.parse(source))) == [("torch", False), ("serve", True)]


def test_no_technique_imports_another_or_the_loop() -> None:
    """Any two compose because none knows another; an equation (a function) of another paper's file may be used."""
    planes = ("distil", "prune", "quantise", "regularise", "adapt")
    loop = {f"compress.{name}" for name in ("train", "pipeline", "stage", "catalogue")}
    paths = [path for plane in planes for path in files(f"compress/{plane}") if path.name != "__init__.py"]
    assert len(paths) >= 3
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & loop, path.name
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module not in loop, f"{path.name} imports {node.module}"
                if node.module.split(".")[1:2] and node.module.split(".")[1] in planes:
                    assert all(alias.name.islower() for alias in node.names), f"{path.name} imports {node.module}"


BLOCKED = f"""
import importlib, importlib.abc, pkgutil, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(FORBIDDEN["serve"])!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())
import serve
names = [module.name for module in pkgutil.walk_packages(serve.__path__, "serve.")]
for name in names:
    importlib.import_module(name)
print(len(names), "serve.app" in names, "serve.runtime" in names, "torch" in sys.modules)
"""


def test_all_of_serve_imports_where_torch_and_the_other_rooms_are_missing() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, *rest = done.stdout.split()
    assert int(count) >= AT_LEAST["serve"] - 1
    assert rest == ["True", "True", "False"]


def test_help_answers_within_half_a_second() -> None:
    """Of processor time: other processes may have the machine."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "bantam", "--help"], cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert "compress" in done.stdout
    assert min(times) < 0.5, times


def test_the_runtime_needs_nothing_of_the_server() -> None:
    """Another's server runs it with the runtimes' packages alone, as the peers of benchmarks.peers do."""
    blocked = ("orjson", "uvicorn", "httptools", "uvloop", "starlette", "bentoml")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import serve.runtime"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
