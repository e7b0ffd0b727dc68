"""Heads other than a text's classifier, against onnxruntime on the same INT8 file: labels of tokens, embeddings, the
encoder's last layer."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serve.engine import runtime
from serve.engine.library import paths
from serve.engine.network import Network
from serve.engine.reading import network
from tests.serve.engine.files import LENGTH, VOCABULARY, feed, make_headed

Making = Callable[..., Path]
FAMILIES = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]
READS = [("mean", False), ("mean", True), ("first", False), ("first", True), ("all", False)]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Making:
    """`make_headed`, which makes each file once."""
    return functools.cache(lambda *options: make_headed(tmp_path_factory.mktemp("headed"), *options))


def apart(path: Path, code: str | None = None, texts: int = 60) -> float:
    """Root mean square of differences over texts of every length, against the spread of onnxruntime's answers."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = tuple(one.name for one in session.get_inputs())
    rng = np.random.default_rng(7)
    ids = [rng.integers(5, VOCABULARY, 1 + n % LENGTH) for n in range(texts)]
    types = [np.sort(rng.integers(0, 2 if "token_type_ids" in inputs else 1, len(row))) for row in ids]
    answers = [session.run(None, feed(row, inputs, kinds))[0] for row, kinds in zip(ids, types, strict=True)]
    theirs = np.concatenate([one[0] if one.ndim == 3 else one for one in answers])
    ours = runtime.opened(path, code_path=code).run(ids, types if "token_type_ids" in inputs else None)
    assert ours.shape == theirs.shape
    return float(np.sqrt(np.mean((ours - theirs) ** 2)) / theirs.std(0).mean())


@pytest.mark.parametrize(("family", "way"), [("bert", "dynamic"), *((family, "static") for family in FAMILIES)])
def test_labels_of_tokens_are_those_of_onnxruntime(making: Making, family: str, way: str) -> None:
    assert apart(making(family, way, "tokens")) < 0.1


@pytest.mark.parametrize(
    ("way", "reads", "unit"),
    [("dynamic", "mean", True), ("dynamic", "all", False), *(("static", *one) for one in READS)],
)
def test_embeddings_are_those_of_onnxruntime(making: Making, way: str, reads: str, unit: bool) -> None:
    path = making("bert", way, "none", reads, unit)
    assert apart(path) < 0.1
    found = network(path, path.parents[1] / "config.json")
    assert (found.reads, found.unit, found.head) == (reads, unit, [])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bert"])
def test_every_family_has_embeddings(making: Making, family: str) -> None:
    assert apart(making(family, "static", "none", "mean", True)) < 0.1


@pytest.mark.parametrize(("head", "reads", "unit"), [("tokens", "all", False), ("none", "mean", True)])
def test_every_path_answers_as_onnxruntime_does(making: Making, head: str, reads: str, unit: bool) -> None:
    path, ran = making("bert", "static", head, reads, unit), 0
    for code, runs in paths().items():
        if runs:
            assert apart(path, code, texts=LENGTH) < 0.1, code
            ran += 1
    assert ran > 0


@pytest.mark.parametrize(("head", "reads", "unit"), [("tokens", "all", False), ("none", "mean", True)])
def test_padded_batches_answer_as_onnxruntimes_real_tokens(making: Making, head: str, reads: str, unit: bool) -> None:
    import onnxruntime as ort

    path = making("distilbert", "static", head, reads, unit)
    rng, lengths = np.random.default_rng(3), np.array([3, LENGTH, 1, 11])
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": rng.integers(5, VOCABULARY, mask.shape) * mask, "attention_mask": mask}
    theirs = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    ours = runtime.bantam(path, device="cpu", threads=1)(feeds)
    assert ours.shape == theirs.shape
    if head == "tokens":
        assert not ours[mask == 0].any()
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.1 * theirs.std(0).mean()


@pytest.mark.parametrize(
    ("reads", "unit", "complaint"),
    [
        ("max", False, "neither each token, the first, nor their masked mean: logits is by ReduceMax"),
        ("unmasked mean", False, "logits is by ReduceMean"),
        ("second", False, "logits is by Gather"),
        ("max", True, "is by ReduceMax"),
        ("all", True, "each token 1 long"),
    ],
)
def test_what_is_read_otherwise_is_declined(making: Making, reads: str, unit: bool, complaint: str) -> None:
    assert complaint in str(runtime.why_not(making("bert", "static", "none", reads, unit)))


def the_first(net: Network) -> None:
    net.reads = "first"


def the_mean(net: Network) -> None:
    net.reads = "mean"


def no_unit(net: Network) -> None:
    net.unit = False


def rotated_labels(net: Network) -> None:
    net.head[0].weight = np.roll(net.head[0].weight, 1, 0)


@pytest.mark.parametrize(
    ("options", "change", "complaint"),
    [
        (("none", "mean", True), the_first, "its head does not answer"),
        (("none", "first", True), the_mean, "its head does not answer"),
        (("none", "mean", True), no_unit, "its head does not answer"),
        (("tokens", "all", False), rotated_labels, "its head does not answer"),
        (("tokens", "all", False), the_first, "numbers, onnxruntime"),
    ],
)
def test_a_head_that_was_misread_is_found(
    making: Making,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, str, bool],
    change: Callable[[Network], None],
    complaint: str,
) -> None:
    path = making("bert", "static", *options)
    misread = network(path, path.parents[1] / "config.json")
    change(misread)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "network", lambda *_: misread)
        assert complaint in str(runtime.why_not(path))
    assert runtime.why_not(path) is None
