"""The artefact: a folder that holds a model and all it takes to trust and run it.

`load` verifies every byte before any is used; `write` makes the folder appear whole or not at all.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve.errors import ArtefactError
from serve.manifest import FORMAT, MANIFEST, PICKLES, Encoder, FileEntry, Manifest, Model, Task

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Artefact",
    "ArtefactError",
    "Encoder",
    "FileEntry",
    "Manifest",
    "Model",
    "Task",
    "load",
    "seal",
    "write",
]


@dataclass(frozen=True)
class Artefact:
    root: Path
    manifest: Manifest

    def path(self, model: str) -> Path:
        """The file of a key of `manifest.models`."""
        if model not in self.manifest.models:
            raise ArtefactError(f"{self.root} has no model {model!r}; it has {', '.join(sorted(self.manifest.models))}")
        return self.root / self.manifest.models[model].path

    def size(self) -> int:
        """Bytes of all files, embeddings and all."""
        return (self.root / MANIFEST).stat().st_size + sum(entry.size for entry in self.manifest.files.values())

    def served_size(self, model: str) -> int:
        """Bytes that serving one model takes: itself (with external weights), the tokeniser and the manifest."""
        path = self.path(model).relative_to(self.root).as_posix()
        sizes = (
            entry.size
            for name, entry in self.manifest.files.items()
            if name == self.manifest.encoder.file or name == path or name.startswith((path + ".", path + "_"))
        )
        return (self.root / MANIFEST).stat().st_size + sum(sizes)


def load(path: Path | str, *, verify: bool = True) -> Artefact:
    """The artefact at `path`, each of its files checked against its size and sha256.

    Raises ArtefactError, one line that names the file, when anything is missing, damaged or not understood.
    `verify=False` leaves out the hashes (not the sizes) where the same process has just written them.
    """
    root = Path(path)
    manifest = _read_manifest(root)
    _refuse_unlisted(root, manifest)
    for name, entry in sorted(manifest.files.items()):
        _check_file(root, name, entry, hashed=verify)
    return Artefact(root, manifest)


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
            files[name] = FileEntry(sha256=_sha256(path), size=path.stat().st_size)
    try:
        sealed = Manifest.model_validate({**manifest.model_dump(), "files": files})
    except ValidationError as error:
        raise ArtefactError(f"{MANIFEST}: {_first(error)}") from None
    (staging / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return sealed


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    if not root.is_dir():
        raise ArtefactError(f"{root} is not a folder; an artefact is a folder with a {MANIFEST}")
    if not path.is_file():
        raise ArtefactError(f"{path} is missing: {root} is not a Bantam artefact")
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} must hold a JSON object, got {type(content).__name__}")
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise ArtefactError(
            f"{path} has format {found}, newer than the {FORMAT} that this Bantam reads; run: pip install -U bantam"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtefactError(f"{path}: {_first(error)}") from None
    if not manifest.files:
        raise ArtefactError(f"{path}: files is empty, so nothing can be verified")
    return manifest


def _first(error: ValidationError) -> str:
    """The first complaint as one line that starts with the field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    more = error.error_count() - 1
    return (f"{field}: " if field else "") + message + (f" (and {more} more)" if more else "")


def _check_file(root: Path, name: str, entry: FileEntry, *, hashed: bool) -> None:
    path = root / name
    if not path.exists():
        raise ArtefactError(f"{path} is missing; copy the artefact again")
    if not path.resolve().is_relative_to(root.resolve()):
        raise ArtefactError(f"{path} is a link that leaves the artefact")
    if not path.is_file():
        raise ArtefactError(f"{path} is not a file")
    size = path.stat().st_size
    if size != entry.size:
        raise ArtefactError(f"{path} is damaged: {size} bytes, expected {entry.size}; copy the artefact again")
    if hashed and _sha256(path) != entry.sha256:
        raise ArtefactError(f"{path} is damaged: its sha256 is not the manifest's; copy the artefact again")


def _refuse_unlisted(root: Path, manifest: Manifest) -> None:
    """A model may pull in weights that lie beside it, so that its own folder may hold nothing unverified."""
    for folder in {(root / model.path).parent for model in manifest.models.values()} - {root}:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.relative_to(root).as_posix() not in manifest.files:
                raise ArtefactError(f"{path} is not listed in {MANIFEST}; remove it")
    for path in sorted(root.iterdir()):
        if path.name.endswith(PICKLES):
            raise ArtefactError(f"{path} is a pickle, which can run any code; remove it")


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk_full(error: BaseException) -> bool:
    """Libraries in Rust and C++ wrap the system's error in their own, so that only its words remain."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)
