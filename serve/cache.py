"""Where what can be made again is kept between runs: BANTAM_CACHE, or ~/.cache/bantam."""

import os
from pathlib import Path


def folder() -> Path:
    """The user's cache, made by whoever writes to it. Raises RuntimeError for a user who has no home and names none."""
    given = os.environ.get("BANTAM_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "bantam"
