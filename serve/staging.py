"""Writing an artefact: the folder appears whole or not at all."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from serve.errors import ArtefactError
from serve.manifest import MANIFEST, FileEntry, Manifest, first_complaint, sha256_of


@contextmanager
def write(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside `target`, renamed to `target` when the block ends well and removed when it does not.

    Within the block fill the folder, then call `seal`. With `force` an artefact that is already there is replaced.
    """
    target = Path(target)
    _refuse_target(target, force)
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
        yield staging
        assert (staging / MANIFEST).is_file(), "seal() was not called"
        _sync(staging)
        _swap(staging, target)
    except Exception as error:
        if _disk_full(error):
            raise ArtefactError(
                f"the disk is full: {target} was not written and nothing was left behind; free some space and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def seal(staging: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json into `staging`, with the hashes of all files there now; return it as written."""
    files = {}
    for path in sorted(staging.rglob("*")):
        name = path.relative_to(staging).as_posix()
        if path.is_symlink():
            raise ArtefactError(f"{name} is a link; an artefact holds only plain files")
        if path.is_file() and name != MANIFEST:
            files[name] = FileEntry(sha256=sha256_of(path), size=path.stat().st_size)
    try:
        sealed = type(manifest).model_validate({**manifest.model_dump(), "files": files})
    except ValidationError as error:
        raise ArtefactError(f"{MANIFEST}: {first_complaint(error)}") from None
    (staging / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return sealed


def _refuse_target(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise ArtefactError(f"{target} exists and is not an artefact, so it will not be replaced; choose another place")
    if not force:
        raise ArtefactError(f"{target} exists; remove it, choose another place, or replace it by force")


def _swap(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; what was there goes only once the new one is in place."""
    if not target.is_dir():
        staging.rename(target)
    else:
        old = staging.with_suffix(".old")
        target.rename(old)
        try:
            staging.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_one(target.parent)


def _sync(root: Path) -> None:
    for path in (*root.rglob("*"), root):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_full(error: BaseException) -> bool:
    """Libraries in Rust and C++ wrap the system's error in their own, so that only its words remain."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)
