"""A packed artefact becomes an ordinary one, by itself where it is loaded.

The unpacked copy goes into the user's cache, BANTAM_CACHE or ~/.cache/bantam, under the hash of the packed manifest,
so that it can neither be another model's nor an older version's. It appears there whole or not at all. Workers that
start together may each unpack it; the first puts its copy in place and the others take that one.
"""

import errno
import shutil
import uuid
from pathlib import Path

from serve import artefact, cache
from serve.errors import ArtefactError
from serve.manifest import MANIFEST, Manifest, PackedManifest, sha256_of
from serve.packing.container import pieces
from serve.staging import seal, write

THERE = (errno.EEXIST, errno.ENOTEMPTY)


def unpack(packed: Path | str, out: Path | str, *, force: bool = False) -> artefact.Artefact:
    """Write the packed artefact as an ordinary one to `out`. Raises ArtefactError for what is not packed."""
    root = Path(packed)
    manifest = artefact.read_manifest(root)
    if not isinstance(manifest, PackedManifest):
        raise ArtefactError(f"{root} is not packed: it can be used as it is")
    artefact.check_files(root, manifest)
    _write(root, manifest, Path(out), force=force)
    return artefact.load(out, verify=False)


def installed(root: Path, manifest: PackedManifest, *, verify: bool) -> Path:
    """The folder of the unpacked copy of `root`, made where it is missing or damaged."""
    target = _cache() / "unpacked" / sha256_of(root / MANIFEST)[:16] / root.resolve().name
    if target.is_dir():
        try:
            artefact.load(target, verify=verify)
            return target
        except ArtefactError:  # somebody touched it
            _discard(target)
    try:
        _install(root, manifest, target)
    except OSError as error:
        raise ArtefactError(
            f"{root} is packed and cannot be unpacked to {target.parent}: {error.strerror}; set BANTAM_CACHE to a "
            f"folder that can be written, or run: bantam unpack {root} --out FOLDER"
        ) from error
    return target


def _install(root: Path, manifest: PackedManifest, target: Path) -> None:
    whole = target.parent / f".{uuid.uuid4().hex[:8]}.whole"
    try:
        _write(root, manifest, whole, force=False)
        whole.rename(target)
    except OSError as error:
        if error.errno not in THERE:
            raise
        artefact.load(target)  # another worker was first
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _write(root: Path, manifest: PackedManifest, target: Path, *, force: bool) -> Manifest:
    unpacked = manifest.unpacked()
    with write(target, force=force) as staging:
        for name in sorted(unpacked.files):
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name not in manifest.packed:
                shutil.copyfile(root / name, path)
                continue
            with path.open("xb") as file:
                file.writelines(pieces(root / manifest.packed[name].container))
        sealed = seal(staging, unpacked)
        for name, entry in unpacked.files.items():
            if sealed.files[name] != entry:
                source = root / (manifest.packed[name].container if name in manifest.packed else name)
                raise ArtefactError(f"{source} is damaged: what it unpacks to is not {name}; copy the artefact again")
    return sealed


def _discard(folder: Path) -> None:
    """Out of the way in one step, so that no other worker finds half of it."""
    aside = folder.parent / f".{uuid.uuid4().hex[:8]}.old"
    try:
        folder.rename(aside)
    except FileNotFoundError:  # another worker did
        return
    except OSError as error:
        raise ArtefactError(f"{folder} is damaged and cannot be replaced: {error.strerror}; remove it") from error
    shutil.rmtree(aside, ignore_errors=True)


def _cache() -> Path:
    try:
        return cache.folder()
    except RuntimeError:
        raise ArtefactError("this user has no home to unpack to: set BANTAM_CACHE to a folder") from None
