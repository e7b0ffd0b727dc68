"""An n-gram artefact through everything that serves, measures and shows: Session, HTTP, command line, benchmark."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bantam.cli import app as cli
from benchmarks import plan
from benchmarks.targets import Served, Spec, open_target, size_bytes
from serve.app import create_app
from serve.artefact import Artefact, ArtefactError, Encoder, seal, write
from serve.encode import Text
from serve.errors import BackendError, InputError, TooLong
from serve.ngram.encode import NGrams
from serve.ngram.file import read
from serve.ngram.plain import Plain
from serve.ngram.runtime import Engine
from serve.ngram.words import Characters
from serve.runtime import Session, softmax
from serve.settings import Settings
from tests.serve.ngram.models import TEXTS, artefact, model

LONG = "great dull film and it isn't even funny really good movie ! ? the end"  # 16 words
SOME: list[Text] = [*TEXTS, "", "unknown", LONG, "🙂" * 30, "\0", "שלום"]


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[None]:
    """A warm app changes the garbage collector of its process; other tests shall not feel it."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(scope="module")
def single(table: Characters, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return artefact(tmp_path_factory.mktemp("ngrams") / "single", model(table))


@pytest.fixture(scope="module")
def pairs(table: Characters, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    made = model(table, inputs=2, labels=3)
    return artefact(tmp_path_factory.mktemp("ngrams") / "pairs", made, labels=("no", "maybe", "yes"))


def oracle(found: Artefact, texts: list[Any]) -> Any:
    plain = Plain(read(found.root / "ngrams.safetensors"), max_words=found.manifest.encoder.max_length)
    return plain.texts(texts)


@pytest.mark.parametrize("runtime", ["bantam", "auto", "onnxruntime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_runtime_gives_the_models_answer(single: Artefact, runtime: str, threads: int) -> None:
    session = Session(single, runtime=runtime, threads=threads)
    session.warm_up()
    logits, words, truncated = oracle(single, SOME)
    np.testing.assert_allclose(session.logits(SOME), logits, rtol=1e-5, atol=1e-5)
    found = session.predict(SOME)
    np.testing.assert_allclose(found.scores, softmax(logits), atol=1e-5)
    assert found.truncated == truncated.tolist() == ["🙂" in str(text) or text == LONG for text in SOME]
    assert found.tokens == words.sum()
    assert session.labels == ("NEG", "POS")
    assert session.logits([]).shape == (0, 2)
    assert session.runtime == ("onnxruntime" if runtime == "onnxruntime" else "bantam")


@pytest.mark.parametrize("runtime", ["bantam", "onnxruntime"])
def test_pairs_are_answered_in_the_order_of_the_labels(pairs: Artefact, runtime: str) -> None:
    asked: list[Text] = [(str(one), str(other)) for one in SOME for other in SOME]
    logits, words, truncated = oracle(pairs, asked)
    found = Session(pairs, runtime=runtime).predict(asked, raw_scores=True)
    np.testing.assert_allclose(found.scores, logits, rtol=1e-5, atol=2e-5)
    assert found.truncated == truncated.tolist() and found.tokens == words.sum()
    assert len({tuple(row) for row in found.scores.round(3).tolist()}) > 40


@pytest.mark.parametrize("runtime", ["bantam", "onnxruntime"])
def test_a_text_over_the_limit_is_refused_where_asked(single: Artefact, runtime: str) -> None:
    session = Session(single, runtime=runtime)
    exact = " ".join(["good"] * 12)
    session.logits([exact], truncate=False)
    with pytest.raises(TooLong, match="at most 12 words, but text 1 has more"):
        session.logits(["good", exact + " !"], truncate=False)


@pytest.mark.parametrize("runtime", ["bantam", "onnxruntime"])
@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["good", "half \udc00"], "text 1 holds half of a surrogate pair"),
        (["good", ("a", "b")], "text 1 must be a single string"),
        (["good", 5], "text 1 must be a string"),
    ],
)
def test_what_is_no_text_is_an_input_error(single: Artefact, runtime: str, texts: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Session(single, runtime=runtime).predict(texts)


def test_a_pair_model_wants_pairs(pairs: Artefact) -> None:
    with pytest.raises(InputError, match="text 0 must be a pair of strings"):
        Session(pairs, runtime="bantam").predict(["good"])


def test_runtimes_that_would_be_wrong_are_refused(single: Artefact) -> None:
    for runtime in ("openvino", "openvino-sparse"):
        with pytest.raises(BackendError, match="keys have 64; use 'bantam' or 'onnxruntime'"):
            Session(single, runtime=runtime)
    with pytest.raises(BackendError, match="runs on the CPU, got device 'cuda'"):
        Session(single, runtime="bantam", device="cuda")


def test_threads_share_many_texts(single: Artefact) -> None:
    encoder = NGrams(single.root / "ngrams.safetensors", max_length=12)
    many = [str(text) for text in SOME] * 120
    alone, shared = (Engine(encoder.answering, threads).texts(many) for threads in (1, 3))
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_it_answers_over_http(single: Artefact, runtime: str) -> None:
    app = create_app(Settings(artefact=str(single.root), runtime=runtime))
    app.warm_up()
    texts = ["The movie was good, really good!", "a dull film"]
    rows = softmax(oracle(single, texts)[0])
    status, body = asyncio.run(post(app, {"inputs": [[text] for text in texts], "truncate": True}))
    assert status == 200
    for answer, row in zip(body, rows, strict=True):
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in answer} == {
            "NEG": row[0],
            "POS": row[1],
        }
    status, body = asyncio.run(post(app, {"inputs": LONG}))
    assert (status, body["error_type"]) == (422, "Validation") and "at most 12 words" in body["error"]
    status, body = asyncio.run(post(app, {"inputs": " "}))
    assert (status, body["error_type"]) == (400, "Empty")


async def post(app: Any, content: Any) -> tuple[int, Any]:
    body, sent = json.dumps(content).encode(), []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    await app({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def bantam(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_line_inspects_and_predicts(single: Artefact, tmp_path: Path) -> None:
    found = json.loads(bantam("inspect", str(single.root), "--json").splitlines()[-1])
    assert found["here"]["runtime"] == "bantam" and "64" in found["here"]["declined"]["openvino"]
    assert found["models"]["int8"]["declined"] is None
    assert found["tokenizer"].split(":")[0] in ("bantam", "numpy")
    assert "ngram, at most 12 words" in bantam("inspect", str(single.root))
    source, target = tmp_path / "texts.txt", tmp_path / "answers.jsonl"
    texts = [str(text) for text in SOME if str(text).strip("\0 ")]
    source.write_text("\n".join(texts) + "\n", encoding="utf-8")
    bantam("predict", str(single.root), "--input", str(source), "--output", str(target))
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    logits, _, truncated = oracle(single, texts)
    assert [one["label"] for one in answers] == [("NEG", "POS")[at] for at in logits.argmax(1)]
    assert [one["truncated"] for one in answers] == truncated.tolist() and len(answers) == len(SOME) - 2


def test_the_benchmark_measures_it(single: Artefact) -> None:
    chosen = plan._session_specs(single, "cpu", with_openvino_fp32=False)
    assert [runtime for runtime, _, _ in chosen] == ["bantam", "onnxruntime"]
    texts = [str(text) for text in SOME]
    specs = [Spec("toy", str(single.root), runtime, precision, "cpu", 1, key) for runtime, precision, key in chosen]
    for spec in specs:
        target = open_target(spec, texts)
        assert isinstance(target, Served)
        target.tokenise(texts)
        np.testing.assert_allclose(target.logits(texts), oracle(single, texts)[0], rtol=1e-5, atol=1e-5)
    own, both = (size_bytes(spec, single) for spec in specs)
    files = single.manifest.files
    assert own == files["ngrams.safetensors"].size
    assert both > own + files["onnx/model_quantized.onnx"].size


def test_without_the_library_numpy_answers_and_says_so(single: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.engine.network import Declined

    def refuse(*_: Any, **__: Any) -> None:
        raise Declined("nobody built it")

    expected = Session(single, runtime="bantam").logits(SOME)
    monkeypatch.setattr("serve.ngram.runtime.Native", refuse)
    session = Session(single, runtime="bantam")
    assert session.pieces.tokenizer == "numpy: nobody built it"
    np.testing.assert_array_equal(session.logits(SOME), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.model_copy(update={"labels": ("a", "b", "c")}),
        lambda made: made.model_copy(update={"inputs": 2, "columns": ("left", "right")}),
    ],
)
def test_a_manifest_of_another_question_is_refused(
    single: Artefact, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    manifest = single.manifest.model_copy(update={"task": change(single.manifest.task), "files": {}})
    with write(tmp_path / "other") as staging:
        for name in single.manifest.files:
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes((single.root / name).read_bytes())
        seal(staging, manifest)
    with pytest.raises(ArtefactError, match="but the manifest says"):
        Session(tmp_path / "other")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "ngram", "max_length": 0}, "1 to 65536 words, got 0"),
        ({"kind": "ngram", "max_length": 65_537}, "1 to 65536 words, got 65537"),
        ({"kind": "ngram", "max_length": 9, "pad_id": 1}, "neither inputs nor pad_id"),
        ({"kind": "ngram", "max_length": 9, "inputs": ("words",)}, "neither inputs nor pad_id"),
        ({"kind": "wordpiece", "max_length": 9}, "inputs are empty"),
        ({"kind": "wordpiece", "max_length": 2, "inputs": ("input_ids",)}, "3 tokens or more, got 2"),
    ],
)
def test_an_encoder_has_what_its_kind_needs(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Encoder(**fields)
