"""The engine against onnxruntime on the same INT8 file: families, both kinds of ranges, sparsity, shrunk widths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.widths import Keep, shrink
from serve.engine import runtime
from serve.engine.library import paths
from serve.engine.network import Declined
from serve.engine.reading import network
from serve.errors import BackendError
from tests.serve.engine.files import LENGTH, VOCABULARY, feed
from tests.serve.engine.networks import compiled

Making = Callable[..., Path]


def apart(path: Path, code: str | None = None) -> float:
    """Root mean square of differences over 60 texts of every length, against the spread of onnxruntime's answers."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = tuple(one.name for one in session.get_inputs())
    rng = np.random.default_rng(7)
    ids = [rng.integers(0, VOCABULARY, 1 + n % LENGTH) for n in range(60)]
    types = [np.sort(rng.integers(0, 2 if "token_type_ids" in inputs else 1, len(row))) for row in ids]
    theirs = np.stack(
        [session.run(None, feed(row, inputs, kinds))[0][0] for row, kinds in zip(ids, types, strict=True)]
    )
    engine = runtime.opened(path, code_path=code)
    ours = engine.run(ids, types if "token_type_ids" in inputs else None)
    return float(np.sqrt(np.mean((ours - theirs) ** 2)) / theirs.std(0).mean())


@pytest.mark.parametrize("way", ["dynamic", "static"])
@pytest.mark.parametrize("family", ["bert", "camembert", "distilbert", "roberta", "xlm-roberta"])
def test_families_answer_as_onnxruntime_does(making: Making, family: str, way: str) -> None:
    assert apart(making(family, way)) < 0.1


def test_every_path_answers_as_onnxruntime_does(making: Making) -> None:
    path = making("bert", "static")
    for code, runs in paths().items():
        if runs:
            assert apart(path, code) < 0.1, code


def no_heads(model: Any) -> None:
    shrink(model, [Keep((), tuple(range(50))), Keep((1, 3), ())])


def narrow(model: Any) -> None:
    shrink(model, [Keep((0, 2, 3), tuple(range(0, 128, 3))), Keep((1,), (5, 7))])


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("change", [no_heads, narrow])
def test_shrunk_networks_answer_as_onnxruntime_does(making: Making, family: str, change: Callable[[Any], None]) -> None:
    assert apart(making(family, "static", change)) < 0.1


def pruned(height: int, across: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        torch.manual_seed(0)
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and ".layer." in name:
                kept = torch.rand(layer.out_features // height, layer.in_features // across) > 0.8
                layer.weight.data *= torch.kron(kept.float(), torch.ones(height, across))

    return change


@pytest.mark.parametrize("block", [(16, 4), (4, 1), (4, 4)])
@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_pruned_networks_answer_as_onnxruntime_does(making: Making, block: tuple[int, int], way: str) -> None:
    path = making("bert", way, pruned(*block))
    assert apart(path) < 0.1
    layer = network(path, path.parents[1] / "config.json").layers[0]
    assert layer.up and (layer.up.weight == 0).mean() > 0.7
    engine = compiled(network(path, path.parents[1] / "config.json"))
    x = np.zeros((3, 64), np.uint8)
    assert engine.product(0, 2, x, 128, format="{}x{}".format(*block)) is not None


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(making: Making, activation: str) -> None:
    assert apart(making("bert", "static", hidden_act=activation)) < 0.1


def test_padding_inside_a_roberta_text_takes_no_position(making: Making) -> None:
    import onnxruntime as ort

    path = making("roberta", "static")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    row = np.array([0, 9, 1, 1, 8, 7, 2])  # 1 is the padding id, which a text may spell out
    expected = session.run(None, feed(row, ("input_ids", "attention_mask")))[0][0]
    np.testing.assert_allclose(runtime.opened(path).run([row])[0], expected, atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "options", "complaint"),
    [
        ("mpnet", {}, "not 'mpnet'"),
        ("electra", {"embedding_size": 32}, "embeddings are 32 wide"),
        ("bert", {"hidden_act": "silu"}, "activation 'silu' is not one of"),
    ],
)
def test_what_it_does_not_know_it_declines(
    making: Making, family: str, options: dict[str, Any], complaint: str
) -> None:
    path = making(family, "dynamic", **options)
    assert complaint in str(runtime.why_not(path))
    with pytest.raises(BackendError, match="runtime 'bantam' does not run model_quantized.onnx"):
        runtime.bantam(path, device="cpu", threads=1)


def test_an_fp32_file_is_declined(making: Making) -> None:
    path = making("bert", "dynamic").with_name("model.onnx")
    assert runtime.why_not(path) == "its weights are float32, not int8"


def test_another_size_of_heads_is_declined(making: Making) -> None:
    """Twice as many heads of half the size are the same matrices, and another network."""
    path = making("bert", "static")
    config = path.parents[1] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_attention_heads": 8}))
    assert "config.json tells heads of 8" in str(runtime.why_not(path))
    config.unlink()
    assert "no config.json" in str(runtime.why_not(path))


def test_the_model_file_is_made_once_and_mended(
    making: Making, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    path = making("bert", "dynamic")
    row = [np.arange(5)]
    first = runtime.opened(path).run(row)
    (made,) = (tmp_path / "cache" / "engine").iterdir()
    stamp, content = made.stat().st_mtime_ns, made.read_bytes()
    np.testing.assert_array_equal(runtime.opened(path).run(row), first)
    assert made.stat().st_mtime_ns == stamp
    for damaged in (content[:-1], content[:100], b"", content[:5000] + b"x" + content[5001:]):
        made.write_bytes(damaged)
        np.testing.assert_array_equal(runtime.opened(path).run(row), first)
        assert made.read_bytes() == content
    monkeypatch.setenv("BANTAM_CACHE", "/proc/nowhere")
    np.testing.assert_array_equal(runtime.opened(path).run(row), first)


def test_where_it_was_not_built_it_declines(making: Making, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from serve.engine import library

    path = making("bert", "dynamic")
    monkeypatch.setattr(library, "choose", lambda wanted=None: library.library(tmp_path / "nothing.so"))
    monkeypatch.setattr(library.Compiled, "__init__", lambda *_, **__: library.library(tmp_path / "nothing.so"))
    with pytest.raises(Declined, match="it was not built"):
        runtime.opened(path)


@pytest.mark.slow
def test_a_hundred_thousand_texts_have_the_labels_of_onnxruntime(making: Making) -> None:
    """Paths may differ where a score lies on the border of two labels, and onnxruntime where roundings differ."""
    import onnxruntime as ort

    path = making("bert", "static")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng, batch = np.random.default_rng(11), 250
    reference: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    for at in range(400):  # texts of one length need no padding, which static ranges would allow but slow down
        some = rng.integers(0, VOCABULARY, (batch, 1 + at % LENGTH))
        feeds = {"input_ids": some, "attention_mask": np.ones_like(some), "token_type_ids": np.zeros_like(some)}
        reference.append(session.run(None, feeds)[0])
        ids += list(some)
    theirs = np.concatenate(reference)
    assert len(ids) == len(theirs) == 100_000
    order = rng.permutation(len(ids))  # short and long ones together
    best = runtime.opened(path)
    first = best.run([ids[at] for at in order])[np.argsort(order)]
    np.testing.assert_array_equal(best.run(ids), first)
    assert (first.argmax(1) == theirs.argmax(1)).mean() > 0.98
    for code, runs in paths().items():
        if runs:
            ours = runtime.opened(path, code_path=code).run(ids)
            assert (ours.argmax(1) == first.argmax(1)).mean() > 0.99, code
            assert np.abs(ours - first).mean() < 0.02 * first.std(), code
