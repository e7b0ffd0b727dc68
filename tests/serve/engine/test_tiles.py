"""Tiles: what they multiply with, and what is done to sums on their way out of them."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serve.engine import build, file
from serve.engine.library import library, paths
from tests.serve.engine.networks import compiled, network

ACTIVATIONS = ("gelu", "gelu_new", "relu")


def possible() -> None:
    if not paths().get("amx"):
        pytest.skip("this processor has no tiles, or the system does not let programs have them")


@pytest.mark.parametrize("sparse", ["", "16x4@0.8", "16x4@0.97"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ranges_in_the_file_take_a_shorter_way_to_the_same_bits(sparse: str, activation: str) -> None:
    """Layers without attention: the rest is the other path's, operation by operation, where it stores its sums."""
    possible()
    rng = np.random.default_rng(3)
    for width, neurons in ((64, 112), (384, 784), (400, 208)):
        made = network(width=width, heads=(0, 0), neurons=(neurons, 48), sparse=sparse, step=0.02, positions=80,
                       activation=activation)  # fmt: skip
        ids = [rng.integers(0, 60, length) for length in (1, 5, 15, 16, 17, 31, 32, 33, 40, 64, 65, 80)]
        tiles, other = (compiled(made, path).run(ids) for path in ("amx", "avx512bf16"))
        assert np.ptp(tiles) > 0.1
        np.testing.assert_array_equal(tiles, other)


@pytest.mark.parametrize("size", [16, 32, 48, 64, 80])
def test_attention_in_tiles_is_that_of_vectors(size: int) -> None:
    possible()
    rng = np.random.default_rng(4)
    made = network(width=96, heads=(3, 2), size=size, positions=200)
    ids = [rng.integers(0, 60, length) for length in (1, 2, 15, 16, 17, 31, 32, 33, 47, 63, 65, 129, 200)]
    tiles, other = (compiled(made, path).run(ids) for path in ("amx", "avx512bf16"))
    assert np.abs(tiles - other).max() < 0.02 < np.ptp(other)


def test_threads_and_children_have_tiles_as_well() -> None:
    possible()
    engine = compiled(network(), "amx")
    ids = [np.arange(20)]
    expected = engine.run(ids)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(engine.run, [ids] * 8):
            np.testing.assert_array_equal(found, expected)
    child = os.fork()
    if child == 0:
        os._exit(0 if (engine.run(ids) == expected).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_blocks_of_a_strip_lie_as_tiles() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 100, (48, 160)).astype(np.int8)
    weight[:16, 20:] = 0  # 5, 17 and 40 groups are left
    weight[16:32, 68:] = 0
    start, order, _, values = file.squares(weight, 16)
    found = file.tiles(start, values)
    assert order.tolist() == [0, 1, 2] and start.tolist() == [0, 5, 22, 62]
    assert found.shape == (1 + 2 + 3, 16, 16, 4)
    np.testing.assert_array_equal(found[0].reshape(16, 64)[:, :20], weight[:16, :20])
    np.testing.assert_array_equal(found[1].reshape(16, 64), weight[16:32, :64])
    np.testing.assert_array_equal(found[2].reshape(16, 64)[:, :4], weight[16:32, 64:68])
    np.testing.assert_array_equal(found[3:].transpose(1, 0, 2, 3).reshape(16, 192)[:, :160], weight[32:])
    assert not found[0, :, 5:].any() and not found[2, :, 1:].any() and not found[5, :, 8:].any()


def test_a_compiler_without_tiles_makes_the_other_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TILES", ["-mno-such-tiles"])
    made = library(build.build(tmp_path / "libbantam.so"))
    assert made.bantam_path(0, ctypes.byref(ctypes.c_uint32())) in (b"avx512bf16", b"plain")
