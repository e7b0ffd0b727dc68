"""An artefact that embeds: vectors as they are, and what the service and the commands say of them."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from rich.console import Console

from serve.artefact import Artefact, load, read_manifest, seal
from serve.errors import BackendError
from serve.info import info
from serve.inspect import report, show
from serve.manifest import Embedding, Task
from serve.predict_file import predict_file
from serve.runtime import Session
from serve.settings import Settings
from tests.serve.conftest import export

TEXTS = ["a great film", "the movie was good .", "bad", "so " * 40, "i saw it and it was not very good"]


class Vectors(torch.nn.Module):
    """What an exported embedder gives."""

    def __init__(self, encoder: Any, pooling: str, normalised: bool) -> None:
        super().__init__()
        self.encoder, self.pooling, self.normalised = encoder, pooling, normalised

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        real = mask[:, :, None].float()
        found = (hidden * real).sum(1) / real.sum(1) if self.pooling == "mean" else hidden[:, 0]
        return torch.nn.functional.normalize(found, dim=-1) if self.normalised else found


@pytest.fixture(scope="module", params=[("mean", True), ("first", False)], ids=str)
def made(request: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artefact, np.ndarray]:
    """The toy encoder as an embedder, and its vectors of TEXTS.

    Oracle: transformers' own encoder and tokenizer, a text at a time, and the pooling written out.
    """
    pooling, normalised = request.param
    encoder, rows = tiny.torch_model.bert, []
    for text in TEXTS:
        inputs = tiny.tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**inputs).last_hidden_state[0].numpy().astype(np.float64)
        row = states.sum(0) / len(states) if pooling == "mean" else states[0]
        rows.append(row / np.sqrt((row**2).sum()) if normalised else row)
    root = Path(shutil.copytree(tiny.artefact.root, tmp_path_factory.mktemp("embeds") / "it"))
    shutil.rmtree(root / "onnx")
    export(Vectors(encoder, pooling, normalised).eval(), root / "onnx" / "model.onnx")
    embedding = Embedding(size=16, pooling=pooling, normalised=normalised)
    task = Task(kind="embedding", inputs=1, metric="cosine_spearman", embedding=embedding)
    (root / "manifest.json").unlink()
    seal(root, tiny.manifest.model_copy(update={"task": task}))
    return load(root), np.stack(rows)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_vectors_are_those_of_the_encoder_pooled_by_hand(made: tuple[Artefact, np.ndarray], runtime: str) -> None:
    artefact, expected = made
    session = Session(artefact, runtime=runtime)
    found = session.predict(TEXTS)
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)
    assert (session.outputs, session.labels) == (16, ())
    assert found.truncated == [False, False, False, True, False]
    np.testing.assert_array_equal(session.predict(TEXTS, raw_scores=True).scores, found.scores)
    assert session.predict([]).scores.shape == (0, 16)


def test_a_file_of_another_size_is_refused(made: tuple[Artefact, np.ndarray], tmp_path: Path) -> None:
    root = Path(shutil.copytree(made[0].root, tmp_path / "copy"))
    manifest = read_manifest(root)
    task = manifest.task.model_copy(update={"embedding": Embedding(size=17, pooling="mean")})
    (root / "manifest.json").unlink()
    seal(root, manifest.model_copy(update={"task": task, "files": {}}))
    with pytest.raises(BackendError, match="the manifest says 17 a text"):
        Session(root).predict(TEXTS)


def test_info_says_how_it_pools_in_the_words_of_its_clients(made: tuple[Artefact, np.ndarray]) -> None:
    told = made[0].manifest.task.embedding
    assert told
    wanted = {"mean": "mean", "first": "cls"}[told.pooling]
    answering: Any = SimpleNamespace(batcher=None)
    assert info(Session(made[0]), answering, Settings())["model_type"] == {"embedding": {"pooling": wanted}}


def test_a_line_of_predictions_holds_the_vector(made: tuple[Artefact, np.ndarray], tmp_path: Path) -> None:
    artefact, expected = made
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    predict_file(artefact, str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl"), progress=False)
    lines = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [sorted(line) for line in lines] == [["embedding", "truncated"]] * len(TEXTS)
    np.testing.assert_allclose([line["embedding"] for line in lines], expected, atol=2e-4)


def test_inspect_tells_of_vectors(made: tuple[Artefact, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.inspect._here", lambda *_: {"runtime": None, "rates": {}, "declined": {}})
    console = Console(record=True, width=200, file=io.StringIO())
    show(report(made[0]), console)
    text = console.export_text()
    told = made[0].manifest.task.embedding
    assert told
    assert "embedding of single texts" in text
    read = "16 numbers, the mean over tokens, made 1 long" if told.normalised else "16 numbers, the first token's\n"
    assert read in "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
