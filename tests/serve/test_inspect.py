"""What `bantam inspect` reports and shows."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from serve.artefact import ArtefactError
from serve.inspect import report, show


def test_the_report_is_the_manifest_with_sizes(tiny: Any) -> None:
    got = report(tiny.artefact)
    assert json.loads(json.dumps(got)) == got
    manifest = json.loads((tiny.artefact.root / "manifest.json").read_text())
    model = tiny.artefact.root / "onnx" / "model.onnx"
    assert got["models"]["fp32"]["size"] == model.stat().st_size
    for key in set(manifest) - {"models"}:
        assert got[key] == manifest[key], key
    assert got["tokenizer"] == "bantam" or got["tokenizer"].startswith("tokenizers: ")
    assert got["size"] == sum(path.stat().st_size for path in tiny.artefact.root.rglob("*") if path.is_file())


def test_a_damaged_artefact_is_not_reported(copy: Path) -> None:
    (copy / "config.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"config\.json is damaged"):
        report(copy)


def test_the_tables_show_what_matters(tiny: Any) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    show(report(tiny.artefact), console)
    text = console.export_text()
    for word in (
        "Tiny Model",
        "NEG, POS",
        "fp32 (served)",
        "0 of 12",
        "0.9000",
        "0.8000 to 1.0000",
        "linear",
        "50.0%",
        "seed=0",
        "text=[sentence]",
        "at most 24 tokens",
    ):
        assert word in text, word
