"""The same integers from every path, format and number of rows: int64 sums by numpy are the measure."""

import numpy as np
import pytest

from serve.engine import file
from serve.engine.library import FORMATS, choose, paths
from serve.engine.network import Declined
from tests.serve.engine.networks import PATHS, compiled, network

ROWS = (1, 2, 5, 6, 7, 12, 13, 16, 17, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64)
QKV, OUT, UP, DOWN = range(4)
SHAPES = [(32, 16, 2, 48), (48, 16, 1, 112), (400, 32, 12, 208)]  # width, head size, heads, neurons


def possible(path: str) -> str:
    if not paths().get(path):
        pytest.skip(f"this processor has no path {path}")
    return path


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sparse", ["", "16x4@0.8", "4x1@0.7", "4x4@0.8", "1x1@0.5", "16x4@1.0"])
def test_products_are_those_of_whole_numbers(path: str, sparse: str) -> None:
    rng, seen = np.random.default_rng(5), set()
    for width, size, heads, neurons in SHAPES:
        made = network(width=width, heads=(heads,), size=size, neurons=(neurons,), sparse=sparse)
        engine, layer = compiled(made, possible(path)), made.layers[0]
        assert layer.query and layer.key and layer.value and layer.up
        qkv = np.concatenate([layer.query.weight, layer.key.weight, layer.value.weight])
        for which, weight in ((QKV, qkv), (OUT, layer.out.weight), (UP, layer.up.weight), (DOWN, layer.down.weight)):
            for rows in ROWS:
                x = rng.integers(0, 256, (rows, weight.shape[1]), dtype=np.uint8)
                for name in FORMATS:
                    found = engine.product(0, which, x, len(weight), format=name)
                    if found is not None:
                        seen.add(name)
                        np.testing.assert_array_equal(found, x.astype(np.int64) @ weight.T.astype(np.int64))
    block = sparse.split("@")[0]
    assert {"best", "dense"} <= seen and (block in seen or block in ("", "1x1"))


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_sums_do_not_saturate(path: str) -> None:
    """255 * -128 four times in a row is what vpmaddubsw, and the saturating dot products, would cut."""
    made = network(width=512, heads=(1,), neurons=(1024,), sparse="16x4@0.3")
    layer = made.layers[0]
    assert layer.up
    for weight in (layer.up.weight, layer.down.weight):
        weight[...] = np.where(weight != 0, np.where(np.arange(len(weight))[:, None] % 2, 127, -128), 0)
    engine = compiled(made, possible(path))
    for which, weight in ((UP, layer.up.weight), (DOWN, layer.down.weight)):
        x = np.full((30, weight.shape[1]), 255, np.uint8)
        for name in FORMATS:
            found = engine.product(0, which, x, len(weight), format=name)
            assert found is None or (found == x.astype(np.int64) @ weight.T.astype(np.int64)).all(), name


def test_a_pattern_is_stored_where_it_leaves_enough_out() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 100, (64, 64)).astype(np.int8)
    assert [len(part) for part in file._sparse(weight, (16, 4))] == [1]
    start, order, at, values = file.squares(weight, 16)
    assert (start[-1], values.size) == (64 // 16 * 64 // 4, weight.size)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and at.max() == 15


def test_columns_of_a_strip_are_filled_up_with_zeros() -> None:
    weight = np.zeros((8, 12), np.int8)
    weight[1, [2, 3, 5, 7, 11]] = 1
    start, _, at, values = file.columns(weight)
    assert start.tolist() == [0, 2, 2]
    assert at.tolist() == [[2, 3, 5, 7], [11, 0, 0, 0]]
    assert values.sum() == 5 and values[1, 1].tolist() == [1, 0, 0, 0]


def test_a_path_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose() == next(name for name, runs in paths().items() if runs)
    monkeypatch.setenv("BANTAM_ENGINE_PATH", "plain")
    assert choose() == "plain" == compiled(network()).path
    monkeypatch.setenv("BANTAM_ENGINE_PATH", "neon")
    with pytest.raises(Declined, match="no path 'neon'; it has .*plain"):
        choose()
