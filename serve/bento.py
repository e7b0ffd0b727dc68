"""`bantam build`: an artefact into BentoML's model store, and a Bento that serves it."""

import hashlib
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve.artefact import MANIFEST, Artefact, load
from serve.errors import ArtefactError, InputError

PACKAGE = Path(__file__).parent
FOLDERS = (".", "access", "batching", "engine", "http", "ngram", "openapi", "protocols", "telemetry")
SOURCES = (*(f"{folder}/*.py" for folder in FOLDERS), "page/*")
LEAKS = re.compile(rb"--?(?:extra-)?index-url|--find-links|--trusted-host|^-[if] |file://", re.MULTILINE)


def build(artefact: Artefact | Path | str, tag: str | None = None) -> dict[str, str]:
    """Tags of the Bento and of the model in BentoML's stores. The same artefact and code give the same tags again.

    `tag` names the Bento ("name" or "name:version"); the default is "bantam-<artefact>:<hash>".
    """
    artefact = artefact if isinstance(artefact, Artefact) else load(artefact)
    options = _options()
    name = _slug(artefact.manifest.name)
    content = hashlib.sha256((artefact.root / MANIFEST).read_bytes())
    model = f"bantam:{name}-{content.hexdigest()[:8]}"
    for path in _sources():
        content.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    content.update(repr(options).encode())
    bento_name, _, bento_version = (tag or f"bantam-{name}").partition(":")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", bento_name):
        raise InputError(
            f"tag {tag!r} must be lower-case letters, digits, '.', '_' and '-', as in name or name:version"
        )
    bento = f"{bento_name}:{bento_version or content.hexdigest()[:8]}"
    _store_model(artefact, model)
    _store_bento(bento, model, options, fresh=bool(bento_version))
    return {"tag": bento, "model": model}


def _store_model(artefact: Artefact, tag: str) -> None:
    import bentoml

    try:
        load(bentoml.models.get(tag).path)
        return
    except bentoml.exceptions.NotFound:
        pass
    except ArtefactError:  # damaged in the store: put a good copy in its place
        bentoml.models.delete(tag)
    labels = {"task": artefact.manifest.task.kind, "served": artefact.manifest.served}
    with bentoml.models.create(tag, labels=labels) as stored:
        for name in (MANIFEST, *artefact.manifest.files):
            target = Path(stored.path_of(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artefact.root / name, target)


def _store_bento(tag: str, model: str, options: dict[str, Any], *, fresh: bool) -> None:
    import bentoml
    import yaml

    name, _, bento_version = tag.partition(":")
    try:
        found = bentoml.bentos.get(tag)
        if not fresh:
            return
        bentoml.bentos.delete(found.tag)
    except bentoml.exceptions.NotFound:
        pass
    options = {**options, "name": name, "models": [{"tag": model, "alias": options["models"][0]["alias"]}]}
    with tempfile.TemporaryDirectory(prefix="bantam-bento-") as context:
        for path in _sources():
            target = Path(context) / PACKAGE.name / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        bentofile = Path(context) / "bentofile.yaml"
        bentofile.write_text(yaml.safe_dump(options), encoding="utf-8")
        bento = bentoml.bentos.build_bentofile(str(bentofile), version=bento_version, build_ctx=context)
    _refuse_leaks(Path(bento.path))


def _options() -> dict[str, Any]:
    """bentofile.yaml, with each package pinned to the version that runs here."""
    import yaml

    # In a wheel it lies in this package, in a checkout at the top.
    path = next(
        (path for path in (PACKAGE / "bentofile.yaml", PACKAGE.parent / "bentofile.yaml") if path.is_file()), None
    )
    if path is None:
        raise ArtefactError(f"bentofile.yaml is missing from {PACKAGE}; install bantam again")
    options: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [pin.partition("==")[0] for pin in options["python"]["packages"]]
    options["python"]["packages"] = [f"{name}=={version(name)}" for name in names]
    options["docker"]["python_version"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    return options


def _sources() -> list[Path]:
    """The modules and the page, without compiled code: what it would run on is not known here."""
    return sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def _refuse_leaks(bento: Path) -> None:
    """BentoML copies this machine's package index into requirements when it locks them; no Bento may carry it."""
    for path in sorted((bento / "env").rglob("*")):
        if path.is_file() and path.suffix != ".py" and LEAKS.search(path.read_bytes()):
            raise ArtefactError(f"{path} names a package index of this machine; do not share this Bento")
