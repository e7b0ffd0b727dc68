"""A Bento for real: built from an artefact, served, asked over HTTP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.bento import LEAKS

ROOT = Path(__file__).parents[2]
BUILD = "import sys, json; from serve.bento import build; print(json.dumps(build(*sys.argv[1:])))"


def environment(home: Path) -> dict[str, str]:
    # Index settings as many machines have them: none may reach the Bento.
    index = {"PIP_INDEX_URL": "https://packages.example", "UV_INDEX_URL": "https://packages.example"}
    return {**os.environ, **index, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONWARNINGS": ""}


def build(home: Path, *arguments: str) -> dict[str, str]:
    command = [sys.executable, "-c", BUILD, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return built


def wait(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("the Bento did not get ready")


def test_bentofile_pins_what_serving_imports() -> None:
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    pins = options["python"]["packages"]
    assert len(pins) == 8
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", pin) for pin in pins)
    assert options["python"]["lock_packages"] is False
    assert all((ROOT / path).is_file() for path in options["exclude"])
    packaged = ROOT / "serve" / "bentofile.yaml"
    assert packaged.read_text() == (ROOT / "bentofile.yaml").read_text()


def test_what_goes_into_a_bento_imports_alone(tmp_path: Path) -> None:
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    files = {path for pattern in options["include"] for path in ROOT.glob(pattern)}
    files -= {ROOT / path for path in options["exclude"]}
    for path in files:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    command = [sys.executable, "-c", "import serve.app, serve.runtime; print(serve.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path) and len(files) > 25


def test_leaks_are_recognised() -> None:
    for line in (
        b"--index-url x",
        b"--extra-index-url x",
        b"-i x",
        b"a\n-f x",
        b"--find-links /x",
        b"a @ file:///x",
    ):
        assert LEAKS.search(line), line
    assert not LEAKS.search(b"numpy==2.0\nscikit-image==1.0\n")


@pytest.mark.slow
def test_an_artefact_becomes_a_bento_that_answers(tiny: Any, tmp_path: Path) -> None:
    artefact = shutil.copytree(tiny.artefact.root, tmp_path / "student")
    home = tmp_path / "bentoml"
    home.mkdir()
    built = build(home, str(artefact))
    assert re.fullmatch(r"bantam-tiny-model:[0-9a-f]{8}", built["tag"])
    assert re.fullmatch(r"bantam:tiny-model-[0-9a-f]{8}", built["model"])
    assert build(home, str(artefact)) == built, "the same again"

    bento = home / "bentos" / built["tag"].replace(":", "/")
    files = [path for path in bento.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        content = path.read_bytes()
        for leak in (b"index-url", b"find-links", b"packages.example", str(ROOT).encode(), str(tmp_path).encode()):
            assert leak not in content, (path, leak)
    modules = {path.stem for path in (bento / "src" / "serve").iterdir()}
    assert {"app", "service", "runtime"} <= modules
    assert not {"bento", "launch", "predict_file"} & modules
    requirements = (bento / "env" / "python" / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert not any(heavy in line for line in requirements for heavy in ("torch", "transformers"))

    shutil.rmtree(artefact)  # the Bento stands alone
    port = 20000 + os.getpid() % 20000
    command = [sys.executable, "-m", "bentoml", "serve", built["tag"], "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(home), start_new_session=True)
    try:
        wait(port, "/readyz", process)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", b'{"inputs": "a great film"}', {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            got = {entry["label"]: entry["score"] for entry in json.load(answer)}
            assert answer.headers["x-inference-time"]
        best = ["NEG", "POS"][int(tiny.torch_logits(["a great film"])[0].argmax())]
        assert max(got, key=got.__getitem__) == best
        for path in ("/livez", "/health", "/info", "/metrics"):
            wait(port, path, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_plain_bentoml_build_takes_the_newest_artefact(tiny: Any, tmp_path: Path) -> None:
    home = tmp_path / "bentoml"
    home.mkdir()
    model = build(home, str(tiny.artefact.root), "first:one")["model"]
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tag = done.stdout.strip().removeprefix("__tag__:")
    content = yaml.safe_load((home / "bentos" / tag.replace(":", "/") / "bento.yaml").read_text())
    assert [(entry["tag"], entry["alias"]) for entry in content["models"]] == [(model, "artefact")]
