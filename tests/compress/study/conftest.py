"""A study whose runs take no time: what stands for `bantam compress` writes an artefact of made-up measures."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.study import children, run

BASE = """
task: {dataset: reviews.csv}
teacher: {model: encoder, epochs: 1}
student: truncated
stages: [{techniques: [distil/logits], lr: 0.5}]
"""
STUDY = """
base: base.yaml
baseline: dense
seeds: [0, 1]
tasks:
  cola: {task.label: cola}
  sst2: {task.label: sst2, seeds: [0]}
arms:
  dense: {}
  sparse: {stages.0.lr: 0.25}
"""
# The learning rate is the measure; batch_size 1 fails, 2 fails once, 3 waits for a signal the first time.
# It writes an artefact by hand, since importing what would do it takes longer than all the rest.
FAKE = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
import yaml
recipe, out = yaml.safe_load(Path(sys.argv[2]).read_text()), Path(sys.argv[4])
tried = out.with_name("tried")
again = tried.exists()
tried.write_text(os.environ["OMP_NUM_THREADS"])
stage = recipe["stages"][0]
print("working", file=sys.stderr, flush=True)
time.sleep(0.1)  # long enough to be timed and to overlap
if stage["batch_size"] == 1 or (stage["batch_size"] == 2 and not again):
    sys.exit("error: it cannot be done")
if stage["batch_size"] == 3 and not again:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    out.with_name("part").write_text(str(os.getpid()))
    out.with_name("part").rename(out.with_name("waiting"))
    time.sleep(60)
files = {"onnx/model.onnx": b"x" * 100, "tokenizer.json": b"{}"}
for name, content in files.items():
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(content)
value = {"value": stage["lr"] + recipe["seed"] / 100}
(out / "manifest.json").write_text(json.dumps({
    "name": "fake", "created": "now", "recipe": recipe, "served": "fp32", "sparsity": {"unstructured": 0.0},
    "task": {"kind": "classification", "inputs": 1, "labels": ["0", "1"], "metric": "accuracy"},
    "encoder": {"kind": "wordpiece", "max_length": 8, "inputs": ["input_ids"]},
    "models": {"fp32": {"path": "onnx/model.onnx", "precision": "fp32", "method": "export"}},
    "files": {name: {"sha256": hashlib.sha256(b).hexdigest(), "size": len(b)} for name, b in files.items()},
    "metrics": {"test": {"rows": 4, "teacher": value, "torch": value}},
    "provenance": {"data": "d", "cost": [{"stage": "stage 1", "updates": 3}]},
}))
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs are that script; nothing is rehearsed."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(children, "PROGRAM", (sys.executable, str(script)))
    monkeypatch.setattr(children, "LOOK", 0.02)
    monkeypatch.setattr(run, "rehearse", lambda jobs: [])


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes the study, with pieces of its text replaced."""

    def write(*changes: tuple[str, str], base: str = BASE) -> Path:
        text = STUDY
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "study.yaml"

    return write
