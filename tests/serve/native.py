"""The native library, for the tests of the engine and of n-grams in C."""

import pytest

from serve.engine import build


def up_to_date() -> None:
    """Builds it where nobody did, or where its sources are newer; without a compiler, what needs it is skipped."""
    sources = max(path.stat().st_mtime for path in build.SOURCE.iterdir())
    try:
        if not build.LIBRARY.is_file() or build.LIBRARY.stat().st_mtime < sources:
            build.build()
    except build.CannotBuild as error:
        pytest.skip(str(error))
