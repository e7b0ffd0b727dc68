"""A packed artefact serves as the one that it was made of, byte for byte, or is refused in one line."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from serve import staging
from serve.artefact import MANIFEST, Artefact, ArtefactError, load, seal
from serve.inspect import report, show_storage
from serve.manifest import PackedManifest, sha256_of
from serve.packing import unpack as unpacking
from serve.packing.pack import pack
from serve.packing.unpack import unpack
from serve.runtime import Session

MODEL = "onnx/model.onnx"
CONTAINER = f"{MODEL}.safetensors"
TEXTS = ["a good movie", "", "the film was dull , and awful ."]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sparse(tiny: Any, copy: Path) -> Artefact:
    """The tiny artefact with half of its linear weights zero, some in blocks, and with torch weights beside."""
    model = onnx.load(copy / MODEL)
    random = np.random.default_rng(0)
    for at, tensor in enumerate(model.graph.initializer):
        value = onnx.numpy_helper.to_array(tensor).copy()
        if value.dtype == np.float32 and value.ndim == 2 and value.size >= 256:
            gone = random.random((value.shape[0] // 4, value.shape[1])) < 0.5
            value[gone.repeat(4, 0) if at % 2 else random.random(value.shape) < 0.5] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(model, copy / MODEL)
    (copy / "model.safetensors").write_bytes(b"torch")
    seal(copy, tiny.manifest)
    return load(copy)


@pytest.fixture
def packed(sparse: Artefact, tmp_path: Path) -> Path:
    pack(sparse.root, tmp_path / "packed")
    return tmp_path / "packed"


def test_it_is_smaller_and_comes_back_byte_for_byte(sparse: Artefact, packed: Path, tmp_path: Path) -> None:
    assert (packed / CONTAINER).stat().st_size < 0.95 * sparse.path("fp32").stat().st_size
    assert not (packed / MODEL).exists() and not (packed / "model.safetensors").exists()
    made = unpack(packed, tmp_path / "whole")
    assert made.root == tmp_path / "whole" and made.source is None
    for name in set(sparse.manifest.files) - {"model.safetensors"}:
        assert (made.root / name).read_bytes() == (sparse.root / name).read_bytes(), name
    assert set(made.manifest.files) == set(sparse.manifest.files) - {"model.safetensors"}
    assert made.manifest.model_copy(update={"files": sparse.manifest.files}) == sparse.manifest


def test_it_answers_as_the_original(sparse: Artefact, packed: Path) -> None:
    expected = Session(sparse).logits(TEXTS)
    assert np.array_equal(Session(packed).logits(TEXTS), expected)
    assert np.array_equal(Session(packed).logits(TEXTS), expected)


def test_it_is_unpacked_once(packed: Path, cache: Path) -> None:
    first = load(packed)
    assert first.source == packed and first.root.is_relative_to(cache) and first.root.name == "packed"
    before = first.path("fp32").stat()
    assert load(packed).path("fp32").stat().st_ino == before.st_ino
    assert [path.name for path in first.root.parent.iterdir()] == ["packed"]  # nothing half done is left
    assert load(first.root).source is None  # what was unpacked is an ordinary artefact


def test_only_packed_artefacts_need_a_new_bantam(sparse: Artefact, packed: Path) -> None:
    ordinary = json.loads((sparse.root / MANIFEST).read_text())
    assert ordinary["format"] == 1 and not {"packed", "storage"} & set(ordinary)
    described = json.loads((packed / MANIFEST).read_text())
    assert described["format"] == 2 and list(described["packed"]) == [MODEL]
    assert json.loads((load(packed).root / MANIFEST).read_text())["format"] == 1


def test_everything_may_be_kept(sparse: Artefact, tmp_path: Path) -> None:
    pack(sparse.root, tmp_path / "all", everything=True)
    assert (load(tmp_path / "all").root / "model.safetensors").read_bytes() == b"torch"


def test_other_tools_can_read_the_container(packed: Path) -> None:
    tensors = load_file(packed / CONTAINER)
    with safe_open(packed / CONTAINER, framework="numpy") as file:
        segments = json.loads(file.metadata()["bantam"])["segments"]
    blocks = {one["name"]: tuple(one["block"]) for one in segments if "block" in one}
    assert {(1, 1), (4, 1)} <= set(blocks.values())
    for name, block in blocks.items():
        kept = int(np.unpackbits(tensors[f"{name}:index"]).sum())
        assert tensors[f"{name}:values"].shape == (kept, *block)


def test_what_cannot_be_packed_or_unpacked_is_one_error(sparse: Artefact, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="packed is packed already"):
        pack(packed, tmp_path / "twice")
    with pytest.raises(ArtefactError, match="copy is not packed"):
        unpack(sparse.root, tmp_path / "whole")
    for make in (lambda **how: pack(sparse.root, packed, **how), lambda **how: unpack(packed, sparse.root, **how)):
        with pytest.raises(ArtefactError, match="exists; remove it"):
            make()
        make(force=True)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])])
def test_damage_is_named(packed: Path, damage: Callable[[bytes], bytes], verify: bool, cache: Path) -> None:
    (packed / CONTAINER).write_bytes(damage((packed / CONTAINER).read_bytes()))
    with pytest.raises(ArtefactError, match=f"{CONTAINER} is damaged") as caught:
        load(packed, verify=verify)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or [path for path in cache.rglob("*") if path.is_file()] == []
    (packed / CONTAINER).unlink()
    with pytest.raises(ArtefactError, match=f"{CONTAINER} is missing"):
        load(packed, verify=verify)


def reseal(packed: Path, **changes: Any) -> None:
    content = json.loads((packed / MANIFEST).read_text())
    seal(packed, PackedManifest.model_validate({**content, **changes}))


FAULTS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "is damaged: File does not contain tensor": lambda tensors, _: tensors.pop(
        next(name for name in tensors if name.endswith(":index"))
    ),
    "do not belong to an index": lambda tensors, _: tensors.update(
        {name: value[1:] for name, value in tensors.items() if name.endswith(":values")}
    ),
    "segments are longer": lambda _, described: described["segments"].insert(0, {"literal": 10**12}),
    "its list of segments has 1 faults": lambda _, described: described["segments"][0].update(literal=-1),
    "its version is 2": lambda _, described: described.update(version=2),
    "it unpacks to is not": lambda _, described: described["segments"].pop(),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_container_that_lies_is_refused(packed: Path, message: str) -> None:
    with safe_open(packed / CONTAINER, framework="numpy") as file:
        described = json.loads(file.metadata()["bantam"])
    tensors = load_file(packed / CONTAINER)
    FAULTS[message](tensors, described)
    save_file(tensors, packed / CONTAINER, metadata={"bantam": json.dumps(described)})
    reseal(packed)
    with pytest.raises(ArtefactError, match=message) as caught:
        load(packed)
    assert CONTAINER in str(caught.value) and "\n" not in str(caught.value)


def test_a_foreign_safetensors_file_is_refused(packed: Path) -> None:
    save_file({":literal": np.zeros(4, np.uint8)}, packed / CONTAINER)
    reseal(packed)
    with pytest.raises(ArtefactError, match="metadata holds no list of segments"):
        load(packed)


@pytest.mark.parametrize(
    ("path", "container", "message"),
    [
        ("../model.onnx", CONTAINER, "not a plain path"),
        ("weights.pt", CONTAINER, "is a pickle"),
        ("README.md", CONTAINER, "'README.md' is among files and unpacked as well"),
        (MODEL, "../model", "not a plain path"),
        (MODEL, "none", "'none' is used but is not among files"),
        (None, "", "packed: .* at least 1 item"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(
    packed: Path, path: str | None, container: str, message: str
) -> None:
    content = json.loads((packed / MANIFEST).read_text())
    if path is None:
        content["packed"] = {}
    else:
        content["packed"][path] = {**content["packed"][MODEL], "container": container}
    (packed / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match=message):
        load(packed)


def test_a_damaged_copy_is_made_anew(sparse: Artefact, packed: Path) -> None:
    unpacked = load(packed).path("fp32")
    unpacked.write_bytes(b"x" * unpacked.stat().st_size)
    assert load(packed).path("fp32").read_bytes() == sparse.path("fp32").read_bytes()


def test_a_full_disk_leaves_nothing_behind(packed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(staging.os, "fsync", refuse)
    with pytest.raises(ArtefactError, match="the disk is full"):
        load(packed)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written_is_one_error(packed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ArtefactError, match=r"set BANTAM_CACHE to a folder .* or run: bantam unpack"):
        load(packed)


def test_the_first_of_two_workers_wins(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = unpacking._write, []

    def slow(root: Path, manifest: PackedManifest, target: Path, *, force: bool) -> Any:
        if not seen:  # another worker starts and ends while this one is at it
            seen.append(None)
            seen.append(load(packed).path("fp32").stat().st_ino)
        return plain(root, manifest, target, force=force)

    monkeypatch.setattr(unpacking, "_write", slow)
    found = load(packed)
    assert found.path("fp32").stat().st_ino == seen[1]
    assert [path.name for path in found.root.parent.iterdir()] == ["packed"]


def test_workers_that_start_together_share_one_copy(packed: Path, cache: Path) -> None:
    code = "import sys; from serve.artefact import load; print(load(sys.argv[1]).root)"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(packed)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    roots = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 3
    assert len(roots) == 1 and len(list(cache.rglob(MANIFEST))) == 1
    load(roots.pop())


def test_inspect_tells_what_packing_gained(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(packed)
    size = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    assert found["packed"] == {"path": str(packed), "size": size, "storage": {}}
    assert found["files"][MODEL]["sha256"] == sha256_of(load(packed).path("fp32"))
    measured = {
        "encoder": {
            "weights": 800,
            "sparsity": 0.9,
            "bytes": {"fp32": 3200, "int8": 800, "non-zeros": 80, "stored": 105},
        },
        "files": {"fp32": {"bytes": 9000, "gzip": 8000}, "int8": {"bytes": 3000, "gzip": 100}},
    }
    show_storage({"int8": measured})
    text = capsys.readouterr().out
    for words in ("90.0% of", "40.0x", "17.8x", "30.5x", "3.0x"):
        assert words in text, words


def test_the_commands_pack_inspect_and_unpack(sparse: Artefact, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bantam.cli import app

    def bantam(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments] + ["--json"])
        return result.exit_code, json.loads(result.stdout.splitlines()[-1]) if result.exit_code == 0 else result.stderr

    small, whole = tmp_path / "small", tmp_path / "whole"
    assert bantam("pack", sparse.root, "--out", small) == (0, {"artefact": str(small), "storage": {}})
    code, shown = bantam("inspect", small)
    assert (code, shown["packed"]["path"]) == (0, str(small))
    assert bantam("unpack", small, "--out", whole) == (0, {"artefact": str(whole), "served": "fp32"})
    assert (whole / MODEL).read_bytes() == sparse.path("fp32").read_bytes()
    code, error = bantam("pack", sparse.root, "--out", small)
    assert code == 2 and "exists; remove it" in error
