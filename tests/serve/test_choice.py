"""Which runtime "auto" takes: by measured rates, once a host, whatever happens to the cache."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve import choice, engines
from serve.choice import Choice, best, choose
from serve.encode import Feeds, WordPieces
from serve.errors import ArtefactError, BackendError
from serve.inspect import report
from serve.runtime import Session

DIGEST = "0" * 64
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "SECONDS", 0.005)
    return tmp_path / "cache" / "runtimes"


@pytest.fixture
def pieces(tiny: Any) -> WordPieces:
    return Session(tiny.artefact).pieces


def runtime(seconds: float, log: Path | None = None) -> Callable[..., engines.Engine]:
    """Takes `seconds` of work a run; writes a line to `log` for each one that is opened."""

    def opened(path: Path, *, device: str, threads: int) -> engines.Engine:
        if log:
            with log.open("a") as lines:
                lines.write("opened\n")

        def run(feeds: Feeds) -> engines.Logits:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            return np.zeros((len(feeds["input_ids"]), 2), np.float32)

        return run

    return opened


def declining(error: Exception) -> Callable[..., engines.Engine]:
    def opened(path: Path, *, device: str, threads: int) -> engines.Engine:
        raise error

    return opened


def fakes(monkeypatch: pytest.MonkeyPatch, **found: Callable[..., engines.Engine]) -> None:
    monkeypatch.setattr(choice, "apart", choice.trial)  # another process would not see them
    for name in choice.CANDIDATES:
        absent = declining(BackendError(f"{name} is not installed"))
        monkeypatch.setitem(engines.ENGINES, name, found.get(name, absent))


@pytest.mark.parametrize("quick", choice.CANDIDATES)
def test_the_quickest_is_taken(monkeypatch: pytest.MonkeyPatch, pieces: WordPieces, quick: str) -> None:
    fakes(monkeypatch, **{name: runtime(0.001 if name == quick else 0.003) for name in choice.CANDIDATES})
    found = choose(Path("model.onnx"), DIGEST, pieces, batch=8)
    assert found.runtime == quick and set(found.rates) == set(choice.CANDIDATES) and not found.declined
    assert 500 < found.rates[quick]["1"] <= 1000 and 4000 < found.rates[quick]["32"] <= 8000  # four runs of 8 texts


def test_of_two_as_quick_the_first_is_taken() -> None:
    assert best({"bantam": {"1": 97.0, "32": 100.0}, "openvino": {"1": 100.0, "32": 100.0}}) == "bantam"
    assert best({"bantam": {"1": 50.0, "32": 150.0}, "openvino": {"1": 100.0, "32": 100.0}}) == "openvino"


def test_a_hopeless_one_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch, pieces: WordPieces) -> None:
    fakes(monkeypatch, bantam=runtime(0.02), onnxruntime=runtime(0.002))
    found = choose(Path("model.onnx"), DIGEST, pieces, batch=8)
    assert found.runtime == "onnxruntime" and found.rates["bantam"].keys() == {"1"}


def test_who_does_not_run_it_says_why(monkeypatch: pytest.MonkeyPatch, pieces: WordPieces) -> None:
    fakes(monkeypatch, onnxruntime=runtime(0.001), openvino=declining(ArtefactError("openvino cannot load it")))
    found = choose(Path("model.onnx"), DIGEST, pieces, batch=8)
    declined = {"bantam": "bantam is not installed", "openvino": "openvino cannot load it"}
    assert found == Choice(runtime="onnxruntime", declined=declined)
    fakes(monkeypatch, onnxruntime=declining(ArtefactError("onnxruntime cannot load it")))
    with pytest.raises(ArtefactError, match="onnxruntime cannot load it"):
        choose(Path("model.onnx"), "1" * 64, pieces, batch=8)


def test_it_is_measured_once_for_each_file_and_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, pieces: WordPieces, cache: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    fakes(monkeypatch, bantam=runtime(0.001, log), onnxruntime=runtime(0.002))
    ways: list[dict[str, Any]] = [{}, {}, {"threads": 2}, {"threads": 2}, {"device": "cuda"}]
    found = [choose(Path("model.onnx"), DIGEST, pieces, batch=8, **way) for way in ways]
    choose(Path("model.onnx"), "1" * 64, pieces, batch=8)
    monkeypatch.setattr("serve.machine.version", lambda name: "of another day")
    choose(Path("model.onnx"), DIGEST, pieces, batch=8)
    assert found[0] == found[1] and found[2] == found[3] and len(log.read_text().split()) == 5
    assert len(list(cache.glob("*.json"))) == 5 and not list(cache.glob("*.partial"))


@pytest.mark.parametrize("content", [b"", b'{"runtime": "rm"}', b'{"runtime": "bantam", "rates": 3}', b"\xff"])
def test_a_damaged_cache_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch, pieces: WordPieces, cache: Path, content: bytes
) -> None:
    fakes(monkeypatch, bantam=runtime(0.001), onnxruntime=runtime(0.002))
    first = choose(Path("model.onnx"), DIGEST, pieces, batch=8)
    (kept,) = cache.glob("*.json")
    kept.write_bytes(content)
    assert choose(Path("model.onnx"), DIGEST, pieces, batch=8).runtime == "bantam" == first.runtime
    assert json.loads(kept.read_text())["runtime"] == "bantam"


@pytest.mark.parametrize("folder", ["/proc/nowhere", "file/below", None])
def test_where_nothing_can_be_kept_it_serves(
    monkeypatch: pytest.MonkeyPatch, pieces: WordPieces, tmp_path: Path, folder: str | None
) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    (tmp_path / "file").write_text("in the way")
    fakes(monkeypatch, bantam=runtime(0.002), onnxruntime=runtime(0.001))
    if folder is None:
        monkeypatch.setattr("serve.cache.folder", homeless)
    else:
        monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / folder))
    assert choose(Path("model.onnx"), DIGEST, pieces, batch=8).runtime == "onnxruntime"


def _worker(tokenizer: Path, inputs: tuple[str, ...], log: Path, told: Any) -> None:
    patch = pytest.MonkeyPatch()
    fakes(patch, bantam=runtime(0.001, log), onnxruntime=runtime(0.002))
    pieces = WordPieces(tokenizer, max_length=24, pad_id=0, inputs=inputs)
    told.put(choose(Path("model.onnx"), DIGEST, pieces, batch=8).model_dump())


def test_workers_that_start_together_measure_once(tiny: Any, tmp_path: Path) -> None:
    log, fork = tmp_path / "log", multiprocessing.get_context("fork")
    told = fork.Queue()
    encoder = tiny.manifest.encoder
    arguments = (tiny.artefact.root / encoder.file, encoder.inputs, log, told)
    workers = [fork.Process(target=_worker, args=arguments, daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [told.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert all(one == found[0] for one in found) and log.read_text().split() == ["opened"]


def test_a_choice_that_no_longer_starts_is_not_the_end(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    with monkeypatch.context() as patch:
        fakes(patch, bantam=runtime(0.001), onnxruntime=runtime(0.003))
        assert Session(tiny.artefact, runtime="auto").runtime == "bantam"
    session = Session(tiny.artefact, runtime="auto")  # the real engine does not run fp32 files
    assert session.runtime == "onnxruntime" and "not int8" in session.choice.declined["bantam"]
    np.testing.assert_allclose(session.logits(["good"]), tiny.torch_logits(["good"]), atol=2e-4)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_where_measuring_fails_the_first_that_runs_is_taken(
    program: str, monkeypatch: pytest.MonkeyPatch, tiny: Any, cache: Path
) -> None:
    monkeypatch.setattr("sys.executable", program)
    session = Session(tiny.artefact, runtime="auto")
    assert session.runtime == "onnxruntime" and "not int8" in session.choice.declined["bantam"]
    assert session.choice.rates == {} and not list(cache.glob("*.json"))
    monkeypatch.setattr(choice, "ENGINES", {name: declining(BackendError(name)) for name in choice.CANDIDATES})
    with pytest.raises(BackendError, match="onnxruntime"):
        Session(tiny.artefact, runtime="auto")


def test_what_is_not_used_is_not_loaded(tiny: Any) -> None:
    """Nor does the process end with two runtimes in it."""
    source = (
        "import sys; from serve.runtime import Session; session = Session(sys.argv[1], runtime='auto'); "
        "print(session.runtime, 'openvino' in sys.modules, len(session.choice.rates))"
    )
    command = [sys.executable, "-c", source, str(tiny.artefact.root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120)
    assert done.stdout.split() == ["onnxruntime", "False", "2"]


def test_an_explicit_runtime_measures_nothing(tiny: Any, cache: Path) -> None:
    session = Session(tiny.artefact, runtime="onnxruntime")
    assert session.choice == Choice(runtime="onnxruntime") and not cache.exists()


def test_real_runtimes_are_measured_and_shown(tiny: Any, cache: Path) -> None:
    session = Session(tiny.artefact, runtime="auto")
    assert session.runtime == best(session.choice.rates) and "not int8" in session.choice.declined["bantam"]
    assert session.choice.rates["onnxruntime"]["1"] > 10 and session.choice.rates["onnxruntime"]["32"] > 10
    np.testing.assert_allclose(session.logits(["good", "bad"]), tiny.torch_logits(["good", "bad"]), atol=2e-4)
    (kept,) = cache.glob("*.json")
    assert json.loads(kept.read_text()) == session.choice.model_dump() == report(tiny.artefact)["here"]


def eight_bits(tiny: Any) -> Any:
    """The same artefact, whose manifest calls a second file INT8 and serves it."""
    there = tiny.artefact.manifest
    models = {**there.models, "int8": there.models["fp32"].model_copy(update={"precision": "int8", "batch": 2})}
    return replace(tiny.artefact, manifest=there.model_copy(update={"models": models, "served": "int8"}))


def test_without_vnni_8_bit_files_are_for_our_engine_alone(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    monkeypatch.setattr("serve.machine.flags", lambda: ["avx2"])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    fakes(monkeypatch, bantam=runtime(0.003), onnxruntime=runtime(0.001), openvino=runtime(0.001))
    session = Session(eight_bits(tiny), runtime="auto")
    assert (session.runtime, session.model, session.choice.rates) == ("bantam", "int8", {})
    assert session.choice.declined.keys() == {"onnxruntime", "openvino"}
    assert all("overflow" in reason for reason in session.choice.declined.values())
    monkeypatch.setattr("serve.machine.flags", lambda: ["avx2", "avx_vnni"])
    assert Session(eight_bits(tiny), runtime="auto").runtime == "onnxruntime"


def test_without_vnni_and_our_engine_full_precision_is_served(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    monkeypatch.setattr("serve.machine.flags", lambda: ["avx2"])
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    fakes(monkeypatch, onnxruntime=runtime(0.001))
    session = Session(eight_bits(tiny), runtime="auto")
    assert (session.runtime, session.model, session.batch) == ("onnxruntime", "fp32", 4)
    assert session.choice.declined["bantam"] == "bantam is not installed"
    assert Session(eight_bits(tiny), runtime="auto", model="int8").model == "int8"  # who names it gets it
