"""The service, spoken to by the libraries that its callers use, over a real port."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import openai
import pytest
import requests
import tritonclient.http as triton
import uvicorn
from tritonclient.utils import InferenceServerException

from serve.app import create_app
from serve.artefact import load, seal, write
from serve.manifest import Embedding, Task
from serve.settings import Settings
from tests.serve.conftest import MAX_LENGTH, Tiny, export

NAME = "org/Tiny Vectors"  # has to be quoted in a path
TEXTS = ["a great film", "the film was bad !", "good"]
LONG = "good film " * MAX_LENGTH


@pytest.fixture(scope="module", autouse=True)
def collector() -> Iterator[None]:
    """A warm app changes the garbage collector of its process; other tests shall not feel it."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Serving:
    """An app on a port of its own."""

    def __init__(self, artefact: Path) -> None:
        app = create_app(Settings(artefact=str(artefact), runtime="onnxruntime"))
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self.thread.start()
        until = time.monotonic() + 30
        while not (self.server.started and app.ready) and time.monotonic() < until:
            time.sleep(0.01)
        assert app.ready
        self.host = f"127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture(scope="module")
def vectors(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with the mean of the hidden states of `tiny`, of length 1."""
    import torch

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = tiny.torch_model.bert

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            hidden = self.bert(ids, mask, types).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1))

    target = tmp_path_factory.mktemp("vectors") / "artefact"
    task = Task(kind="embedding", inputs=1, metric="spearman", embedding=Embedding(size=16, pooling="mean"))
    with write(target) as staging:
        (staging / "tokenizer.json").write_bytes((tiny.artefact.root / "tokenizer.json").read_bytes())
        export(Mean().eval(), staging / "onnx" / "model.onnx")
        (staging / "README.md").write_text("# vectors\n", encoding="utf-8")
        seal(staging, tiny.manifest.model_copy(update={"name": NAME, "task": task}))
    return load(target).root


@pytest.fixture(scope="module")
def expected(tiny: Tiny) -> np.ndarray:
    """The vectors of TEXTS by transformers alone."""
    import torch

    rows = []
    for text in TEXTS:
        with torch.no_grad():
            hidden = tiny.torch_model.bert(**tiny.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        rows.append((hidden.mean(0) / hidden.mean(0).norm()).numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def embedding(vectors: Path) -> Iterator[Serving]:
    serving = Serving(vectors)
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def classes(tiny: Tiny) -> Iterator[Serving]:
    serving = Serving(tiny.artefact.root)
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def paired(pairs: Tiny) -> Iterator[Serving]:
    serving = Serving(pairs.artefact.root)
    yield serving
    serving.close()


@pytest.fixture
def online() -> Iterator[None]:
    """Lets huggingface_hub speak to this machine: the tests' environment tells it that it is offline."""
    huggingface_hub.configure_http_backend(requests.Session)
    yield
    huggingface_hub.configure_http_backend()


def probabilities(tiny: Tiny, texts: list[Any]) -> np.ndarray:
    powers = np.exp(tiny.torch_logits(texts).astype(np.float64))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_openai_gets_the_vectors_of_the_model(embedding: Serving, expected: np.ndarray, form: Any) -> None:
    asked: dict[str, Any] = {} if form is None else {"encoding_format": form}
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as client:
        got = client.embeddings.create(model=NAME, input=TEXTS, **asked)
        ids = client.embeddings.create(model=NAME, input=[5, 10, 8], **asked)
    if form != "base64":  # which its library leaves to the caller who asked for it
        np.testing.assert_allclose([one.embedding for one in got.data], expected, atol=1e-5)
    assert ([one.index for one in got.data], got.model, len(ids.data)) == ([0, 1, 2], NAME, 1)
    assert got.usage.prompt_tokens == got.usage.total_tokens == 5 + 7 + 3


def test_openai_gets_the_vectors_of_token_ids(embedding: Serving, tiny: Tiny, expected: np.ndarray) -> None:
    ids = [tiny.tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as client:
        got = client.embeddings.create(model=NAME, input=ids)
    np.testing.assert_allclose([one.embedding for one in got.data], expected, atol=1e-5)


def test_openai_finds_the_model_and_understands_errors(embedding: Serving, classes: Serving) -> None:
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [NAME]
        assert client.models.retrieve(NAME).id == NAME
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve("gpt-4")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError) as unknown:
            client.embeddings.create(model="gpt-4", input="a")
        assert (unknown.value.code, unknown.value.type) == ("model_not_found", "invalid_request_error")
        with pytest.raises(openai.BadRequestError) as cut:
            client.embeddings.create(model=NAME, input="a", dimensions=3)
        assert cut.value.param == "dimensions"
        with pytest.raises(openai.BadRequestError) as long:
            client.embeddings.create(model=NAME, input=LONG)
        assert long.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=f"{classes.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="gives no embeddings"),
    ):
        client.embeddings.create(model="Tiny Model", input="a")


def test_hugging_face_gets_vectors_and_similarities(online: None, embedding: Serving, expected: np.ndarray) -> None:
    client = huggingface_hub.InferenceClient()
    got = client.feature_extraction(TEXTS[0], model=f"{embedding.url}/embed", normalize=True, truncate=True)
    np.testing.assert_allclose(got, expected[:1], atol=1e-5)
    similar = client.sentence_similarity(TEXTS[0], TEXTS[1:], model=f"{embedding.url}/similarity")
    np.testing.assert_allclose(similar, expected[1:] @ expected[0], atol=1e-5)


def test_hugging_face_gets_labels_and_errors(online: None, classes: Serving, tiny: Tiny) -> None:
    client = huggingface_hub.InferenceClient()
    # Its type says a list; of text-embeddings-inference's flat answer it takes the first, the likeliest label.
    best: Any = client.text_classification("a great film", model=f"{classes.url}/predict")
    (wanted,) = probabilities(tiny, ["a great film"])
    assert (best.label, best.score) == (("NEG", "POS")[wanted.argmax()], pytest.approx(wanted.max(), abs=2e-4))
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as refused:
        client.feature_extraction("a", model=f"{classes.url}/embed")
    assert refused.value.response.status_code == 424
    assert refused.value.response.json() == {"error": "Model is not an embedding model", "error_type": "Backend"}


def tensor(name: str, texts: list[str], *, binary: bool) -> Any:
    found = triton.InferInput(name, [len(texts)], "BYTES")
    return found.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_gets_scores_and_labels_of_pairs(paired: Serving, pairs: Tiny, binary: bool) -> None:
    lefts, rights = ["the film was good", "bad"], ["it was great", "it is not"]
    inputs = [tensor("text", lefts, binary=binary), tensor("text_pair", rights, binary=binary)]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    with triton.InferenceServerClient(paired.host) as client:
        got = client.infer("Tiny Model", inputs, outputs=outputs, request_id="7", model_version="1")
        whole = client.infer("Tiny Model", inputs, parameters={"raw_scores": True})
    pairs_asked = list(zip(lefts, rights, strict=True))
    wanted = probabilities(pairs, pairs_asked)
    np.testing.assert_allclose(got.as_numpy("scores"), wanted, atol=2e-4)
    labels = [word.decode() if binary else word for word in got.as_numpy("label").tolist()]
    assert labels == [("no", "maybe", "yes")[at] for at in wanted.argmax(1)]
    assert got.get_response()["id"] == "7"
    np.testing.assert_allclose(whole.as_numpy("scores"), pairs.torch_logits(pairs_asked), atol=2e-4)


def test_triton_gets_vectors(embedding: Serving, expected: np.ndarray) -> None:
    with triton.InferenceServerClient(embedding.host) as client:
        got = client.infer(NAME, [tensor("text", TEXTS, binary=True)])
    np.testing.assert_allclose(got.as_numpy("embedding"), expected, atol=1e-5)


def test_triton_finds_the_model_and_understands_errors(classes: Serving) -> None:
    with triton.InferenceServerClient(classes.host) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("Tiny Model") and client.is_model_ready("Tiny Model", "1")
        assert not client.is_model_ready("other") and not client.is_model_ready("Tiny Model", "2")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert client.get_model_metadata("Tiny Model")["inputs"] == [
            {"name": "text", "datatype": "BYTES", "shape": [-1]}
        ]
        for model, inputs, status, word in (
            ("other", ["a"], "404", "no such model"),
            ("Tiny Model", [LONG], "400", "tokens"),
            ("Tiny Model", [""], "400", "cannot be empty"),
        ):
            with pytest.raises(InferenceServerException, match=word) as refused:
                client.infer(model, [tensor("text", inputs, binary=True)])
            assert refused.value.status() == status


def test_tensors_behind_json_are_told_by_their_type(classes: Serving) -> None:
    body = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], '
    body += '"parameters": {"binary_data_output": true}}'
    answer = requests.post(f"{classes.url}/v2/models/Tiny Model/infer", data=body, timeout=30)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) == int(answer.headers["inference-header-content-length"]) + 2 * 4 + 4 + 3


def test_vllms_callers_get_labels(classes: Serving, tiny: Tiny) -> None:
    """They have no library of their own: its examples use requests."""
    answer = requests.post(f"{classes.url}/classify", json={"model": "Tiny Model", "input": TEXTS}, timeout=30)
    assert answer.status_code == 200
    wanted = probabilities(tiny, TEXTS)
    np.testing.assert_allclose([one["probs"] for one in answer.json()["data"]], wanted, atol=2e-4)
    assert [one["label"] for one in answer.json()["data"]] == [("NEG", "POS")[at] for at in wanted.argmax(1)]
    refused = requests.post(f"{classes.url}/classify", json={"model": "other", "input": "a"}, timeout=30)
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "NotFoundError")
