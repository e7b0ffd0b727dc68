"""An artefact is trusted whole or refused with one line that names the file."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serve import staging
from serve.artefact import MANIFEST, ArtefactError, load, seal, write


def edit(root: Path, **changes: Any) -> None:
    content = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**content, **changes}))


def refused(root: Path, pattern: str) -> None:
    with pytest.raises(ArtefactError, match=pattern) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_what_is_loaded(tiny: Any) -> None:
    loaded = load(tiny.artefact.root)
    on_disk = {path for path in loaded.root.rglob("*") if path.is_file()}
    assert len(on_disk) == 6
    assert {loaded.root / name for name in loaded.manifest.files} == on_disk - {loaded.root / MANIFEST}
    assert loaded.size() == sum(path.stat().st_size for path in on_disk)
    needed = ("manifest.json", "tokenizer.json", "onnx/model.onnx")
    assert loaded.served_size("fp32") == sum((loaded.root / name).stat().st_size for name in needed)
    model = loaded.path("fp32")
    assert hashlib.sha256(model.read_bytes()).hexdigest() == loaded.manifest.files["onnx/model.onnx"].sha256
    assert loaded.manifest == tiny.manifest.model_copy(update={"files": loaded.manifest.files})


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "README.md"])
def test_a_damaged_file_is_named(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(copy, f"{name} is damaged: its sha256")
    (copy / name).write_bytes(whole[:-1])
    refused(copy, f"{name} is damaged: {len(whole) - 1} bytes, expected {len(whole)}")
    (copy / name).unlink()
    refused(copy, f"{name} is missing")
    (copy / name).mkdir()
    refused(copy, f"{name} is not a file")


def test_without_hashing_sizes_are_still_checked(copy: Path) -> None:
    whole = (copy / "README.md").read_bytes()
    (copy / "README.md").write_bytes(b"x" * len(whole))
    load(copy, verify=False)
    (copy / "README.md").write_bytes(b"x")
    with pytest.raises(ArtefactError, match="README"):
        load(copy, verify=False)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a folder")
    refused(tmp_path, r"manifest\.json is missing: .* is not a Bantam artefact")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is not a folder")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nan,"])
def test_a_manifest_that_is_no_json_is_refused(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    refused(copy, r"manifest\.json is not JSON")


def test_a_manifest_that_is_no_object_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("[]")
    refused(copy, "must hold a JSON object, got list")


def test_a_newer_format_asks_for_an_upgrade(copy: Path) -> None:
    edit(copy, format=3, something="new")
    refused(copy, "format 3, newer than the 2 .* pip install -U bantam")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"format": "1x"}, "format: "),
        ({"format": 0}, "format: "),
        ({"colour": "red"}, "colour: "),
        ({"served": "int4"}, "served is 'int4', but models are"),
        ({"models": {}}, "models: "),
        ({"files": {}}, "files is empty"),
        ({"task": {"kind": "poetry"}}, r"task\.kind: "),
        ({"name": ""}, "name: "),
        ({"sparsity": {"a": "much"}}, r"sparsity\.a: "),
    ],
)
def test_a_manifest_that_breaks_the_schema_names_the_field(copy: Path, changes: dict[str, Any], pattern: str) -> None:
    edit(copy, **changes)
    refused(copy, pattern)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "./a", "a//b", "", "a\\b", "manifest.json"])
def test_paths_that_leave_the_folder_are_refused(copy: Path, name: str) -> None:
    files = json.loads((copy / MANIFEST).read_text())["files"]
    edit(copy, files={**files, name: {"sha256": "0" * 64, "size": 1}})
    refused(copy, "files: ")


@pytest.mark.parametrize("field", ["encoder", "models"])
def test_every_path_that_is_used_must_be_listed(copy: Path, field: str) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    if field == "encoder":
        content["encoder"]["file"] = "../tokenizer.json"
    else:
        content["models"]["fp32"]["path"] = "/elsewhere/model.onnx"
    edit(copy, **content)
    refused(copy, "is not a plain path inside the artefact")
    edit(copy, encoder={**content["encoder"], "file": "other.json"}, models=content["models"])
    refused(copy, "manifest.json")


def test_a_link_that_leaves_the_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (copy / "README.md").rename(outside)
    (copy / "README.md").symlink_to(outside)
    refused(copy, r"README\.md is a link that leaves the artefact")


def test_weights_beside_a_model_must_be_listed(copy: Path) -> None:
    (copy / "onnx" / "model.onnx.data").write_bytes(b"more weights")
    refused(copy, r"model\.onnx\.data is not listed")


@pytest.mark.parametrize("name", ["model.pt", "optimizer.pth", "pytorch_model.bin", "state.pkl"])
def test_pickles_are_refused(tiny: Any, copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"\x80\x04.")
    refused(copy, f"{name} is a pickle")
    with pytest.raises(ArtefactError, match="pickle"):
        seal(copy, tiny.manifest)


def test_external_weights_count_as_served(tiny: Any, copy: Path) -> None:
    (copy / "onnx" / "model.onnx.data").write_bytes(b"x" * 1000)
    before = load_size(tiny.artefact.root)
    seal(copy, tiny.manifest)
    assert load_size(copy) - before > 1000


def load_size(root: Path) -> int:
    return load(root).served_size("fp32")


def fill(folder: Path, tiny: Any) -> None:
    for name in tiny.artefact.manifest.files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((tiny.artefact.root / name).read_bytes())
    seal(folder, tiny.manifest)


def fill_and_fail(target: Path, tiny: Any, error: BaseException | None) -> None:
    with write(target, force=True) as folder:
        fill(folder, tiny)
        if error:
            raise error


def test_an_error_while_writing_leaves_nothing(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="training broke"):
        fill_and_fail(tmp_path / "new", tiny, RuntimeError("training broke"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_before_the_end(tiny: Any, tmp_path: Path) -> None:
    with write(tmp_path / "new") as folder:
        fill(folder, tiny)
        assert not (tmp_path / "new").exists()
        assert folder.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert load(tmp_path / "new").manifest.files == tiny.artefact.manifest.files


def test_an_artefact_is_replaced_only_by_force(tiny: Any, copy: Path) -> None:
    (copy / "stale").write_text("old")
    with pytest.raises(ArtefactError, match="exists; remove it"), write(copy):
        pytest.fail("must not begin")
    with pytest.raises(KeyboardInterrupt):
        fill_and_fail(copy, tiny, KeyboardInterrupt())
    assert (copy / "stale").exists()
    with write(copy, force=True) as folder:
        fill(folder, tiny)
    assert not (copy / "stale").exists()
    load(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_what_is_no_artefact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ArtefactError, match="is not an artefact"), write(tmp_path / "thesis", force=True):
        pytest.fail("must not begin")
    assert (tmp_path / "thesis" / "chapter").exists()


def test_a_failed_swap_puts_the_old_one_back(tiny: Any, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".partial" in self.name:
            raise OSError(errno.EIO, "broken disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken disk"), write(copy, force=True) as folder:
        fill(folder, tiny)
    monkeypatch.undo()
    load(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("where", ["write", "fsync", "library"])
def test_a_full_disk_is_one_clear_error(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: Any) -> None:
        raise full

    error: Exception | None = full
    if where == "fsync":
        monkeypatch.setattr(staging.os, "fsync", refuse)
        error = None
    if where == "library":  # what safetensors makes of it
        error = RuntimeError(f"Error while serializing: IoError({full.strerror})")
    with pytest.raises(ArtefactError, match=r"the disk is full: .*new was not written"):
        fill_and_fail(tmp_path / "new", tiny, error)
    assert list(tmp_path.iterdir()) == []


def test_seal_refuses_links(tiny: Any, copy: Path) -> None:
    (copy / "link").symlink_to("README.md")
    with pytest.raises(ArtefactError, match="link is a link"):
        seal(copy, tiny.manifest)
