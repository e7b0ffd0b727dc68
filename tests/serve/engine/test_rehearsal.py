"""A network that was understood is taken however deep it is, and one with one thing wrong is not, wherever that is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.engine import runtime
from serve.engine.library import HEAD, paths
from serve.engine.network import Network, Norm
from serve.engine.reading import network
from tests.serve.engine.files import make
from tests.serve.engine.networks import compiled
from tests.serve.engine.networks import network as random_network
from tests.serve.engine.test_parity import apart

Making = Callable[..., Path]
DEEP = 12


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))


def unruly(model: Any) -> None:
    """Weights so large that what is rounded in one layer turns over attention in the next; LayerNorms that differ."""
    for name, weight in model.named_parameters():
        if ".layer." in name and name.endswith("weight") and weight.ndim == 2:
            weight.data *= 3
        if "LayerNorm.weight" in name:
            weight.data.uniform_(0.5, 1.5)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("deep"), "bert", "static", unruly, num_hidden_layers=DEEP)


def test_a_deep_network_is_taken_though_its_logits_drift(deep: Path) -> None:
    assert runtime.why_not(deep) is None
    assert apart(deep) > 0.15, "in this network roundings do not grow: it proves nothing"


def swapped_norms(net: Network) -> None:
    last = net.layers[-1]
    last.first, last.second = last.second, last.first


def rotated_up(net: Network) -> None:
    net.layers[-1].up.weight = np.roll(net.layers[-1].up.weight, 1, 0)  # type: ignore[union-attr]


def rotated_queries(net: Network) -> None:
    net.layers[0].query.weight = np.roll(net.layers[0].query.weight, 1, 0)  # type: ignore[union-attr]


def forgotten_bias(net: Network) -> None:
    net.layers[-1].out.bias = 0 * net.layers[-1].out.bias


def mistaken_scale(net: Network) -> None:
    net.layers[DEEP // 2].down.scale = 1.5 * net.layers[DEEP // 2].down.scale


def mistaken_range(net: Network) -> None:
    net.layers[DEEP // 2].down.step *= 0.4


def mistaken_activation(net: Network) -> None:
    net.activation = "relu"


def mistaken_head(net: Network) -> None:
    net.head_activation = "relu"


def turned_types(net: Network) -> None:
    net.types = net.types[::-1].copy()


def shifted_positions(net: Network) -> None:
    net.positions = np.roll(net.positions, 1, 0)


def narrow_norm(net: Network) -> None:
    net.norm = Norm(net.norm.gain * 0.9, net.norm.bias)


WRONG = {
    swapped_norms: f"its layer {DEEP} does not",
    rotated_up: f"its layer {DEEP} does not",
    rotated_queries: "its layer 1 does not",
    forgotten_bias: f"its layer {DEEP} does not",
    mistaken_scale: f"its layer {DEEP // 2 + 1} does not",
    mistaken_range: f"its layer {DEEP // 2 + 1} does not",
    mistaken_activation: "its layer 1 does not",
    mistaken_head: "its head does not",
    turned_types: "its embeddings do not",
    shifted_positions: "its embeddings do not",
    narrow_norm: "its embeddings do not",
}


def test_one_thing_wrong_in_a_deep_network_is_found_and_named(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, complaint in WRONG.items():
        misread = network(deep, deep.parents[1] / "config.json")
        change(misread)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "network", lambda *_, found=misread: found)
            assert f"{complaint} answer as onnxruntime does" in str(runtime.why_not(deep)), change.__name__
    assert runtime.why_not(deep) is None


@pytest.mark.parametrize("change", [rotated_up, mistaken_activation, turned_types])
def test_one_thing_wrong_is_found_where_ranges_are_measured(
    making: Making, monkeypatch: pytest.MonkeyPatch, change: Callable[[Network], None]
) -> None:
    path = making("bert", "dynamic")
    misread = network(path, path.parents[1] / "config.json")
    change(misread)
    monkeypatch.setattr(runtime, "network", lambda *_: misread)
    assert "answer as onnxruntime does" in str(runtime.why_not(path))


@pytest.mark.parametrize("shape", [{}, {"width": 40, "size": 20}, {"heads": (2, 0, 1), "neurons": (48, 5, 0)}])
def test_parts_one_by_one_give_what_they_give_together(shape: dict[str, Any]) -> None:
    made, ids = random_network(**shape), np.array([5, 4, 59, 0, 7])
    for path, runs in paths().items():
        if runs:
            engine = compiled(made, path)
            x = np.zeros((len(ids), engine.width), np.float32)
            for index in range(len(made.layers) + 1):
                x = engine.part(index, x, ids)
            np.testing.assert_array_equal(engine.part(HEAD, x, ids), engine.run([ids]))


def test_a_part_refuses_what_a_network_refuses() -> None:
    engine = compiled(random_network())
    with pytest.raises(ValueError, match="not in the vocabulary"):
        engine.part(0, np.zeros((1, engine.width), np.float32), np.array([60]))
