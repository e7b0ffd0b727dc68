"""The whole line at toy size: what a person types, what comes out, and what survives a stop."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress import flatness
from compress.pipeline import compress
from compress.recipe import RECIPES, Recipe
from serve import artefact
from serve.runtime import Session
from tests.compress.conftest import sentence

MODULE = ("-m", "bantam")
TEXTS = ["a fine moving film", "dull and flat plot", "it was the cast of a warm scene and rich music"]
SHORT = ["stages.0.epochs=4", "stages.0.lr=0.003", "stages.0.batch_size=16", "stages.0.evaluations=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of teachers that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(cache))


def bantam(
    *arguments: str, launcher: tuple[str, ...] = ("-m", "bantam"), **options: Any
) -> subprocess.CompletedProcess:
    command = [sys.executable, *launcher, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def settings_of(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    mine, theirs = weights(a), weights(b)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def made(toy_settings: list[str], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe on the toy task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANTAM_CACHE", str(cache))
        out = tmp_path_factory.mktemp("made") / "student"
        compress(Recipe.read("demo", [*toy_settings, *SHORT]), out)
    return out


def test_the_artefact_answers_as_the_trained_model(made: Path) -> None:
    """Oracle: transformers' own tokenizer and torch model, read back from the artefact."""
    model = AutoModelForSequenceClassification.from_pretrained(made).eval()
    tokenizer = AutoTokenizer.from_pretrained(made)
    with torch.no_grad():
        expected = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]).numpy()
    assert np.allclose(Session(made, model="fp32").logits(TEXTS), expected, atol=1e-4)
    assert model.config.num_hidden_layers == 2 and list(model.config.id2label.values()) == ["bad", "good"]


def test_the_student_learns_the_toy_task(made: Path) -> None:
    manifest = artefact.load(made).manifest
    assert manifest.metrics["test"]["teacher"]["value"] > 0.9
    assert manifest.metrics["test"]["torch"]["value"] > 0.9
    assert manifest.metrics["test"][f"agreement_{manifest.served}"]["value"] > 0.9


def test_a_file_that_is_not_served_is_judged_on_the_selection_split_alone(made: Path) -> None:
    manifest = artefact.load(made).manifest
    assert {key for key in manifest.models if key in manifest.metrics["test"]} == {manifest.served} == {"int8"}
    fp32 = next(row for row in manifest.candidates if row["name"] == "fp32")
    assert fp32["metric"] > 0.9 and fp32["parity"]["max"] < 1e-3


def test_the_manifest_says_how_it_was_made(made: Path) -> None:
    manifest = artefact.load(made).manifest
    assert manifest.recipe["task"]["label"] == "label"
    assert manifest.teacher["key"] and manifest.provenance["machine"]["cores"]
    assert {row["name"] for row in manifest.candidates} >= {"fp32", "dynamic", "static"}
    assert (made.with_name("student.run") / "test.parquet").exists()
    assert (made / "README.md").read_text(encoding="utf-8").strip()


def test_flatness_is_measured_of_an_artefact(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatness, "EXAMPLES", 64)
    found = flatness.of_artefact(made)
    assert list(found["noise_rise"]) == ["0.01", "0.02", "0.05", "0.1"]
    assert found["sharpness"] > 0 and found["top_eigenvalue"] != 0 and found["loss"] < 0.7


def test_a_finished_run_is_kept_or_refused(made: Path, toy_settings: list[str]) -> None:
    recipe = Recipe.read("demo", [*toy_settings, *SHORT])
    before = (made / "manifest.json").stat().st_mtime_ns
    compress(recipe, made, resume=True)
    assert (made / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="exists already"):
        compress(recipe, made)
    with pytest.raises(ValueError, match="exists already"):
        compress(Recipe.read("demo", [*toy_settings, *SHORT, "seed=1"]), made, resume=True)


ELSEWHERE = {
    "cerberus",
    "disco",
    "distilbert-corpus",
    "embedding",
    "ensemble",
    "ngram",
    "prune-ofa",
    "prune-ofa-transfer",
    "tinybert-augment",
}  # tests of their own run these


TOY = {"minilm-v2": ["stages.0.techniques.0.relation_heads=4"]}  # the toy models are 16 wide


@pytest.mark.parametrize("name", sorted({path.stem for path in RECIPES.glob("*.yaml")} - ELSEWHERE))
def test_recipes_that_come_along_run(name: str, toy_settings: list[str], tmp_path: Path) -> None:
    recipe = Recipe.read(name, toy_settings)
    quick = ("epochs=0.5", "evaluations=1")
    stages = [f"stages.{i}.{value}" for i, _ in enumerate(recipe.stages) for value in quick] + TOY.get(name, [])
    made = compress(Recipe.read(name, [*toy_settings, *stages, "export.int8=[static]"]), tmp_path / name)
    assert Session(made).predict(TEXTS).scores.shape == (3, 2)


def test_pairs_with_a_score_need_settings_alone(toy: Path, toy_settings: list[str], tmp_path: Path) -> None:
    """A dataset that no recipe names: two text columns, a float label, tab-separated."""
    rng = random.Random(1)
    rows = ["left\tright\tpraise"]
    for _ in range(240):
        good = [rng.random() < 0.5 for _ in range(2)]
        left, right = (sentence(rng, positive) for positive in good)
        rows.append(f"{left}\t{right}\t{2 * sum(good) + rng.random():.3f}")
    (tmp_path / "pairs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    mine = [
        f"task.dataset={tmp_path / 'pairs.tsv'}",
        "task.text=[left, right]",
        "task.label=praise",
        "task.metric=null",
    ]
    out = tmp_path / "student"
    compress(Recipe.read("demo", [*toy_settings, *SHORT, *mine]), out)
    manifest = artefact.load(out).manifest
    assert (manifest.task.kind, manifest.task.inputs, manifest.task.metric) == ("regression", 2, "spearman")
    scores = (
        Session(out).predict([("fine great cast", "lovely warm film"), ("dull poor cast", "bad stale film")]).scores
    )
    assert scores[0, 0] > scores[1, 0] + 1


def test_one_stage_prunes_distils_and_trains_for_int8(toy_settings: list[str], tmp_path: Path) -> None:
    out = tmp_path / "student"
    quick = ["stages.0.epochs=4", "stages.0.lr=0.002", "stages.0.batch_size=16", "export.int8=[static]"]
    compress(Recipe.read("prune-qat", [*toy_settings, *quick]), out)
    manifest = artefact.load(out).manifest
    assert {row["name"] for row in manifest.candidates} == {"fp32", "qat", "static"}
    assert not next(row for row in manifest.candidates if row["name"] == "qat")["refused"]
    blocks = {name: w for name, w in weights(out).items() if "encoder.layer" in name and w.ndim == 2}
    assert len(blocks) == 12
    zeros = sum(int((w == 0).sum()) for w in blocks.values()) / sum(w.numel() for w in blocks.values())
    assert zeros > 0.799  # small weights may round to 0 besides those that are masked


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


@pytest.fixture(scope="module")
def long(toy_settings: list[str]) -> list[str]:
    """A run of 110 updates with a checkpoint after each fifth: long enough to be stopped in its midst."""
    stage = [f"stages.0.{value}" for value in ("epochs=10", "checkpoint=5", "evaluations=8", "lr=0.001")]
    return ["compress", "demo", *settings_of([*toy_settings, *SHORT, *stage, "export.int8=[static]"])]


@pytest.fixture(scope="module")
def whole(long: list[str], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, never stopped."""
    out = tmp_path_factory.mktemp("whole") / "student"
    done = bantam(*long, "--out", str(out), env=os.environ | {"BANTAM_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_run_resumes_to_the_same_bits(
    number: int, code: int, long: list[str], whole: Path, tmp_path: Path
) -> None:
    out, saved = tmp_path / "stopped", tmp_path / "stopped.run" / "stage-0" / "checkpoint.pt"
    process = subprocess.Popen([sys.executable, *MODULE, *long, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    wait_for(saved, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert saved.exists() and not out.exists()
    assert ("--resume continues there" in errors) == (number == signal.SIGINT)

    done = bantam(*long, "--out", str(out), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["artefact"] == str(out)
    assert same(out, whole)


def test_an_unfinished_run_goes_on_only_as_it_was(toy_settings: list[str], tmp_path: Path) -> None:
    recipe = Recipe.read("demo", [*toy_settings, *SHORT])
    (tmp_path / "student.run").mkdir()
    (tmp_path / "student.run" / "recipe.yaml").write_text(yaml.safe_dump(recipe.plain()), encoding="utf-8")
    with pytest.raises(ValueError, match="continue it with --resume"):
        compress(recipe, tmp_path / "student")
    with pytest.raises(ValueError, match=r"stages.0.lr was 0.003, is 0.002"):
        compress(Recipe.read("demo", [*toy_settings, *SHORT, "stages.0.lr=0.002"]), tmp_path / "student", resume=True)


LAUNCHERS = {
    "accelerate": ("-m", "accelerate.commands.launch", "--num_processes", "2", "-m", "bantam"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "bantam"),
}


@pytest.fixture(scope="module")
def exact(toy: Path, toy_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run whose only randomness is the order of examples: fp32 and no dropout."""
    folder = shutil.copytree(toy / "encoder", tmp_path_factory.mktemp("exact") / "encoder")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    mine = [f"teacher.model={folder}", "teacher.precision=fp32", "teacher.epochs=0.3", "export.int8=[static]"]
    stage = [f"stages.0.{value}" for value in ("epochs=0.5", "precision=fp32", "accumulate=2", "evaluations=1")]
    return ["compress", "demo", *settings_of([*toy_settings, *SHORT, *mine, *stage])]


@pytest.fixture(scope="module")
def alone(exact: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = bantam(*exact, "--out", str(folder / "out"), env=os.environ | {"BANTAM_CACHE": str(folder / "cache")})
    assert done.returncode == 0 and "processes share" not in done.stderr, done.stderr
    return folder / "out"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one(launcher: str, exact: list[str], alone: Path, tmp_path: Path) -> None:
    """The same examples make each update, so the weights agree up to the order of sums."""
    environment = os.environ | {"BANTAM_CACHE": str(tmp_path / "cache")}
    done = bantam(*exact, "--out", str(tmp_path / "out"), launcher=LAUNCHERS[launcher], env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes share each update") == 1
    one, two = weights(alone), weights(tmp_path / "out")
    moved = load_file(Path(exact[exact.index("--set") + 1].partition("=")[2]).parent / "encoder" / "model.safetensors")
    assert max((one[f"bert.{name}"] - moved[name]).abs().max() for name in moved if f"bert.{name}" in one) > 5e-3
    told = [name for name in one if not name.endswith("key.bias")]  # softmax ignores it: its gradient is rounding alone
    assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_processes_at_one_update(number: int, long: list[str], cache: Path, tmp_path: Path) -> None:
    """As a terminal does it: SIGINT comes to the launcher and to its processes, and the launcher passes it on."""
    environment = os.environ | {"BANTAM_CACHE": str(cache)}
    out, saved = tmp_path / "stopped", tmp_path / "stopped.run" / "stage-0" / "checkpoint.pt"
    command = [sys.executable, *LAUNCHERS["torchrun"], *long, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    wait_for(saved, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    stopped = re.findall(r"stopped: (\d+) of 110 updates are saved", errors)
    assert len(stopped) == 2 and len(set(stopped)) == 1, errors
    assert torch.load(saved, weights_only=True)["step"] == int(stopped[0])
    done = bantam(*long, "--out", str(out), "--resume", launcher=LAUNCHERS["torchrun"], env=environment)
    assert done.returncode == 0 and not saved.exists(), done.stderr
