"""An artefact becomes one for downloading and serving: each ONNX file without the zeros of pruned weights.

The fp32 ONNX file (unless that is what is served) and the torch weights are left out, since no server reads them;
`everything` keeps both.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from serve.artefact import Artefact, load
from serve.errors import ArtefactError
from serve.manifest import FileEntry, Packed, PackedManifest
from serve.packing import ratios
from serve.packing.container import pieces, write
from serve.staging import seal
from serve.staging import write as staged

ENDING = ".safetensors"  # of a container, after the name of what it unpacks to
TORCH = ("model.safetensors", "model.safetensors.index.json")


def pack(artefact: Path | str, out: Path | str, *, everything: bool = False, force: bool = False) -> PackedManifest:
    """Write the artefact to the folder `out` as a packed one, and return its manifest. `force` replaces what is there.

    Raises ArtefactError where the artefact is damaged or packed already.
    """
    loaded = load(artefact)
    if loaded.source is not None:
        raise ArtefactError(f"{loaded.source} is packed already")
    with staged(out, force=force) as staging:
        manifest = loaded.manifest
        models = {key: model for key, model in manifest.models.items() if everything or _is_served(loaded, key)}
        left_out = {model.path for key, model in manifest.models.items() if key not in models}
        packed = {}
        for name, entry in manifest.files.items():
            if (_root_of(name, left_out) or name in TORCH) and not everything:
                continue
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            if name in {model.path for model in models.values()}:
                packed[name] = _container(loaded.root, staging, name, entry)
            else:
                shutil.copyfile(loaded.root / name, staging / name)
        content = {**manifest.model_dump(exclude={"format", "files"}), "models": models, "packed": packed}
        content["storage"] = _storage(loaded, staging, packed)
        sealed = seal(staging, PackedManifest.model_validate(content))
    assert isinstance(sealed, PackedManifest)
    return sealed


def _is_served(loaded: Artefact, key: str) -> bool:
    return key == loaded.manifest.served or loaded.manifest.models[key].precision == "int8"


def _root_of(name: str, paths: set[str]) -> bool:
    """Whether the file is one of `paths` or holds weights of one."""
    return any(name == path or name.startswith((path + ".", path + "_")) for path in paths)


def _container(root: Path, staging: Path, name: str, entry: FileEntry) -> Packed:
    """Write the container of an ONNX file, and make sure that it gives the file back."""
    container = name + ENDING
    write(root / name, staging / container)
    found = hashlib.sha256()
    for piece in pieces(staging / container):
        found.update(piece)
    assert found.hexdigest() == entry.sha256, f"{container} does not give {name} back"
    return Packed(sha256=entry.sha256, size=entry.size, container=container)


def _storage(loaded: Artefact, staging: Path, packed: dict[str, Packed]) -> dict[str, Any]:
    """Sizes and ratios of each INT8 model, against the fp32 file where the artefact has it."""
    fp32 = loaded.path("fp32") if "fp32" in loaded.manifest.models else None
    return {
        key: ratios.measure(loaded.root / model.path, staging / packed[model.path].container, fp32)
        for key, model in loaded.manifest.models.items()
        if model.precision == "int8" and model.path in packed
    }
