"""Builds the engine where nobody did; without a compiler its tests are skipped, save those of its absence."""

import pytest

from serve.engine import build


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    sources = max(path.stat().st_mtime for path in build.SOURCE.iterdir())
    try:
        if not build.LIBRARY.is_file() or build.LIBRARY.stat().st_mtime < sources:
            build.build()
    except build.CannotBuild as error:
        pytest.skip(str(error))
