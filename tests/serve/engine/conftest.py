"""Builds the engine where nobody did; without a compiler its tests are skipped, save those of its absence."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.serve.native import up_to_date


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    up_to_date()


@pytest.fixture
def making(tmp_path: Path) -> Callable[..., Path]:
    """Writes a family's INT8 file and config.json as an artefact holds them, and returns the file."""
    from tests.serve.engine.files import make  # needs torch

    return partial(make, tmp_path)
