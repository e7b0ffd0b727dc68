"""Compiles the engine at installation where there is a compiler; everything else stands in pyproject.toml.

Without one the package installs all the same: the engine is then absent, says so, and onnxruntime serves.
"""

import importlib.util
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ENGINE = Path("serve") / "engine"


class BuildWithEngine(build_py):
    """The Python files, and beside them the library: in the checkout where it is installed as editable."""

    def run(self) -> None:
        super().run()
        spec = importlib.util.spec_from_file_location("engine_build", ROOT / ENGINE / "build.py")
        assert spec and spec.loader
        engine: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(engine)
        folder = (ROOT if self.editable_mode else Path(self.build_lib)) / ENGINE
        try:
            engine.build(folder / engine.NAME)
        except (engine.CannotBuild, OSError) as error:
            print(f"warning: bantam's own engine is left out: {error}")


class WheelForThisMachine(bdist_wheel):
    """A wheel that holds the library is for this system, and for any Python 3: it is no extension module."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(cmdclass={"build_py": BuildWithEngine, "bdist_wheel": WheelForThisMachine})
