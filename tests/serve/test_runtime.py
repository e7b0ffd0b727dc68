"""Session against transformers' own tokenizer and torch model, which share no code with it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.artefact import ArtefactError, seal
from serve.encode import check_inputs
from serve.engine.scores import native
from serve.errors import BackendError, EmptyInput, InputError, TooLong
from serve.runtime import Session, few_softmax, softmax
from tests.serve.native import up_to_date

ROOT = Path(__file__).parents[2]
TEXTS = [
    "the movie was good .",
    "bad",
    "",
    "i saw it and it was not very good , but fine !",
    "unknown wörds — 雨 🙂 everywhere",
    "the film is dull " * 20,  # over the maximum length
    "a great film",
]
PAIRS = [("the movie was good", "it was great !"), ("bad " * 30, "fine"), ("a", "so " * 40), ("", "dull")]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_logits_equal_torch(tiny: Any, runtime: str, batch: int | None) -> None:
    got = Session(tiny.artefact, runtime=runtime, batch=batch).logits(TEXTS)
    np.testing.assert_allclose(got, tiny.torch_logits(TEXTS), atol=2e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_pairs_equal_torch(pairs: Any, runtime: str) -> None:
    np.testing.assert_allclose(
        Session(pairs.artefact, runtime=runtime).logits(PAIRS), pairs.torch_logits(PAIRS), atol=2e-4
    )


def test_answers_are_in_the_order_of_the_texts(tiny: Any) -> None:
    session = Session(tiny.artefact, batch=2)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["good", "bad", "the", "film"], size=rng.integers(1, 20))) for _ in range(23)]
    alone = np.concatenate([session.logits([text]) for text in texts])
    assert len({tuple(row) for row in alone.round(3).tolist()}) > 15, "texts must have answers of their own"
    np.testing.assert_allclose(session.logits(texts), alone, atol=1e-5)
    np.testing.assert_allclose(session.logits(texts[::-1]), alone[::-1], atol=1e-5)


def test_scores_are_probabilities_unless_raw_or_regression(tiny: Any, regression: Any) -> None:
    session = Session(tiny.artefact)
    expected = tiny.torch_logits(TEXTS)
    powers = np.exp(expected.astype(np.float64))
    np.testing.assert_allclose(session.predict(TEXTS).scores, powers / powers.sum(1, keepdims=True), atol=2e-4)
    np.testing.assert_allclose(session.predict(TEXTS, raw_scores=True).scores, expected, atol=2e-4)
    value = Session(regression.artefact).predict(["a good film"]).scores
    np.testing.assert_allclose(value, regression.torch_logits(["a good film"]), atol=2e-4)


def test_truncation_is_reported(tiny: Any) -> None:
    predictions = Session(tiny.artefact).predict(TEXTS)
    assert predictions.truncated == [False, False, False, False, False, True, False]
    assert predictions.tokens == sum(tiny.lengths(TEXTS))


def test_a_long_text_without_truncation_is_an_error(tiny: Any, pairs: Any) -> None:
    with pytest.raises(TooLong, match="at most 24 tokens, but text 5"):
        Session(tiny.artefact).logits(TEXTS, truncate=False)
    with pytest.raises(TooLong, match="text 1"):
        Session(pairs.artefact).logits(PAIRS, truncate=False)
    exact = " ".join(["good"] * (tiny.manifest.encoder.max_length - 2))
    assert Session(tiny.artefact).logits([exact], truncate=False).shape == (1, 2)


@pytest.mark.parametrize("text", ["\ud800", ("a", "\udfff")])
def test_half_a_surrogate_pair_is_an_error(tiny: Any, text: object) -> None:
    with pytest.raises(InputError, match="surrogate"):
        Session(tiny.artefact).logits([text])  # type: ignore[list-item]


@pytest.mark.parametrize("text", [7, None, b"a", ("a", "b", "c"), ("a", 3)])
def test_what_is_not_text_is_an_error(tiny: Any, text: object) -> None:
    with pytest.raises(InputError, match="text 0 must be"):
        Session(tiny.artefact).logits([text])  # type: ignore[list-item]


def test_inputs_must_suit_the_task() -> None:
    check_inputs(["a"], 1)
    check_inputs([("a", "b"), ("", "b")], 2)
    with pytest.raises(InputError, match="text 1 is a pair, but this model takes single texts"):
        check_inputs(["a", ("a", "b")], 1)
    with pytest.raises(InputError, match="text 0 is a single text, but this model takes pairs"):
        check_inputs(["a"], 2)
    for empty in (
        "",
        " \n\t",
    ):
        with pytest.raises(EmptyInput, match="text 1"):
            check_inputs(["a", empty], 1)


def test_nothing_in_gives_nothing_out(tiny: Any) -> None:
    assert Session(tiny.artefact).logits([]).shape == (0, 2)


def test_wrong_arguments_name_what_is_right(tiny: Any) -> None:
    with pytest.raises(InputError, match="auto, got 'tensorrt'"):
        Session(tiny.artefact, runtime="tensorrt")
    with pytest.raises(InputError, match="device must be one of cpu, cuda"):
        Session(tiny.artefact, device="tpu")
    with pytest.raises(ArtefactError, match="no model 'int8'; it has fp32"):
        Session(tiny.artefact, model="int8")
    with pytest.raises(InputError, match="1 or more"):
        Session(tiny.artefact, threads=0)
    with pytest.raises(BackendError, match="runs on the CPU"):
        Session(tiny.artefact, runtime="openvino", device="cuda")


def test_cuda_without_a_cuda_build_says_so(tiny: Any) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="onnxruntime-gpu"):
        Session(tiny.artefact, device="cuda")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_that_is_no_model_names_itself(tiny: Any, copy: Path, runtime: str) -> None:
    (copy / "onnx" / "model.onnx").write_bytes(b"not a model")
    seal(copy, tiny.manifest)
    with pytest.raises(ArtefactError, match=r"cannot load .*model\.onnx"):
        Session(copy, runtime=runtime)


def test_a_tokeniser_that_cannot_be_read_names_itself(tiny: Any, copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    seal(copy, tiny.manifest)
    with pytest.raises(ArtefactError, match=r"tokenizer\.json is not a tokenizer"):
        Session(copy)


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0, 1e4]], dtype=np.float32)), [[0.5, 0, 0.5]])


def test_serve_imports_nothing_heavy() -> None:
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "datasets", "accelerate", "compress", "benchmarks", "onnx"}:
            raise ImportError(f"serve must not import {name}")
sys.meta_path.insert(0, Block())
import pkgutil, importlib, serve
names = [module.name for module in pkgutil.iter_modules(serve.__path__)]
for name in names:
    if name != "service":  # needs a BentoML worker around it, and is built for real elsewhere
        importlib.import_module(f"serve.{name}")
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8


def test_no_runtime_leaves_traces_at_home(tiny: Any, tmp_path: Path) -> None:
    """Both runtimes report to their makers by default, and keep an identity in the user's home to do so."""
    code = """
import sys
from serve.runtime import Session
for runtime in ("onnxruntime", "openvino"):
    Session(sys.argv[1], runtime=runtime).predict(["good"])
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tiny.artefact.root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_few_scores_are_those_of_many() -> None:
    logits = np.random.default_rng(0).normal(0, 6, (200_000, 3)).astype(np.float32)
    wanted = softmax(logits)
    assert np.array_equal(
        np.concatenate([few_softmax(logits[at : at + 1]) for at in range(0, 20_000)]), wanted[:20_000]
    )
    assert np.array_equal(np.concatenate([few_softmax(logits[at : at + 5]) for at in range(0, 200_000, 5)]), wanted)
    for bad in (np.nan, np.inf, -np.inf):
        assert few_softmax(np.array([[0.0, bad]], np.float32)) is None


@pytest.mark.parametrize("labels", [1, 2, 3, 16])
def test_softmax_in_c_has_the_bits_of_numpys(labels: int) -> None:
    up_to_date()
    quick = native()
    assert quick is not None
    logits = np.random.default_rng(0).normal(0, 6, (100_000, labels)).astype(np.float32)
    logits[:3] = [[1e38], [-3e38], [-200]]
    scores = quick.softmax(logits)
    assert scores is not None and scores.flags.writeable
    assert np.array_equal(scores, softmax(logits))
    assert np.array_equal(quick.softmax(logits[::-7]), softmax(logits[::-7]))
    none = quick.softmax(logits[:0])
    assert none is not None and none.shape == (0, labels)
    for bad in (np.nan, np.inf, -np.inf):
        logits[99_999, -1] = bad
        assert quick.softmax(logits) is None
