"""The artefact: a folder that holds a model and all it takes to trust and run it.

`load` verifies every byte before any is used; `write` and `seal` make one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve.errors import ArtefactError
from serve.manifest import (
    FORMAT,
    MANIFEST,
    PACKED,
    PICKLES,
    Encoder,
    FileEntry,
    Manifest,
    Model,
    PackedManifest,
    Task,
    first_complaint,
    sha256_of,
)
from serve.staging import seal, write

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
    source: Path | None = None  # the packed artefact that `root` was unpacked from, if it was

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

    A packed one is unpacked into the user's cache the first time, and found there from then on.
    Raises ArtefactError, one line that names the file, when anything is missing, damaged or not understood.
    `verify=False` leaves out the hashes (not the sizes) where the same process has just written them.
    """
    root = Path(path)
    manifest = read_manifest(root)
    check_files(root, manifest, verify=verify)
    if isinstance(manifest, PackedManifest):
        from serve.packing.unpack import installed  # only here: a Bento holds no packed artefacts, nor this code

        return Artefact(installed(root, manifest, verify=verify), manifest.unpacked(), source=root)
    return Artefact(root, manifest)


def read_manifest(root: Path) -> Manifest:
    """The manifest of the artefact at `root`, checked by itself; no other file is looked at."""
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
    if isinstance(found, int) and found > PACKED:
        raise ArtefactError(
            f"{path} has format {found}, newer than the {PACKED} that this Bantam reads; run: pip install -U bantam"
        )
    try:
        manifest = (PackedManifest if found == PACKED else Manifest).model_validate(content)
    except ValidationError as error:
        raise ArtefactError(f"{path}: {first_complaint(error)}") from None
    if not manifest.files:
        raise ArtefactError(f"{path}: files is empty, so nothing can be verified")
    return manifest


def check_files(root: Path, manifest: Manifest, *, verify: bool = True) -> None:
    """ArtefactError unless `root` holds what the manifest lists, and nothing that could be taken for it."""
    _refuse_unlisted(root, manifest)
    for name, entry in sorted(manifest.files.items()):
        _check_file(root, name, entry, hashed=verify)


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
    if hashed and sha256_of(path) != entry.sha256:
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
