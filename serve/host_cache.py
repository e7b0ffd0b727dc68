"""What was measured on this host, kept in the user's cache: a JSON file for each thing that was measured.

Workers that start together take turns, so that one measures alone and the others read what it found. Without a cache
that can be written each of them measures for itself.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve import cache, machine

WAIT = 60.0  # seconds for another worker's trial; it may have to make the engine's file first
LIBRARY = Path(__file__).parent / "engine" / "built" / "libbantam.so"  # named here, since a Bento holds no engine

Found = TypeVar("Found", bound=BaseModel)


def once_a_host(
    target: Path | None,
    kind: type[Found],
    measure: Callable[[], Found | None],
    *,
    sound: Callable[[Found], bool] = lambda found: True,
) -> Found | None:
    """What `measure` finds, or found when it was asked before; what it cannot measure (None) is not kept."""
    if found := _kept(target, kind, sound):
        return found
    with _turn(target):
        if found := _kept(target, kind, sound):
            return found
        measured = measure()
        if measured is not None:
            _keep(target, measured)
    return measured


def place(folder: str, facts: Mapping[str, Any]) -> Path | None:
    """Where that is kept which depends on these facts, and on this host; None where this user has no cache."""
    packages = ("onnxruntime", "openvino", "numpy")
    here = {
        "processor": machine.processor(),
        "versions": {name: machine.version(name) for name in packages},
        "engine": hashlib.sha256(LIBRARY.read_bytes()).hexdigest() if LIBRARY.is_file() else None,
        "path": os.environ.get("BANTAM_ENGINE_PATH"),
    }
    key = hashlib.sha256(json.dumps({**facts, **here}, sort_keys=True).encode()).hexdigest()[:32]
    with suppress(RuntimeError):
        return cache.folder() / folder / f"{key}.json"
    return None


def _kept(target: Path | None, kind: type[Found], sound: Callable[[Found], bool]) -> Found | None:
    if target is None:
        return None
    try:
        found = kind.model_validate_json(target.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged
        return None
    return found if sound(found) else None


def _keep(target: Path | None, found: BaseModel) -> None:
    if target is None:
        return
    with suppress(OSError):  # nowhere to keep it: the next start measures again
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "w") as opened:
                opened.write(found.model_dump_json(indent=2) + "\n")
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def _turn(target: Path | None) -> Iterator[None]:
    """One process at a time, for as long as the others are ready to wait; the lock ends with the process."""
    with ExitStack() as stack:
        if target is not None:
            with suppress(OSError, ImportError):  # a folder that cannot be written, a system without such locks
                import fcntl

                target.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(target.with_suffix(".lock").open("w"))
                end = time.monotonic() + WAIT
                while time.monotonic() < end:
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    time.sleep(0.05)
        yield
